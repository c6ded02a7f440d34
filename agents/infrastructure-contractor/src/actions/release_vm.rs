//! `infrastructure.release_vm`: destroys a machine and gives back its id and address.

use std::time::Duration;

use contractor::action::{Action, Change, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use messages::name::NodeName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{cluster, list_machines::destruction, machine_event, machines, node_addresses, recall};
use crate::{
    Deps,
    config::Method,
    failure,
    fence::{self, Found},
    inventory::{Machine, MachineRef, Vm, VmState, vm_key},
    own_task::{self, OwnTask},
    reservation, teardown,
};

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
        if !self.was_never_made(cx, &machine).await? {
            teardown::destroy(&self.0, cx, &machine, None).await?;
        }
        let inventory = reservation::releases(&machine);
        let events = vec![machine_event("vm_released", &machine)];
        Ok(Done::with_effects(output, Effects { inventory, events, ..Effects::default() }))
    }

    async fn preview(&self, cx: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let Ok(input) = Input::deserialize(input) else { return Ok(Vec::new()) };
        Ok(recall(&cx.store, &input.machine)?.iter().map(destruction).collect())
    }
}

impl ReleaseVm {
    /// Whether there is none although its id is taken: nothing reserves an id for us at Proxmox, so of a machine that was
    /// reserved and not made before its flow failed, somebody else may have the id. That VM is left alone.
    async fn was_never_made(&self, cx: &StepContext, machine: &Machine) -> Result<bool, StepError> {
        let vm = cx.store.get::<Vm>(&vm_key(machine.node_uid)).map_err(failure::read)?;
        if vm.is_none_or(|vm| vm.value.state != VmState::Reserved) {
            return Ok(false);
        }
        let found = fence::look(&self.0, machine).await.map_err(|error| failure::of(&error))?;
        // A clone that is not made yet may be what we may not see; of a task that clones nothing says for whom it is.
        let is_not_ours = match found {
            Found::Foreign { .. } => true,
            Found::Hidden => self.0.sections.images.method == Method::Import,
            _ => false,
        };
        if !is_not_ours {
            return Ok(false);
        }
        match own_task::search(&self.0, &cx.store, machine, None).await? {
            OwnTask::None => {
                cx.progress(format!("{} was never made; VM {} is somebody else's", machine.hostname, machine.vmid));
                Ok(true)
            }
            OwnTask::Running(upid) => {
                let reason = format!("a task of ours still makes VM {} ({upid})", machine.vmid);
                Err(StepError::wait(reason, Duration::from_secs(2)))
            }
            OwnTask::Made => Ok(false),
        }
    }
}
