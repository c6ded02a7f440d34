//! Growing disks and moving them between storages (proxmox.md 3.6).

use crate::proxmox::{
    call::{Call, Reply},
    disks::{self, Copy, Made, Place},
    error::{ApiError, ApiResult},
    formats,
    sim::Worker,
};

pub(super) fn resize(call: &Call) -> ApiResult<Reply> {
    let (slot, wanted) = (call.params.need("disk").to_owned(), call.params.need("size").to_owned());
    let vmid = call.vmid();
    {
        let world = call.sim.world();
        world.check_quorum()?;
        let vm = world.vm(call.node(), vmid)?;
        if call.params.get("digest").is_some_and(|digest| digest != vm.digest()) {
            return Err(ApiError::die("checksum mismatch (file change by other user?)"));
        }
        vm.check_lock().map_err(ApiError::die)?;
        let drive = vm.config.drive(&slot).ok_or_else(|| ApiError::die(format!("disk '{slot}' does not exist")))?;
        if drive.is_cdrom() {
            return Err(ApiError::die("you can't resize a cdrom"));
        }
        let (storage, _) =
            drive.volume().ok_or_else(|| ApiError::die(format!("disk '{slot}' has no associated volume")))?;
        world.check(&call.identity, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    }
    let upid = call.sim.fork(&call.identity, call.node(), ("resize", &vmid.to_string()), move |worker| async move {
        run(&worker, vmid, (&slot, &wanted)).await
    });
    Ok(upid.into())
}

async fn run(worker: &Worker, vmid: u32, (slot, wanted): (&str, &str)) -> Result<(), String> {
    let sim = &worker.sim;
    let host = worker.upid.host.clone();
    let _lock = sim.lock_guest(&host, vmid).await?;
    worker.work(0.5).await?;
    let mut world = sim.world();
    let vm = world.vm(&host, vmid).map_err(|error| error.message)?;
    vm.check_lock()?;
    let mut drive = vm.config.drive(slot).ok_or_else(|| format!("disk '{slot}' does not exist"))?;
    let (name, volume) =
        drive.volume().map(|(a, b)| (a.to_owned(), b.to_owned())).ok_or("disk has no associated volume")?;
    let storage = world.storage(&name, &host)?.clone();
    let now = world.volumes.get(&storage, &host, &volume).map(|volume| volume.size);
    let now = now.ok_or_else(|| format!("volume '{}' does not exist", drive.file))?;
    let target = match wanted.strip_prefix('+') {
        Some(more) => now + formats::parse_size(more).unwrap_or_default(),
        None => formats::parse_size(wanted).unwrap_or_default(),
    };
    if target < now {
        return Err("shrinking disks is not supported".to_owned());
    }
    let used = world.volumes.used(&storage, &host);
    if let Some(refused) = crate::proxmox::storage::refuse_space(&storage, used, target - now) {
        return Err(refused);
    }
    if let Some(volume) = world.volumes.get_mut(&storage, &host, &volume) {
        volume.size = target;
    }
    drive.set("size", &formats::format_size(target));
    if let Some(vm) = world.vms.get_mut(&vmid) {
        vm.config.set(slot, drive.print());
    }
    Ok(())
}

pub(super) fn move_disk(call: &Call) -> ApiResult<Reply> {
    let vmid = call.vmid();
    let slot = call.params.need("disk").to_owned();
    let Some(target) = call.params.get("storage").map(str::to_owned) else {
        return Err(ApiError::die("the lab moves disks between storages only"));
    };
    let delete = call.params.flag("delete");
    {
        let world = call.sim.world();
        let vm = world.vm(call.node(), vmid)?;
        vm.check_lock().map_err(ApiError::die)?;
        world.check(&call.identity, &format!("/storage/{target}"), &["Datastore.AllocateSpace"])?;
        world.storage(&target, call.node()).map_err(ApiError::die)?;
        vm.config.drive(&slot).ok_or_else(|| ApiError::die(format!("disk '{slot}' does not exist")))?;
    }
    let upid = call.sim.fork(&call.identity, call.node(), ("qmmove", &vmid.to_string()), move |worker| async move {
        run_move(&worker, vmid, (&slot, &target, delete)).await
    });
    Ok(upid.into())
}

async fn run_move(worker: &Worker, vmid: u32, (slot, target, delete): (&str, &str, bool)) -> Result<(), String> {
    let sim = &worker.sim;
    let host = worker.upid.host.clone();
    let _lock = sim.lock_guest(&host, vmid).await?;
    let drive = sim.world().vm(&host, vmid).map_err(|error| error.message)?.config.drive(slot);
    let mut drive = drive.ok_or_else(|| format!("disk '{slot}' does not exist"))?;
    let old = drive.file.clone();
    let mut made = Made::default();
    let how = Copy::Full { storage: Some(target), format: None };
    let copied = disks::clone(worker, Place { host: &host, vmid }, (&host, &old, how), &mut made).await;
    match copied {
        Ok(volume) => drive.file = volume,
        Err(error) => {
            made.undo(worker, &host).await;
            return Err(format!("storage migration failed: {error}"));
        }
    }
    if let Some(vm) = sim.world().vms.get_mut(&vmid) {
        vm.config.set(slot, drive.print());
        if !delete {
            vm.config.add_unused(&old);
        }
    }
    if delete {
        disks::free(worker, &host, &[old]).await;
    }
    Ok(())
}
