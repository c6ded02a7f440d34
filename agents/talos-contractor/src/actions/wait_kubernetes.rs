//! `talos.wait_kubernetes`: waits until the Kubernetes API answers, at a control plane and at the cluster's endpoint.

use std::time::Duration;

use contractor::action::{Action, Done, Effects, StepContext, StepError};
use engine::catalog::Undo;
use messages::name::ClusterName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    kubernetes::{address_of, client, connect, probe},
    reach::{Deps, known_cluster},
    told,
    waiting::TOLD_AFTER,
};

const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Waits for the API.
pub struct WaitKubernetes(pub Deps);

/// Which cluster.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
}

/// What answers.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// What the API server says it is, `v1.36.3`.
    pub version: String,
}

impl Action for WaitKubernetes {
    const NAME: &'static str = "talos.wait_kubernetes";
    const UNDO: Undo = Undo::Nothing;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let until = tokio::time::Instant::now() + TOLD_AFTER;
        let mut pause = PAUSE.0;
        loop {
            let away = match self.ask(cx, &input.cluster).await {
                Err(error @ StepError::Wait { .. }) if tokio::time::Instant::now() < until => error,
                Err(error) => return Err(error),
                Ok(version) => {
                    let mut effects = Effects::default();
                    let facts = json!({ "version": version });
                    let name = input.cluster.as_str();
                    effects.events.push(told::event("kubernetes_ready", &input.cluster, name, facts));
                    return Ok(Done::with_effects(Output { version }, effects));
                }
            };
            tokio::select! {
                () = cx.cancelled.cancelled() => return Err(away),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
            }
        }
    }
}

impl WaitKubernetes {
    async fn ask(&self, cx: &StepContext, name: &ClusterName) -> Result<String, StepError> {
        let cluster = known_cluster(cx, name)?.value;
        // An endpoint that is a host name is resolved by its users, and not from here.
        if address_of(&cluster.endpoint).is_some() {
            return probe(&client(&self.0, &cx.store, &cluster, &cluster.endpoint)?, &cluster.endpoint).await;
        }
        probe(&connect(&self.0, &cx.store, &cluster).await?, "a control plane").await
    }
}
