//! Turning a VM into a template (proxmox.md 3.6).

use crate::proxmox::{
    call::{Call, Reply},
    disks,
    error::{ApiError, ApiResult},
    sim::Worker,
    vm::Vm,
};

pub(super) fn convert(call: &Call) -> ApiResult<Reply> {
    let vmid = call.vmid();
    check(call.sim.world().vm(call.node(), vmid)?).map_err(ApiError::die)?;
    let upid =
        call.sim.fork(&call.identity, call.node(), ("qmtemplate", &vmid.to_string()), move |worker| async move {
            run(&worker, vmid).await
        });
    Ok(upid.into())
}

fn check(vm: &Vm) -> Result<(), String> {
    vm.check_lock()?;
    if !vm.snapshots.is_empty() {
        return Err("unable to create template, because VM contains snapshots".to_owned());
    }
    if vm.is_template() {
        return Err("you can't convert a template to a template".to_owned());
    }
    if vm.is_running() {
        return Err("you can't convert a VM to template if VM is running".to_owned());
    }
    Ok(())
}

async fn run(worker: &Worker, vmid: u32) -> Result<(), String> {
    let sim = &worker.sim;
    let host = worker.upid.host.clone();
    let _lock = sim.lock_guest(&host, vmid).await?;
    check(sim.world().vm(&host, vmid).map_err(|error| error.message)?)?;
    worker.work(0.5).await?;
    let mut world = sim.world();
    let vm = world.vm(&host, vmid).map_err(|error| error.message)?;
    let drives: Vec<_> = vm.config.drives().into_iter().filter(|drive| !drive.is_cdrom()).collect();
    let volumes: Vec<String> = drives.iter().map(|drive| drive.file.clone()).collect();
    let renamed = disks::make_base(&mut world, &host, &volumes);
    let vm = world.vm_mut(&host, vmid).map_err(|error| error.message)?;
    vm.config.set("template", "1");
    for mut drive in drives {
        if let Some(base) = renamed.get(&drive.file) {
            drive.file.clone_from(base);
            vm.config.set(&drive.slot, drive.print());
        }
    }
    Ok(())
}
