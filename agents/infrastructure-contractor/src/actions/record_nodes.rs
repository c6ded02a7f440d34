//! `infrastructure.record_nodes`: the machines that became nodes are recorded as such, and Prometheus scrapes them.

use contractor::action::{Action, Done, Effects, StepContext, StepError};
use engine::catalog::Undo;
use messages::name::ClusterName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use store::InventoryChange;
use uuid::Uuid;

use super::{cluster, machine_event, machines, node_addresses, still_there};
use crate::{
    Deps,
    inventory::{Vm, VmState, vm_key},
    reservation,
};

pub(super) struct RecordNodes(pub(super) Deps);

/// Which nodes.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// Their cluster.
    cluster: ClusterName,
    /// Its incarnation.
    cluster_uid: Uuid,
    /// Their own ids.
    node_uids: Vec<Uuid>,
}

/// How many there are; one that is gone already is left out.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct Output {
    /// Nodes of the cluster in the inventory.
    nodes: usize,
    /// The ids of those that were recorded before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    known: Vec<Uuid>,
}

impl Action for RecordNodes {
    const NAME: &'static str = "infrastructure.record_nodes";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let Some(found) = still_there(&cx.store, &input.cluster, Some(input.cluster_uid))? else {
            return Ok(Done::new(Output { nodes: 0, known: Vec::new() }));
        };
        let own = machines(&cx.store, &input.cluster)?;
        // A broker may bring `node_removed` first, which is the end of the node: waiting for an operator with the cluster
        // locked would help nobody.
        for gone in input.node_uids.iter().filter(|uid| own.iter().all(|vm| vm.machine.node_uid != **uid)) {
            tracing::warn!(cluster = %input.cluster, node = %gone, "a node is ready whose machine is not there any more");
        }
        let named = || own.iter().filter(|vm| input.node_uids.contains(&vm.machine.node_uid));
        let known = named().filter(|vm| vm.state == VmState::Joined).map(|vm| vm.machine.node_uid).collect();
        let fresh: Vec<_> = named().filter(|vm| vm.state != VmState::Joined).map(|vm| vm.machine.ip).collect();
        self.0.monitoring.join(&found.value, &fresh, &node_addresses(&own))?;
        let mut effects = Effects::default();
        for mut vm in named().cloned() {
            vm.state = VmState::Joined;
            effects.events.push(machine_event("vm_joined", &vm.machine));
            effects.inventory.push(InventoryChange::put(vm_key(vm.machine.node_uid), reservation::json(&vm)));
        }
        Ok(Done::with_effects(Output { nodes: own.len(), known }, effects))
    }

    /// What is still there of them has a Talos API that answers, as before.
    async fn undo(&self, cx: &StepContext, input: &Input, output: Option<&Output>) -> Result<Effects, StepError> {
        let was_node = |vm: &Vm| match output {
            Some(output) => output.known.contains(&vm.machine.node_uid),
            None => vm.state == VmState::Joined,
        };
        let mut own = machines(&cx.store, &input.cluster)?;
        own.retain(|vm| vm.machine.cluster_uid == input.cluster_uid);
        let fresh = own.iter().filter(|vm| input.node_uids.contains(&vm.machine.node_uid) && !was_node(vm));
        if let Some(found) = cluster(&cx.store, &input.cluster)?.filter(|found| found.value.uid == input.cluster_uid) {
            let leaving: Vec<_> = fresh.clone().map(|vm| vm.machine.ip).collect();
            self.0.monitoring.leave(&found.value, &leaving, || Ok(node_addresses(&own)))?;
        }
        Ok(Effects { inventory: unjoined(fresh.cloned()), ..Effects::default() })
    }
}

/// Machines that are no nodes any more.
pub(super) fn unjoined(machines: impl Iterator<Item = Vm>) -> Vec<InventoryChange> {
    let joined = machines.filter(|vm| vm.state == VmState::Joined);
    let answering = joined.map(|vm| Vm { state: VmState::Answering, ..vm });
    answering.map(|vm| InventoryChange::put(vm_key(vm.machine.node_uid), reservation::json(&vm))).collect()
}
