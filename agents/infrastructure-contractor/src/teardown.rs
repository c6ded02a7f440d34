//! Taking a machine away: proof, then stop, then destroy; the proof is the call before each.

use std::time::Duration;

use contractor::action::{StepContext, StepError};
use proxmox::{Upid, VmId, error::Kind, form::Params};

use crate::{
    Deps, failure,
    fence::{self, Found, Ours},
    inventory::Machine,
    look_alike::LookAlike,
    ownership,
};

/// Stopping and destroying take seconds; freeing a large disk may take longer.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// What may be destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consent {
    /// Only a VM whose ownership is proven in every part.
    OnlyProven,
    /// Also a clone that we asked for and did not finish: its description is ours, its hardware not yet.
    HalfClonedToo,
}

/// Stops and destroys the machine's VM with its disks. Nothing there is a success.
pub(crate) async fn destroy(
    deps: &Deps,
    cx: &StepContext,
    machine: &Machine,
    consent: Consent,
) -> Result<(), StepError> {
    let vmid = VmId(machine.vmid);
    let failed = |error: proxmox::Error| failure::of(&error);
    let Some(ours) = proven(deps, machine, consent).await? else { return Ok(()) };
    if ours.config.is_protected() {
        let params = Params::default().with_flag("protection", false);
        let digest = ours.config.digest();
        deps.proxmox.set_vm_config(&ours.host, vmid, &params, digest).await.map_err(failed)?;
    }
    if fence::status(deps, machine, &ours.host).await?.is_running() {
        cx.progress(format!("stopping {}", machine.title()));
        let Some(ours) = proven(deps, machine, consent).await? else { return Ok(()) };
        let upid = deps.proxmox.stop_vm(&ours.host, vmid).await.map_err(failed)?;
        wait(deps, &upid).await?;
    }
    let Some(ours) = proven(deps, machine, consent).await? else { return Ok(()) };
    cx.progress(format!("destroying {}", machine.title()));
    match deps.proxmox.destroy_vm(&ours.host, vmid).await {
        Ok(upid) => wait(deps, &upid).await?,
        Err(error) if error.is_missing_vm() => {}
        Err(error) if error.kind == Kind::Running => {
            let reason = format!("{} still runs after it was stopped", machine.title());
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

async fn proven(deps: &Deps, machine: &Machine, consent: Consent) -> Result<Option<Ours>, StepError> {
    let found = fence::look(deps, machine).await.map_err(|error| failure::of(&error))?;
    match found {
        Found::Ours(ours) => Ok(Some(ours)),
        Found::Absent => Ok(None),
        Found::HalfCloned(ours) if consent == Consent::HalfClonedToo => Ok(Some(ours)),
        Found::HalfCloned(ours) => {
            let differences = ownership::differences(machine, VmId(machine.vmid), &ours.config);
            Err(fence::refuse(deps, machine, &ours.host, &differences).await)
        }
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
