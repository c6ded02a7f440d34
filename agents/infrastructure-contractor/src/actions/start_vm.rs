//! `infrastructure.start_vm`: switches a proven machine on.

use std::time::Duration;

use contractor::action::{Action, Done, Effects, StepContext, StepError};
use engine::catalog::Undo;
use proxmox::{VmId, error::Kind};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{machine_event, recall, recall_known, record};
use crate::{
    Deps, failure, fence,
    inventory::{MachineRef, VmState},
};

/// Proxmox gives a start 30 s or a second per GiB (proxmox.md 2.3); HA may queue it.
const PATIENCE: Duration = Duration::from_secs(4 * 60);

pub(super) struct StartVm(pub(super) Deps);

/// Which machine.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// The machine, as it was created.
    machine: MachineRef,
}

impl Action for StartVm {
    const NAME: &'static str = "infrastructure.start_vm";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = MachineRef;

    fn limits(&self, input: &Input) -> Vec<(String, usize)> {
        vec![(format!("host/{}", input.machine.host), self.0.sections.proxmox.parallel_per_host)]
    }

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<MachineRef>, StepError> {
        let mut machine = recall_known(&cx.store, &input.machine)?;
        let (client, vmid) = (&self.0.proxmox, VmId(machine.vmid));
        let failed = |error| failure::of(&error);
        let ours = fence::prove_present(&self.0, &machine).await?;
        machine.host = ours.host;
        if !fence::status(&self.0, &machine, &machine.host).await?.is_running() {
            cx.progress(format!("starting {}", machine.title()));
            // A proof is good for the next call only, and that was the look at the status.
            machine.host = fence::prove_present(&self.0, &machine).await?.host;
            let upid = client.start_vm(&machine.host, vmid).await.map_err(failed)?;
            match client.wait_for_task(&upid, PATIENCE).await {
                Ok(_) => {}
                Err(error) if error.kind == Kind::AlreadyRunning => {}
                Err(error) => return Err(failed(error)),
            }
            let now = fence::status(&self.0, &machine, &machine.host).await?;
            if !now.is_running() && now.is_ha_managed() {
                let reason = format!("the HA manager has yet to start {}", machine.title());
                return Err(StepError::wait(reason, Duration::from_secs(2)));
            }
        }
        let mut effects = Effects::default();
        effects.inventory.push(record(&cx.store, &machine, VmState::Started)?);
        effects.events.push(machine_event("vm_started", &machine));
        Ok(Done::with_effects(machine.reference(), effects))
    }

    /// Stops it, if it is there and ours. Destroying stops too; this keeps a rollback in order.
    async fn undo(&self, cx: &StepContext, input: &Input, _output: Option<&MachineRef>) -> Result<Effects, StepError> {
        let client = &self.0.proxmox;
        let failed = |error| failure::of(&error);
        let Some(machine) = recall(&cx.store, &input.machine)? else { return Ok(Effects::default()) };
        let Some(ours) = fence::prove(&self.0, &machine).await? else { return Ok(Effects::default()) };
        let vmid = VmId(machine.vmid);
        if fence::status(&self.0, &machine, &ours.host).await?.is_running()
            && let Some(ours) = fence::prove(&self.0, &machine).await?
        {
            let upid = client.stop_vm(&ours.host, vmid).await.map_err(failed)?;
            client.wait_for_task(&upid, PATIENCE).await.map_err(failed)?;
        }
        Ok(Effects::default())
    }
}
