//! What runs on the nodes by itself: the status broadcast every ten seconds, and the HA manager (proxmox.md 7).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{access::Identity, power, sim::Sim, vm::Run, world::World};

/// How often pvestatd reports.
const BROADCAST: Duration = Duration::from_secs(10);
/// From the loss of a node until its guests start elsewhere.
const FENCING: Duration = Duration::from_secs(120);

/// Runs until the simulator shuts down.
pub(crate) async fn run(sim: Arc<Sim>) {
    loop {
        // Simulated time passes here like anywhere else, but never so fast that this becomes a busy loop.
        let pause = sim.pace.scale(BROADCAST).max(Duration::from_millis(50));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = sim.shutdown.cancelled() => return,
        }
        broadcast(&mut sim.world());
        manage(&sim);
    }
}

/// Every node that reports tells the cluster how its guests are.
pub(crate) fn broadcast(world: &mut World) {
    let World { hosts, vms, .. } = world;
    for (vmid, vm) in vms.iter_mut() {
        let reporting = hosts.get(&vm.host).is_some_and(|host| host.is_online() && host.reports);
        if reporting {
            vm.broadcast = Some(vm.report(*vmid));
        }
    }
}

/// Starts and stops what HA resources ask for, and moves guests of fenced nodes that can run elsewhere.
fn manage(sim: &Arc<Sim>) {
    let fencing = sim.pace.scale(FENCING).max(Duration::from_millis(200));
    let (mut starts, mut stops) = (Vec::new(), Vec::new());
    {
        let mut world = sim.world();
        if !world.is_quorate() {
            return;
        }
        let resources: Vec<(u32, String)> =
            world.ha.iter().map(|(vmid, resource)| (*vmid, resource.state.clone())).collect();
        for (vmid, state) in resources {
            let Some(host) = world.vms.get(&vmid).map(|vm| vm.host.clone()) else { continue };
            let online = world.hosts.get(&host).is_some_and(super::host::Host::is_online);
            if !online {
                recover(&mut world, vmid, fencing);
                continue;
            }
            if let Some(resource) = world.ha.get_mut(&vmid) {
                resource.node_lost = None;
            }
            let running = world.vms.get(&vmid).is_some_and(super::vm::Vm::is_running);
            let locked = world.vms.get(&vmid).is_some_and(|vm| vm.config.has("lock"));
            match (state.as_str(), running) {
                ("started", false) if !locked => starts.push((host, vmid)),
                ("stopped" | "disabled", true) if !locked => stops.push((host, vmid)),
                _ => {}
            }
        }
    }
    let root = Identity::user("root@pam");
    for (host, vmid) in starts {
        sim.fork(&root, &host, ("qmstart", &vmid.to_string()), |worker| async move {
            power::start(&worker, vmid, false).await
        });
    }
    for (host, vmid) in stops {
        sim.fork(&root, &host, ("qmshutdown", &vmid.to_string()), |worker| async move {
            if power::request_shutdown(&worker, vmid, 60).await? {
                Ok(())
            } else {
                power::stop(&worker, vmid, false).await
            }
        });
    }
}

/// A fenced node's guest goes to another node when all its disks are shared.
fn recover(world: &mut World, vmid: u32, fencing: Duration) {
    let lost = world.ha.get_mut(&vmid).map(|resource| *resource.node_lost.get_or_insert_with(Instant::now));
    if lost.is_none_or(|since| since.elapsed() < fencing) {
        return;
    }
    let shared = |name: &str| world.storages.get(name).is_some_and(super::storage::Storage::is_shared);
    let movable = world.vms.get(&vmid).is_some_and(|vm| {
        vm.config.drives().iter().filter_map(|drive| Some(drive.volume()?.0.to_owned())).all(|name| shared(&name))
    });
    let target = world.hosts.iter().find(|(_, host)| host.is_online()).map(|(name, _)| name.clone());
    if let (true, Some(target), Some(vm)) = (movable, target, world.vms.get_mut(&vmid)) {
        vm.host = target;
        vm.run = Run::Stopped;
    }
}
