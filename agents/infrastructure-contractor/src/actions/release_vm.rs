//! `infrastructure.release_vm`: destroys a machine and gives back its id and address.

use contractor::action::{Action, Change, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use messages::name::NodeName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{cluster, list_machines::destruction, machine_event, machines, node_addresses, recall};
use crate::{Deps, inventory::MachineRef, reservation, teardown};

pub(super) struct ReleaseVm(pub(super) Deps);

/// Which machine.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// The machine.
    machine: MachineRef,
}

/// Which is gone.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct Output {
    /// Its own id.
    node_uid: Uuid,
    /// Its name.
    hostname: NodeName,
}

impl Action for ReleaseVm {
    const NAME: &'static str = "infrastructure.release_vm";
    const UNDO: Undo = Undo::Irreversible;
    type Input = Input;
    type Output = Output;

    fn limits(&self, input: &Input) -> Vec<(String, usize)> {
        vec![(format!("host/{}", input.machine.host), self.0.sections.proxmox.parallel_per_host)]
    }

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let given = &input.machine;
        let output = Output { node_uid: given.node_uid, hostname: given.hostname.clone() };
        let Some(machine) = recall(&cx.store, given)? else { return Ok(Done::new(output)) };
        // It is no node any more, even if it cannot be destroyed; and nobody else may get its address before.
        if let Some(cluster) = cluster(&cx.store, &machine.cluster)? {
            let nodes = || Ok(node_addresses(&machines(&cx.store, &machine.cluster)?));
            self.0.monitoring.leave(&cluster.value, &[machine.ip], nodes)?;
        }
        teardown::destroy(&self.0, cx, &machine, None).await?;
        let inventory = reservation::releases(&machine);
        let events = vec![machine_event("vm_released", &machine)];
        Ok(Done::with_effects(output, Effects { inventory, events, ..Effects::default() }))
    }

    async fn preview(&self, cx: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let Ok(input) = Input::deserialize(input) else { return Ok(Vec::new()) };
        Ok(recall(&cx.store, &input.machine)?.iter().map(destruction).collect())
    }
}
