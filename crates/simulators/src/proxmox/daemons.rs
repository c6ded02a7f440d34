//! What runs on the nodes by itself: the status broadcast every ten seconds, and the HA manager (proxmox.md 7).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{ha, sim::Sim, vm::Vm, world::World};

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
        let is_full = |vm: &Vm, name: &str| {
            let storage = world.storages.get(name).filter(|storage| storage.kind.is_thin());
            storage.is_some_and(|storage| world.volumes.used(storage, &vm.host) >= storage.size)
        };
        let writes = |vm: &Vm| {
            let mut disks = vm.config.drives().into_iter().filter(|drive| !drive.is_cdrom());
            disks.any(|drive| drive.volume().is_some_and(|(name, _)| is_full(vm, name)))
        };
        let running = world.vms.iter().filter(|(_, vm)| vm.qmp_status() == "running");
        running.filter(|(_, vm)| writes(vm)).map(|(vmid, _)| *vmid).collect()
    };
    for vmid in failing {
        sim.set_qmp(vmid, "io-error");
    }
}
