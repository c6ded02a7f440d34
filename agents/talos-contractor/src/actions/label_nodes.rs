//! `talos.label_nodes`: makes Kubernetes show where a node runs and which pool it is of, and records it as Ready.

use contractor::action::{Action, Done, Effects, StepContext, StepError};
use engine::catalog::Undo;
use k8s_openapi::api::core::v1::Node as KubernetesNode;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use messages::name::{ClusterName, NodeName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::Versioned;

use crate::{
    failure::asked,
    inventory::{self, Cluster, Node, NodeState},
    kubernetes::{self, FIELD_MANAGER},
    machine_config,
    reach::{Deps, known_cluster, known_node},
    told,
};

/// Labels nodes.
pub struct LabelNodes(pub Deps);

/// Which nodes.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
    pub nodes: Vec<NodeName>,
}

/// Which nodes.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    pub nodes: Vec<NodeName>,
}

impl Action for LabelNodes {
    const NAME: &'static str = "talos.label_nodes";
    const UNDO: Undo = Undo::Nothing;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let cluster = known_cluster(cx, &input.cluster)?.value;
        let api = Api::<KubernetesNode>::all(kubernetes::connect(&self.0, &cx.store, &cluster).await?);
        let mut effects = Effects::default();
        for name in &input.nodes {
            let Versioned { revision, value: node } = known_node(cx, &input.cluster, name)?;
            let current =
                api.get(name.as_str()).await.map_err(|error| asked(&format!("reading node {name}"), &error))?;
            if let Some(patch) = wanted(&cluster, &node, &current) {
                api.patch(name.as_str(), &PatchParams::apply(FIELD_MANAGER), &Patch::Merge(&patch))
                    .await
                    .map_err(|error| asked(&format!("labelling node {name}"), &error))?;
            }
            if node.state == NodeState::Joining {
                let facts = json!({ "address": node.ip, "host": node.host, "pool": node.pool });
                effects.events.push(told::event("node_joined", &input.cluster, name.as_str(), facts));
                let value = Node { state: NodeState::Ready, ..node };
                effects.inventory.push(inventory::put_node(&Versioned { revision, value }));
            }
        }
        Ok(Done::with_effects(Output { nodes: input.nodes.clone() }, effects))
    }
}

/// What has to change; `None` if nothing. A provider id can be set once only.
fn wanted(cluster: &Cluster, node: &Node, current: &KubernetesNode) -> Option<Value> {
    let mut labels = machine_config::labels(cluster, node);
    if !node.is_control_plane() {
        labels.insert("node-role.kubernetes.io/worker".to_owned(), String::new());
    }
    labels.retain(|key, value| current.labels().get(key) != Some(value));
    let provider_id = current.spec.as_ref().and_then(|spec| spec.provider_id.as_deref()).unwrap_or_default();
    let mut patch = json!({});
    if !labels.is_empty() {
        patch["metadata"] = json!({ "labels": labels });
    }
    if provider_id.is_empty() {
        patch["spec"] = json!({ "providerID": machine_config::provider_id(cluster, node) });
    }
    patch.as_object().is_some_and(|patch| !patch.is_empty()).then_some(patch)
}
