//! What runs on the nodes by itself: the status broadcast every ten seconds, and the HA manager (proxmox.md 7).

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{ha, sim::Sim, vm::Vm, world::World};
use crate::crowd;

/// How often pvestatd reports.
const BROADCAST: Duration = Duration::from_secs(10);
/// Simulated time passes here like anywhere else, but never so fast that this becomes a busy loop.
const LEAST_BROADCAST: Duration = Duration::from_millis(100);

/// Runs until the simulator shuts down.
pub(crate) async fn run(sim: Arc<Sim>) {
    loop {
        let pause = sim.pace.scale(BROADCAST).max(crowd::spread(LEAST_BROADCAST));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = sim.shutdown.cancelled() => return,
        }
        broadcast(&mut sim.world());
        stop_on_write_errors(&sim);
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

/// A thin storage that is full fails the writes of the guests on it, and QEMU stops them (proxmox.md 6).
fn stop_on_write_errors(sim: &Sim) {
    let failing: Vec<u32> = {
        let world = sim.world();
        let thin = world.storages.values().filter(|storage| storage.kind.is_thin());
        let everywhere = thin.flat_map(|storage| world.hosts.keys().map(move |host| (storage, host.as_str())));
        let full: BTreeSet<(&str, &str)> = everywhere
            .filter(|(storage, host)| world.volumes.used(storage, host) >= storage.size)
            .map(|(storage, host)| (storage.name.as_str(), host))
            .collect();
        if full.is_empty() {
            return;
        }
        let writes = |vm: &Vm| {
            let mut disks = vm.config.drives().into_iter().filter(|drive| !drive.is_cdrom());
            disks.any(|drive| drive.volume().is_some_and(|(name, _)| full.contains(&(name, vm.host.as_str()))))
        };
        let running = world.vms.iter().filter(|(_, vm)| vm.qmp_status() == "running");
        running.filter(|(_, vm)| writes(vm)).map(|(vmid, _)| *vmid).collect()
    };
    for vmid in failing {
        sim.set_qmp(vmid, "io-error");
    }
}
