//! `talos.wait_nodes_ready`: follows the Kubernetes nodes until each is Ready, approving their certificates meanwhile.

use std::time::Duration;

use contractor::action::{Action, Done, StepContext, StepError};
use engine::catalog::Undo;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    runtime::wait::{Condition, await_condition},
};
use messages::name::{ClusterName, NodeName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::{
    certificates, kubernetes,
    reach::{Deps, known_cluster, known_node},
    waiting,
};

const SLICE: Duration = Duration::from_secs(5);

/// Waits for nodes.
pub struct WaitNodesReady(pub Deps);

/// Which nodes.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
    pub nodes: Vec<NodeName>,
}

/// Which nodes are Ready.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    pub nodes: Vec<NodeName>,
}

impl Action for WaitNodesReady {
    const NAME: &'static str = "talos.wait_nodes_ready";
    const UNDO: Undo = Undo::Nothing;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let cluster = known_cluster(cx, &input.cluster)?.value;
        let client = kubernetes::connect(&self.0, &cx.store, &cluster).await?;
        let api = Api::<Node>::all(client.clone());
        let waits = input.nodes.iter().map(|name| {
            let api = api.clone();
            async move {
                let ready = timeout(SLICE, await_condition(api, name.as_str(), is_ready())).await;
                matches!(ready, Ok(Ok(_))).then_some(name)
            }
        });
        let ready: Vec<_> = tokio::select! {
            ready = join_all(waits) => ready.into_iter().flatten().collect(),
            error = certificates::keep_approving(&client, cx, &input.cluster) => return Err(error),
        };
        let missing = input.nodes.iter().filter(|name| !ready.contains(name)).map(|name| self.state(cx, input, name));
        let missing = join_all(missing).await;
        if missing.is_empty() {
            return Ok(Done::new(Output { nodes: input.nodes.clone() }));
        }
        let reason = format!("{} of {} nodes are Ready; not {}", ready.len(), input.nodes.len(), missing.join(", "));
        Err(StepError::wait(reason, Duration::ZERO))
    }
}

impl WaitNodesReady {
    /// `prod-w-1: booting (kubelet: not healthy)`
    async fn state(&self, cx: &StepContext, input: &Input, name: &NodeName) -> String {
        match known_node(cx, &input.cluster, name) {
            Ok(node) => format!("{name}: {}", waiting::state_of(&self.0, cx, &node.value).await),
            Err(_) => format!("{name}: not in the inventory"),
        }
    }
}

/// The Ready condition is True.
pub(crate) fn is_ready() -> impl Condition<Node> {
    |node: Option<&Node>| node.is_some_and(ready)
}

/// Whether a node's Ready condition is True.
pub(crate) fn ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
