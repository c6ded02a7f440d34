//! `talos.delete_node`: deletes the Kubernetes node, which Talos leaves behind.

use contractor::action::{Action, Change, Done, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::DeleteParams};
use messages::name::{ClusterName, NodeName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    failure::asked,
    inventory::Cluster,
    kubernetes,
    reach::{Deps, known_cluster},
};

/// Deletes a node.
pub struct DeleteNode(pub Deps);

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

impl Action for DeleteNode {
    const NAME: &'static str = "talos.delete_node";
    const UNDO: Undo = Undo::Irreversible;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let cluster = known_cluster(cx, &input.cluster)?.value;
        delete(&self.0, cx, &cluster, &input.node).await?;
        Ok(Done::new(Output {}))
    }

    async fn preview(&self, _: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let object = format!("Kubernetes node {}", input["node"].as_str().unwrap_or("?"));
        Ok(vec![Change { verb: "delete".to_owned(), object, details: [].into(), destroys: true }])
    }
}

/// Deletes the Kubernetes node, if it is there.
pub(super) async fn delete(deps: &Deps, cx: &StepContext, cluster: &Cluster, node: &NodeName) -> Result<(), StepError> {
    let api = Api::<Node>::all(kubernetes::connect(deps, &cx.store, cluster).await?);
    match api.delete(node.as_str(), &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(asked(&format!("deleting node {node}"), &error)),
        Ok(_) => Ok(()),
    }
}
