//! `talos.forget_node`: a node that left is no longer in the inventory, nor its configuration among the secrets.

use contractor::action::{Action, Done, Effects, StepContext, StepError};
use engine::catalog::Undo;
use messages::name::{ClusterName, NodeName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::{InventoryChange, SecretPut};

use crate::{inventory, told};

/// Forgets a node.
pub struct ForgetNode;

/// Which node.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
    pub node: NodeName,
}

/// Nothing to tell.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {}

impl Action for ForgetNode {
    const NAME: &'static str = "talos.forget_node";
    const UNDO: Undo = Undo::Irreversible;
    type Input = Input;
    type Output = Output;

    async fn run(&self, _: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let mut effects = Effects::default();
        effects.inventory.push(InventoryChange::delete(inventory::node_key(&input.cluster, &input.node)));
        effects.inventory.push(InventoryChange::delete(inventory::config_key(&input.cluster, &input.node)));
        let name = inventory::machine_config_name(&input.cluster, &input.node);
        effects.secrets.push(SecretPut { name, plain: None });
        effects.events.push(told::event("node_removed", &input.cluster, input.node.as_str(), json!({})));
        Ok(Done::with_effects(Output {}, effects))
    }
}
