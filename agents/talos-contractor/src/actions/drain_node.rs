//! `talos.drain_node`: moves the pods of a node elsewhere, as their disruption budgets allow.

use std::time::Duration;

use contractor::action::{Action, Done, Effects, StepContext, StepError};
use engine::catalog::Undo;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use messages::name::{ClusterName, NodeName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::wait_nodes_ready::ready;
use crate::{
    drain::drain,
    failure::asked,
    kubernetes,
    reach::{Deps, known_cluster},
    told,
};

/// Drains a node.
pub struct DrainNode(pub Deps);

/// Which node.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
    pub node: NodeName,
}

/// Whether there was something to drain.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// False where the node is not Ready: nobody there would stop its pods.
    pub drained: bool,
}

impl Action for DrainNode {
    const NAME: &'static str = "talos.drain_node";
    /// Evicted pods run elsewhere by now.
    const UNDO: Undo = Undo::Nothing;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        const SLICE: Duration = Duration::from_secs(30);
        const PAUSE: Duration = Duration::from_millis(250);
        let cluster = known_cluster(cx, &input.cluster)?.value;
        let client = kubernetes::connect(&self.0, &cx.store, &cluster).await?;
        let node = Api::<Node>::all(client.clone()).get_opt(input.node.as_str()).await;
        let node = node.map_err(|error| asked(&format!("reading node {}", input.node), &error))?;
        if !node.as_ref().is_some_and(ready) {
            return Ok(Done::new(Output { drained: false }));
        }
        let until = tokio::time::Instant::now() + SLICE;
        while let Err(error) = drain(&client, input.node.as_str()).await {
            if !matches!(error, StepError::Wait { .. }) || tokio::time::Instant::now() >= until {
                return Err(error);
            }
            tokio::select! {
                () = cx.cancelled.cancelled() => return Err(error),
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        let mut effects = Effects::default();
        effects.events.push(told::event("node_drained", &input.cluster, input.node.as_str(), json!({})));
        Ok(Done::with_effects(Output { drained: true }, effects))
    }
}
