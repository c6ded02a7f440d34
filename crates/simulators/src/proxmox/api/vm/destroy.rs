//! Destroying a VM: what is checked at once, what in the worker, and what else goes with it (proxmox.md 3.6).

use crate::proxmox::{
    call::{Call, Reply},
    disks,
    error::{ApiError, ApiResult},
    sim::Worker,
    world::World,
};

pub(super) fn destroy(call: &Call) -> ApiResult<Reply> {
    let (host, vmid) = (call.node().to_owned(), call.vmid());
    let (purge, unreferenced) = (call.params.flag("purge"), call.params.flag("destroy-unreferenced-disks"));
    let skip_lock = call.params.flag("skiplock");
    if skip_lock && !call.is_root() {
        return Err(ApiError::param("skiplock", "Only root may use this option."));
    }
    {
        let world = call.sim.world();
        world.check_quorum()?;
        check_protection(&world, &host, vmid).map_err(ApiError::die)?;
        if world.ha.contains_key(&vmid) && !purge {
            return Err(ApiError::die(format!(
                "unable to remove VM {vmid} - used in HA resources and purge parameter not set."
            )));
        }
        early_checks(&world, &host, vmid).map_err(ApiError::die)?;
    }
    let upid = call.sim.fork(&call.identity, &host, ("qmdestroy", &vmid.to_string()), move |worker| async move {
        run(&worker, vmid, Options { purge, unreferenced, skip_lock }).await
    });
    Ok(upid.into())
}

/// What a destroy was asked for.
#[derive(Clone, Copy)]
struct Options {
    purge: bool,
    unreferenced: bool,
    skip_lock: bool,
}

fn check_protection(world: &World, host: &str, vmid: u32) -> Result<(), String> {
    let vm = world.vm(host, vmid).map_err(|error| error.message)?;
    match vm.config.flag("protection") {
        true => Err(format!("can't remove VM {vmid} - protection mode enabled")),
        false => Ok(()),
    }
}

fn early_checks(world: &World, host: &str, vmid: u32) -> Result<(), String> {
    check_protection(world, host, vmid)?;
    if world.vm(host, vmid).map_err(|error| error.message)?.is_running() {
        return Err(format!("VM {vmid} is running - destroy failed"));
    }
    Ok(())
}

async fn run(worker: &Worker, vmid: u32, options: Options) -> Result<(), String> {
    let sim = &worker.sim;
    let host = worker.upid.host.clone();
    let _lock = sim.lock_guest(&host, vmid).await?;
    let volumes = {
        let mut world = sim.world();
        early_checks(&world, &host, vmid)?;
        let vm = world.vm(&host, vmid).map_err(|error| error.message)?;
        if !options.skip_lock && vm.config.get("lock") != Some("destroyed") {
            vm.check_lock()?;
        }
        let mut volumes = vm.config.owned_volumes(vmid);
        if options.unreferenced {
            volumes.extend(unreferenced(&world, &host, vmid, &volumes));
        }
        if let Some(base) = volumes.iter().find(|volume| world.volumes.has_children(volume)) {
            return Err(format!("base volume '{base}' is still in use by linked cloned"));
        }
        // The id stays taken until the very end.
        if let Some(vm) = world.vms.get_mut(&vmid) {
            vm.config.set("lock", "destroyed");
        }
        volumes
    };
    worker.work(0.6).await?;
    disks::free(worker, &host, &volumes).await;
    let mut world = sim.world();
    world.access.entries.remove(&format!("/vms/{vmid}"));
    for pool in world.pools.values_mut() {
        pool.vms.remove(&vmid);
    }
    if options.purge {
        world.ha.remove(&vmid);
    }
    world.vms.remove(&vmid);
    drop(world);
    sim.changed.notify_waiters();
    Ok(())
}

/// Volumes on any storage of the node that carry the id of the VM and are not in its configuration.
fn unreferenced(world: &World, host: &str, vmid: u32, known: &[String]) -> Vec<String> {
    let here = |place: &str| place.is_empty() || place == host;
    let mine = world.volumes.all().filter(|(place, _, volume)| here(place) && volume.vmid == Some(vmid));
    mine.map(|(_, id, _)| id.to_owned()).filter(|id| !known.contains(id)).collect()
}
