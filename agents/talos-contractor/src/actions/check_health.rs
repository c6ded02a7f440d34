//! `talos.check_health`: the checks of `talosctl health`, recorded with the API's answer time.

use std::{collections::BTreeMap, time::Duration};

use contractor::action::{Action, Done, Effects, StepContext, StepError};
use engine::catalog::Undo;
use messages::{handoff::ClusterStatus, name::ClusterName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::Versioned;

use super::nodes_of;
use crate::{
    certificates, health,
    inventory::{self, Cluster, Health},
    kubernetes,
    reach::{Deps, known_cluster},
    told,
};

/// A cluster settles within seconds after its last pod is ready.
const AGAIN: Duration = Duration::from_secs(2);

/// Checks a cluster.
pub struct CheckHealth(pub Deps);

/// Which cluster.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
    /// Wait until every check passes; otherwise what is found is recorded and that is all.
    #[serde(default)]
    pub until_healthy: bool,
}

/// How the cluster is.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    pub status: ClusterStatus,
    /// Each check that did not pass, and why.
    pub problems: BTreeMap<String, String>,
    pub api_p95_ms: f64,
}

impl Action for CheckHealth {
    const NAME: &'static str = "talos.check_health";
    const UNDO: Undo = Undo::Nothing;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let Versioned { revision, value: cluster } = known_cluster(cx, &input.cluster)?;
        let nodes = nodes_of(&cx.store, &input.cluster)?;
        if let Ok(client) = kubernetes::connect(&self.0, &cx.store, &cluster).await {
            certificates::approve(&client, cx, &input.cluster).await?;
        }
        let health = health::check(&self.0, &cx.store, &cluster, &nodes).await?;
        let problems = problems(&health);
        if input.until_healthy && !health.healthy {
            let text: Vec<_> = problems.iter().map(|(check, problem)| format!("{check}: {problem}")).collect();
            return Err(StepError::wait(text.join("; "), AGAIN));
        }
        let status = if health.healthy { ClusterStatus::Healthy } else { ClusterStatus::Degraded };
        let output = Output { status, problems, api_p95_ms: health.api_p95_ms };
        let mut effects = Effects::default();
        let facts = json!({ "status": status, "problems": output.problems, "api_p95_ms": output.api_p95_ms });
        effects.events.push(told::event("health_checked", &input.cluster, input.cluster.as_str(), facts));
        let value = Cluster { health: Some(health), ..cluster };
        effects.inventory.push(inventory::put_cluster(&Versioned { revision, value }));
        Ok(Done::with_effects(output, effects))
    }
}

fn problems(health: &Health) -> BTreeMap<String, String> {
    let found = health.checks.iter();
    found.filter_map(|(check, problem)| Some((check.clone(), problem.clone()?))).collect()
}
