//! `infrastructure.protect_vm`: Proxmox refuses to destroy the VM until we lift the protection again.

use contractor::action::{Action, DomainEvent, Done, Effects, StepContext, StepError};
use engine::catalog::Undo;
use proxmox::{VmId, form::Params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{machine_event, recall, recall_known};
use crate::{
    Deps, failure, fence,
    inventory::{Machine, MachineRef},
};

pub(super) struct ProtectVm(pub(super) Deps);

/// Which machine.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// The machine.
    machine: MachineRef,
}

/// Which was protected.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct Output {
    /// The machine.
    node_uid: Uuid,
}

impl Action for ProtectVm {
    const NAME: &'static str = "infrastructure.protect_vm";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let machine = recall_known(&cx.store, &input.machine)?;
        let ours = fence::prove_present(&self.0, &machine).await?;
        self.set(&machine, &ours, true).await?;
        let effects = Effects { events: vec![protected(&machine, true)], ..Effects::default() };
        Ok(Done::with_effects(Output { node_uid: input.machine.node_uid }, effects))
    }

    async fn undo(&self, cx: &StepContext, input: &Input, _output: Option<&Output>) -> Result<Effects, StepError> {
        if let Some(machine) = recall(&cx.store, &input.machine)?
            && let Some(ours) = fence::prove(&self.0, &machine).await?
        {
            self.set(&machine, &ours, false).await?;
            return Ok(Effects { events: vec![protected(&machine, false)], ..Effects::default() });
        }
        Ok(Effects::default())
    }
}

fn protected(machine: &Machine, is_protected: bool) -> DomainEvent {
    let mut told = machine_event("vm_protected", machine);
    told.body["facts"]["protection"] = is_protected.into();
    told
}

impl ProtectVm {
    async fn set(&self, machine: &Machine, ours: &fence::Ours, protected: bool) -> Result<(), StepError> {
        if ours.config.is_protected() == protected {
            return Ok(());
        }
        let params = Params::default();
        // It is made without the key.
        let params = if protected { params.with_flag("protection", true) } else { params.with("delete", "protection") };
        let (client, digest) = (&self.0.proxmox, ours.config.digest());
        let set = client.set_vm_config(&ours.host, VmId(machine.vmid), &params, digest).await;
        set.map_err(|error| failure::of(&error))
    }
}
