//! `talos.cordon_node`: no new pods on a node.

use contractor::action::{Action, Done, Effects, StepContext, StepError};
use engine::catalog::Undo;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use messages::name::{ClusterName, NodeName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    failure::asked,
    kubernetes,
    reach::{Deps, known_cluster},
    told,
};

/// Cordons a node.
pub struct CordonNode(pub Deps);

/// Which node.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
    pub node: NodeName,
}

/// Whether there was a node to cordon.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    pub cordoned: bool,
}

impl Action for CordonNode {
    const NAME: &'static str = "talos.cordon_node";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        match self.api(cx, input).await?.cordon(input.node.as_str()).await {
            Ok(_) => {
                let mut effects = Effects::default();
                let name = input.node.as_str();
                effects.events.push(told::event("node_cordoned", &input.cluster, name, json!({})));
                Ok(Done::with_effects(Output { cordoned: true }, effects))
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Done::new(Output { cordoned: false })),
            Err(error) => Err(asked(&format!("cordoning {}", input.node), &error)),
        }
    }

    async fn undo(&self, cx: &StepContext, input: &Input, _: Option<&Output>) -> Result<Effects, StepError> {
        match self.api(cx, input).await?.uncordon(input.node.as_str()).await {
            Ok(_) => Ok(Effects::default()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Effects::default()),
            Err(error) => Err(asked(&format!("uncordoning {}", input.node), &error)),
        }
    }
}

impl CordonNode {
    async fn api(&self, cx: &StepContext, input: &Input) -> Result<Api<Node>, StepError> {
        let cluster = known_cluster(cx, &input.cluster)?.value;
        Ok(Api::all(kubernetes::connect(&self.0, &cx.store, &cluster).await?))
    }
}
