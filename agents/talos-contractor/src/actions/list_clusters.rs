//! `talos.list_clusters`: the clusters that stand, for playbooks that a schedule starts.

use contractor::action::{Action, Done, StepContext, StepError};
use engine::catalog::Undo;
use messages::name::ClusterName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    failure::read,
    inventory::{self, ClusterState},
};

/// Lists clusters.
pub struct ListClusters;

/// Nothing to say.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {}

/// Active clusters, sorted by name.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    pub clusters: Vec<ClusterName>,
}

impl Action for ListClusters {
    const NAME: &'static str = "talos.list_clusters";
    const UNDO: Undo = Undo::Nothing;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, _: &Input) -> Result<Done<Output>, StepError> {
        let clusters = inventory::clusters(&cx.store).map_err(read)?.into_iter().map(|known| known.value);
        let active = clusters.filter(|cluster| cluster.state == ClusterState::Active).map(|cluster| cluster.name);
        Ok(Done::new(Output { clusters: active.collect() }))
    }
}
