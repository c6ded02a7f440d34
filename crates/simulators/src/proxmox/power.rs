//! Switching VMs on and off: the checks before, the guest told, the state after (proxmox.md 2, 6).

use std::{sync::Arc, time::Instant};

use super::{
    boot, disks,
    sim::{Sim, Worker},
    vm::Run,
    world::{World, missing_config, missing_vm},
};
use crate::machine::{Machine, Power, PowerListener, PowerOff};

/// Starts a VM; the caller holds no lock.
pub(crate) async fn start(worker: &Worker, vmid: u32, skip_lock: bool) -> Result<(), String> {
    let sim = &worker.sim;
    let host = &worker.upid.host;
    let _lock = sim.lock_guest(host, vmid).await?;
    prepare(&mut sim.world(), host, vmid, skip_lock)?;
    worker.work(1.5).await?;
    let machine = {
        let mut world = sim.world();
        if !world.host(host).is_ok_and(super::host::Host::is_online) {
            return Err("unexpected status".to_owned());
        }
        check_devices(&world, host, vmid)?;
        let machine = describe(&world, host, vmid)?;
        if let Some(vm) = world.vms.get_mut(&vmid) {
            vm.run = Run::Running { pid: sim.new_pid(), since: Instant::now(), qmp: "running" };
        }
        machine
    };
    sim.machines.power_on(machine);
    sim.changed.notify_waiters();
    Ok(())
}

fn prepare(world: &mut World, host: &str, vmid: u32, skip_lock: bool) -> Result<(), String> {
    if !world.is_quorate() {
        return Err("cluster not ready - no quorum?".to_owned());
    }
    let vm = world.vms.get_mut(&vmid).filter(|vm| vm.host == host).ok_or_else(|| missing_config(host, vmid))?;
    if vm.is_template() {
        return Err("you can't start a vm if it's a template".to_owned());
    }
    if !skip_lock {
        vm.check_lock()?;
    }
    if vm.is_running() {
        return Err(format!("VM {vmid} already running"));
    }
    // Changes that could not be plugged into the running VM take effect now.
    vm.apply_pending();
    Ok(())
}

fn check_devices(world: &World, host: &str, vmid: u32) -> Result<(), String> {
    let Some(vm) = world.vms.get(&vmid) else { return Err(missing_config(host, vmid)) };
    for drive in vm.config.drives() {
        let Some((storage, _)) = drive.volume() else { continue };
        world.storage(storage, host)?;
        if disks::find(world, host, &drive.file).is_none() {
            return Err(format!("volume '{}' does not exist", drive.file));
        }
    }
    let bridges = &world.hosts.get(host).ok_or_else(|| missing_config(host, vmid))?.bridges;
    for net in vm.config.nets().values() {
        if let Some(bridge) = net.bridge().filter(|name| !bridges.iter().any(|bridge| bridge.name == *name)) {
            return Err(format!("bridge '{bridge}' does not exist"));
        }
    }
    Ok(())
}

fn describe(world: &World, host: &str, vmid: u32) -> Result<Machine, String> {
    let vm = world.vms.get(&vmid).ok_or_else(|| missing_config(host, vmid))?;
    Ok(boot::machine(world, vmid, vm))
}

/// Takes the power away; a stopped VM is fine.
pub(crate) async fn stop(worker: &Worker, vmid: u32, skip_lock: bool) -> Result<(), String> {
    let sim = &worker.sim;
    let host = &worker.upid.host;
    let _lock = sim.lock_guest(host, vmid).await?;
    check(&sim.world(), host, vmid, skip_lock)?;
    worker.work(0.5).await?;
    sim.machines.power_off(vmid, PowerOff::Cut);
    mark_stopped(sim, vmid);
    Ok(())
}

fn check(world: &World, host: &str, vmid: u32, skip_lock: bool) -> Result<(), String> {
    let vm = world.vms.get(&vmid).filter(|vm| vm.host == host).ok_or_else(|| missing_vm(host, vmid))?;
    if skip_lock { Ok(()) } else { vm.check_lock() }
}

/// Asks the guest to end and waits for it; true if it did.
pub(crate) async fn request_shutdown(worker: &Worker, vmid: u32, seconds: u64) -> Result<bool, String> {
    let sim = &worker.sim;
    let host = &worker.upid.host;
    let _lock = sim.lock_guest(host, vmid).await?;
    check(&sim.world(), host, vmid, false)?;
    if !sim.world().vms.get(&vmid).is_some_and(super::vm::Vm::is_running) {
        return Ok(true);
    }
    // A guest that stands still does not see the button.
    if sim.world().vms.get(&vmid).is_some_and(|vm| vm.qmp_status() == "running") {
        sim.machines.power_off(vmid, PowerOff::Request);
    }
    // The guest runs at its own pace, so the wait has a floor that no speed factor takes away.
    let patience =
        sim.pace.scale(std::time::Duration::from_secs(seconds)).max(std::time::Duration::from_secs(seconds.min(10)));
    let stopped = |world: &World| !world.vms.get(&vmid).is_some_and(super::vm::Vm::is_running);
    Ok(sim.wait_until(patience, stopped).await)
}

/// Resets a running VM: the guest starts anew, the process stays.
pub(crate) fn reset(sim: &Sim, host: &str, vmid: u32) -> Result<(), String> {
    let machine = describe(&sim.world(), host, vmid)?;
    sim.machines.power_off(vmid, PowerOff::Cut);
    sim.machines.power_on(machine);
    Ok(())
}

pub(crate) fn mark_stopped(sim: &Sim, vmid: u32) {
    if let Some(vm) = sim.world().vms.get_mut(&vmid) {
        vm.run = Run::Stopped;
        vm.apply_pending();
    }
    sim.changed.notify_waiters();
}

/// What the cluster does when a guest changes its own power.
pub(crate) fn listener(sim: &Arc<Sim>) -> PowerListener {
    let sim = Arc::downgrade(sim);
    Arc::new(move |vmid, power| {
        if let (Some(sim), Power::Off) = (sim.upgrade(), power) {
            mark_stopped(&sim, vmid);
        }
    })
}
