//! `infrastructure.record_nodes`: the machines that became nodes are recorded as such.

use contractor::action::{Action, Done, Effects, StepContext, StepError};
use engine::catalog::Undo;
use messages::name::ClusterName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use store::InventoryChange;
use uuid::Uuid;

use super::{machine_event, machines, still_there};
use crate::{
    inventory::{Vm, VmState, vm_key},
    reservation,
};

pub(super) struct RecordNodes;

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
}

impl Action for RecordNodes {
    const NAME: &'static str = "infrastructure.record_nodes";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        if still_there(&cx.store, &input.cluster, Some(input.cluster_uid))?.is_none() {
            return Ok(Done::new(Output { nodes: 0 }));
        }
        let own = machines(&cx.store, &input.cluster)?;
        // A broker may bring `node_removed` first, which is the end of the node: waiting for an operator with the cluster
        // locked would help nobody.
        for gone in input.node_uids.iter().filter(|uid| own.iter().all(|vm| vm.machine.node_uid != **uid)) {
            tracing::warn!(cluster = %input.cluster, node = %gone, "a node is ready whose machine is not there any more");
        }
        let mut effects = Effects::default();
        for vm in own.iter().filter(|vm| input.node_uids.contains(&vm.machine.node_uid)) {
            let mut vm = vm.clone();
            vm.state = VmState::Joined;
            effects.events.push(machine_event("vm_joined", &vm.machine));
            effects.inventory.push(InventoryChange::put(vm_key(vm.machine.node_uid), reservation::json(&vm)));
        }
        Ok(Done::with_effects(Output { nodes: own.len() }, effects))
    }

    /// What is still there of them has a Talos API that answers, as before.
    async fn undo(&self, cx: &StepContext, input: &Input, _output: Option<&Output>) -> Result<Effects, StepError> {
        let own = machines(&cx.store, &input.cluster)?.into_iter();
        let own = own.filter(|vm| vm.machine.cluster_uid == input.cluster_uid);
        let inventory = unjoined(own.filter(|vm| input.node_uids.contains(&vm.machine.node_uid)));
        Ok(Effects { inventory, ..Effects::default() })
    }
}

/// Machines that are no nodes any more.
pub(super) fn unjoined(machines: impl Iterator<Item = Vm>) -> Vec<InventoryChange> {
    let joined = machines.filter(|vm| vm.state == VmState::Joined);
    let answering = joined.map(|vm| Vm { state: VmState::Answering, ..vm });
    answering.map(|vm| InventoryChange::put(vm_key(vm.machine.node_uid), reservation::json(&vm))).collect()
}
