//! Taking a machine away: proof, then stop, then destroy; the proof is the call before each.

use std::time::Duration;

use contractor::action::{StepContext, StepError};
use proxmox::{Upid, VmId, error::Kind, form::Params};

use crate::{
    Deps, failure,
    fence::{self, Found, Ours},
    half_clone::Nonce,
    inventory::Machine,
    look_alike::LookAlike,
};

/// Stopping and destroying take seconds; freeing a large disk may take longer.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// Stops and destroys the machine's VM with its disks. Nothing there is a success.
///
/// With a nonce also the clone that was asked for with it and did not get its hardware.
pub(crate) async fn destroy(
    deps: &Deps,
    cx: &StepContext,
    machine: &Machine,
    nonce: Option<Nonce>,
) -> Result<(), StepError> {
    let vmid = VmId(machine.vmid);
    let failed = |error: proxmox::Error| failure::of(&error);
    let Some(ours) = proven(deps, machine, nonce).await? else { return Ok(()) };
    if ours.config.is_protected() {
        let params = Params::default().with_flag("protection", false);
        let digest = ours.config.digest();
        deps.proxmox.set_vm_config(&ours.host, vmid, &params, digest).await.map_err(failed)?;
    }
    if fence::status(deps, machine, &ours.host).await?.is_running() {
        cx.progress(format!("stopping {}", machine.title()));
        let Some(ours) = proven(deps, machine, nonce).await? else { return Ok(()) };
        let upid = deps.proxmox.stop_vm(&ours.host, vmid).await.map_err(failed)?;
        wait(deps, &upid).await?;
    }
    let Some(ours) = proven(deps, machine, nonce).await? else { return Ok(()) };
    cx.progress(format!("destroying {}", machine.title()));
    // Its task looks again at what the call has looked at, once it has the lock.
    let destroyed = async {
        let upid = deps.proxmox.destroy_vm(&ours.host, vmid).await?;
        deps.proxmox.wait_for_task(&upid, PATIENCE).await
    };
    match destroyed.await {
        Ok(_) => {}
        Err(error) if error.is_missing_vm() => {}
        Err(error) if error.kind == Kind::Running => {
            let reason = format!("{} still runs after it was stopped", machine.title());
            return Err(StepError::wait(reason, Duration::from_secs(2)));
        }
        // It was not when it was looked at first; the next look lifts it.
        Err(error) if error.kind == Kind::Protected => {
            let reason = format!("{} was protected by somebody while it was taken away", machine.title());
            return Err(StepError::wait(reason, Duration::from_secs(2)));
        }
        Err(error) => return Err(failed(error)),
    }
    match fence::look(deps, machine).await.map_err(failed)? {
        Found::Absent => Ok(()),
        // Only what answers to our name counts; another VM may have taken the id at once.
        Found::Foreign { .. } | Found::Hidden => Ok(()),
        _ => Err(StepError::retry(format!("{} is still there after it was destroyed", machine.title()))),
    }
}

async fn proven(deps: &Deps, machine: &Machine, nonce: Option<Nonce>) -> Result<Option<Ours>, StepError> {
    match fence::look_for_clone(deps, machine, nonce).await? {
        Found::Ours(ours) | Found::HalfCloned(ours) => Ok(Some(ours)),
        Found::Absent => Ok(None),
        Found::Unfinished { host, lock } => Err(fence::unfinished(machine, &host, &lock)),
        Found::LookAlike(LookAlike { host, differences, .. }) | Found::Foreign { host, differences } => {
            Err(fence::refuse(deps, machine, &host, &differences).await)
        }
        Found::Hidden => Err(fence::hidden(deps, machine).await),
    }
}

async fn wait(deps: &Deps, upid: &Upid) -> Result<(), StepError> {
    match deps.proxmox.wait_for_task(upid, PATIENCE).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_missing_vm() => Ok(()),
        Err(error) => Err(failure::of(&error)),
    }
}
