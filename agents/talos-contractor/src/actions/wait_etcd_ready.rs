//! `talos.wait_etcd_ready`: waits until the first control plane is installed, booted and ready for a bootstrap.

use contractor::action::{Action, Done, StepContext, StepError};
use engine::catalog::Undo;
use messages::name::{ClusterName, NodeName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use talos::pki::Role;

use super::first_control_plane;
use crate::{reach::Deps, waiting};

/// Waits for the node that etcd is to begin on.
pub struct WaitEtcdReady(pub Deps);

/// Which cluster.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
}

/// Where etcd is to begin.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// Always the first control plane by name, so that asking again names the same.
    pub node: NodeName,
}

impl Action for WaitEtcdReady {
    const NAME: &'static str = "talos.wait_etcd_ready";
    const UNDO: Undo = Undo::Nothing;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let node = first_control_plane(cx, &input.cluster)?;
        let client = waiting::for_node(&self.0, cx, &node, Role::Reader, waiting::TOLD_AFTER).await?;
        let waits = |state: &str| matches!(state, "Preparing" | "Waiting" | "Running");
        waiting::until_service(&client, &node, "etcd", |service| waits(&service.state)).await?;
        Ok(Done::new(Output { node: node.hostname }))
    }
}
