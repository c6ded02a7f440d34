//! `talos.activate_cluster`: records that a cluster stands.

use contractor::action::{Action, Done, Effects, StepContext, StepError};
use engine::catalog::Undo;
use messages::name::ClusterName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::Versioned;

use crate::{
    failure::read,
    inventory::{self, Cluster, ClusterState},
    reach::known_cluster,
    told,
};

/// Marks the cluster active.
pub struct ActivateCluster;

/// Which cluster.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
}

/// Nothing to tell.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {}

impl Action for ActivateCluster {
    const NAME: &'static str = "talos.activate_cluster";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let known = known_cluster(cx, &input.cluster)?;
        let mut effects = Effects::default();
        if known.value.state == ClusterState::Bootstrapping {
            let name = known.value.name.to_string();
            let facts = json!({ "endpoint": known.value.endpoint, "kubernetes": known.value.kubernetes_version });
            effects.events.push(told::event("cluster_active", &input.cluster, &name, facts));
            effects.inventory.push(in_state(known, ClusterState::Active));
        }
        Ok(Done::with_effects(Output {}, effects))
    }

    async fn undo(&self, cx: &StepContext, input: &Input, _: Option<&Output>) -> Result<Effects, StepError> {
        let mut effects = Effects::default();
        if let Some(known) = inventory::cluster(&cx.store, &input.cluster).map_err(read)?
            && known.value.state == ClusterState::Active
        {
            effects.inventory.push(in_state(known, ClusterState::Bootstrapping));
        }
        Ok(effects)
    }
}

fn in_state(known: Versioned<Cluster>, state: ClusterState) -> store::InventoryChange {
    let value = Cluster { state, ..known.value };
    inventory::put_cluster(&Versioned { revision: known.revision, value })
}
