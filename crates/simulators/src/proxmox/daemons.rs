//! What runs on the nodes by itself: the status broadcast every ten seconds, and the HA manager (proxmox.md 7).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{ha, sim::Sim, world::World};

/// How often pvestatd reports.
const BROADCAST: Duration = Duration::from_secs(10);

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
        ha::manage(&sim);
    }
}

/// Every node that reports tells the cluster how its guests are.
pub(crate) fn broadcast(world: &mut World) {
    let World { hosts, vms, .. } = world;
    for host in hosts.values_mut().filter(|host| host.is_online() && host.reports) {
        host.broadcast = Some(Instant::now());
    }
    for (vmid, vm) in vms.iter_mut() {
        let reporting = hosts.get(&vm.host).is_some_and(|host| host.is_online() && host.reports);
        if reporting {
            vm.broadcast = Some(vm.report(*vmid));
        }
    }
}
