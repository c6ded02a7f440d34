//! Moving a VM to another node, with what stands in the way (proxmox.md 7.5).

use serde_json::{Value, json};

use crate::proxmox::{
    call::{Call, Reply},
    drive::Drive,
    error::{ApiError, ApiResult},
    formats,
    sim::Worker,
    world::World,
};

pub(super) fn dispatch(call: &Call, method: &str) -> ApiResult<Reply> {
    if method == "GET" { preconditions(call) } else { migrate(call) }
}

/// Disks of a VM on storages that only its node sees.
fn local_disks(world: &World, drives: &[Drive]) -> Vec<Drive> {
    let local = |drive: &&Drive| {
        drive.volume().and_then(|(name, _)| world.storages.get(name)).is_some_and(|storage| !storage.is_shared())
    };
    drives.iter().filter(local).cloned().collect()
}

fn preconditions(call: &Call) -> ApiResult<Reply> {
    let world = call.sim.world();
    let vm = world.vm(call.node(), call.vmid())?;
    let local: Vec<Value> = local_disks(&world, &vm.config.drives())
        .iter()
        .map(|drive| json!({ "volid": drive.file, "cdrom": u8::from(drive.is_cdrom()), "size": drive.size().unwrap_or_default() }))
        .collect();
    let others: Vec<&String> = world
        .hosts
        .iter()
        .filter(|(name, host)| *name != call.node() && host.is_online())
        .map(|(name, _)| name)
        .collect();
    let mut answer = json!({ "running": u8::from(vm.is_running()), "local_disks": local, "local_resources": [], "mapped-resources": [] });
    if !vm.is_running() {
        answer["allowed_nodes"] = json!(others);
        answer["not_allowed_nodes"] = json!({});
    }
    Ok(answer.into())
}

fn migrate(call: &Call) -> ApiResult<Reply> {
    let vmid = call.vmid();
    let target = call.params.need("target").to_owned();
    let with_disks = call.params.flag("with-local-disks");
    {
        let mut world = call.sim.world();
        world.check_quorum()?;
        if target == call.node() {
            return Err(ApiError::param("target", "target is local node."));
        }
        world.host(&target)?;
        let vm = world.vm(call.node(), vmid)?;
        vm.check_lock().map_err(ApiError::die)?;
        if vm.is_running() && !call.params.flag("online") {
            return Err(ApiError::die("can't migrate running VM without --online"));
        }
        if let Some(resource) = world.ha.get_mut(&vmid).filter(|resource| resource.is_managed()) {
            resource.target = Some(target);
            drop(world);
            let id = vmid.to_string();
            // Only the wish is filed; the HA manager moves the VM in its next cycle.
            let upid = call
                .sim
                .fork(&call.identity, call.node(), ("hamigrate", &id), |worker| async move { worker.work(0.5).await });
            return Ok(upid.into());
        }
    }
    let upid = call.sim.fork(&call.identity, call.node(), ("qmigrate", &vmid.to_string()), move |worker| async move {
        run(&worker, vmid, (&target, with_disks)).await
    });
    Ok(upid.into())
}

/// Moves a VM; the error is that of the task.
pub(crate) async fn run(worker: &Worker, vmid: u32, (target, with_disks): (&str, bool)) -> Result<(), String> {
    let sim = &worker.sim;
    let host = worker.upid.host.clone();
    let _lock = sim.lock_guest(&host, vmid).await?;
    worker.log(format!("starting migration of VM {vmid} to node '{target}'"));
    let local = {
        let mut world = sim.world();
        if !world.hosts.get(target).is_some_and(|host| host.is_online()) {
            return Err(format!("can't connect to node '{target}'"));
        }
        let vm = world.vm_mut(&host, vmid).map_err(|error| error.message)?;
        vm.check_lock()?;
        let drives = vm.config.drives();
        vm.config.set("lock", "migrate");
        local_disks(&world, &drives)
    };
    let result = move_disks(worker, (target, with_disks), &local).await;
    if let Some(vm) = sim.world().vms.get_mut(&vmid) {
        vm.config.remove("lock");
        if result.is_ok() {
            target.clone_into(&mut vm.host);
        }
    }
    sim.changed.notify_waiters();
    result
}

async fn move_disks(worker: &Worker, (target, with_disks): (&str, bool), local: &[Drive]) -> Result<(), String> {
    let blocking = |drive: &&Drive| drive.is_cdrom() && !drive.is_cloudinit();
    if let Some(cdrom) = local.iter().find(blocking) {
        worker.log(format!("can't migrate local cdrom drive '{}'", cdrom.file));
        return Err("Problem found while scanning volumes - can't migrate VM - check log".to_owned());
    }
    if !with_disks && local.iter().any(|drive| !drive.is_cdrom()) {
        worker.log("can't live migrate attached local disks without with-local-disks option");
        return Err("Problem found while scanning volumes - can't migrate VM - check log".to_owned());
    }
    worker.work(3.0).await?;
    let host = worker.upid.host.clone();
    let mut world = worker.sim.world();
    for drive in local {
        let Some((name, volume)) = formats::parse_volume_id(&drive.file) else { continue };
        let storage = world.storage(name, target)?.clone();
        if let Some(found) = world.volumes.remove(&storage, &host, volume) {
            world.volumes.insert(&storage, target, volume, found);
        }
    }
    Ok(())
}
