//! Start, stop, shutdown, reboot, reset, suspend and resume (proxmox.md 2.2 and 6).

use crate::proxmox::{
    call::{Call, Reply},
    error::{ApiError, ApiResult},
    power,
    sim::Worker,
    vm::Vm,
    world::{missing_config, missing_vm},
};

pub(super) fn dispatch(call: &Call, action: &str) -> Option<ApiResult<Reply>> {
    Some(match action {
        "start" => start(call),
        "stop" => stop(call),
        "shutdown" => shutdown(call),
        "reboot" => reboot(call),
        "reset" => reset(call),
        "suspend" => suspend(call),
        "resume" => resume(call),
        _ => return None,
    })
}

fn fork<F>(call: &Call, kind: &str, work: impl FnOnce(Worker) -> F) -> Reply
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    call.sim.fork(&call.identity, call.node(), (kind, &call.vmid().to_string()), work).into()
}

fn check_skip_lock(call: &Call) -> ApiResult<bool> {
    let skip = call.params.flag("skiplock");
    if skip && !call.is_root() {
        return Err(ApiError::param("skiplock", "Only root may use this option."));
    }
    Ok(skip)
}

/// For an HA-managed VM the call only files the wish; the HA manager acts afterwards.
fn ha_request(call: &Call, state: &'static str) -> bool {
    let mut world = call.sim.world();
    match world.ha.get_mut(&call.vmid()).filter(|resource| resource.is_managed()) {
        Some(resource) => {
            resource.request(state);
            true
        }
        None => false,
    }
}

fn start(call: &Call) -> ApiResult<Reply> {
    let skip = check_skip_lock(call)?;
    call.sim.world().check_quorum()?;
    if ha_request(call, "started") {
        return Ok(fork(call, "hastart", |worker| async move { worker.work(0.5).await }));
    }
    let vmid = call.vmid();
    Ok(fork(call, "qmstart", move |worker| async move { power::start(&worker, vmid, skip).await }))
}

fn stop(call: &Call) -> ApiResult<Reply> {
    let skip = check_skip_lock(call)?;
    if ha_request(call, "stopped") {
        return Ok(fork(call, "hastop", |worker| async move { worker.work(0.5).await }));
    }
    let vmid = call.vmid();
    Ok(fork(call, "qmstop", move |worker| async move { power::stop(&worker, vmid, skip).await }))
}

fn shutdown(call: &Call) -> ApiResult<Reply> {
    check_skip_lock(call)?;
    refuse_paused(call)?;
    if ha_request(call, "stopped") {
        return Ok(fork(call, "hastop", |worker| async move { worker.work(0.5).await }));
    }
    let (vmid, force) = (call.vmid(), call.params.flag("forceStop"));
    let seconds = call.params.int("timeout").unwrap_or(60).unsigned_abs();
    Ok(fork(call, "qmshutdown", move |worker| async move {
        if power::request_shutdown(&worker, vmid, seconds).await? {
            return Ok(());
        }
        if force {
            worker.log("VM still running - terminating now with SIGTERM");
            return power::stop(&worker, vmid, false).await;
        }
        Err("VM quit/powerdown failed - got timeout".to_owned())
    }))
}

fn refuse_paused(call: &Call) -> ApiResult<()> {
    match call.sim.world().vms.get(&call.vmid()).map(Vm::qmp_status) {
        Some("paused" | "suspended") => Err(ApiError::die("VM is paused - cannot shutdown")),
        _ => Ok(()),
    }
}

fn reboot(call: &Call) -> ApiResult<Reply> {
    refuse_paused(call)?;
    need_running(call)?;
    let vmid = call.vmid();
    let seconds = call.params.int("timeout").unwrap_or(60).unsigned_abs();
    Ok(fork(call, "qmreboot", move |worker| async move {
        worker.log("Requesting reboot of the VM");
        if !power::request_shutdown(&worker, vmid, seconds).await? {
            return Err("VM quit/powerdown failed - got timeout".to_owned());
        }
        power::start(&worker, vmid, false).await
    }))
}

/// The check that these calls make before they fork.
fn need_running(call: &Call) -> ApiResult<()> {
    let world = call.sim.world();
    let vm = world.vms.get(&call.vmid()).filter(|vm| vm.host == call.node());
    let vm = vm.ok_or_else(|| ApiError::die(missing_vm(call.node(), call.vmid())))?;
    if vm.is_running() { Ok(()) } else { Err(ApiError::die(format!("VM {} not running", call.vmid()))) }
}

fn reset(call: &Call) -> ApiResult<Reply> {
    check_skip_lock(call)?;
    need_running(call)?;
    let vmid = call.vmid();
    Ok(fork(call, "qmreset", move |worker| async move {
        let host = worker.upid.host.clone();
        let _lock = worker.sim.lock_guest(&host, vmid).await?;
        check_lock(&worker, vmid)?;
        worker.work(0.2).await?;
        power::reset(&worker.sim, &host, vmid)
    }))
}

fn suspend(call: &Call) -> ApiResult<Reply> {
    need_running(call)?;
    if call.params.flag("todisk") {
        return Err(ApiError::die("the lab does not suspend to disk"));
    }
    let vmid = call.vmid();
    Ok(fork(call, "qmpause", move |worker| async move { set_state(&worker, vmid, "paused").await }))
}

fn resume(call: &Call) -> ApiResult<Reply> {
    need_running(call)?;
    let vmid = call.vmid();
    Ok(fork(call, "qmresume", move |worker| async move { set_state(&worker, vmid, "running").await }))
}

async fn set_state(worker: &Worker, vmid: u32, state: &'static str) -> Result<(), String> {
    let _lock = worker.sim.lock_guest(&worker.upid.host, vmid).await?;
    check_lock(worker, vmid)?;
    worker.work(0.2).await?;
    worker.sim.set_qmp(vmid, state);
    Ok(())
}

fn check_lock(worker: &Worker, vmid: u32) -> Result<(), String> {
    let world = worker.sim.world();
    world.vms.get(&vmid).ok_or_else(|| missing_config(&worker.upid.host, vmid))?.check_lock()
}
