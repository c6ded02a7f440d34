//! `infrastructure.forget_cluster`: the last trace of a cluster whose machines are gone.

use std::time::Duration;

use contractor::action::{Action, Change, DomainEvent, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use messages::name::ClusterName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::InventoryChange;
use uuid::Uuid;

use super::{cluster, known_cluster, machines};
use crate::{
    Deps,
    inventory::{address_key, cluster_key},
};

pub(super) struct ForgetCluster(pub(super) Deps);

/// Which cluster.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// Its name.
    cluster: ClusterName,
    /// Its incarnation.
    #[serde(default)]
    cluster_uid: Option<Uuid>,
}

/// Which is forgotten.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct Output {
    /// Its name.
    cluster: ClusterName,
}

impl Action for ForgetCluster {
    const NAME: &'static str = "infrastructure.forget_cluster";
    const UNDO: Undo = Undo::Irreversible;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let output = Output { cluster: input.cluster.clone() };
        if cluster(&cx.store, &input.cluster)?.is_none() {
            return Ok(Done::new(output));
        }
        let found = known_cluster(&cx.store, &input.cluster, input.cluster_uid)?;
        let left: Vec<_> = machines(&cx.store, &input.cluster)?.iter().map(|vm| vm.machine.title()).collect();
        if !left.is_empty() {
            let reason = format!("cluster {} still has {}", input.cluster, left.join(", "));
            return Err(StepError::wait(reason, Duration::from_secs(5)));
        }
        self.0.monitoring.forget(&input.cluster)?;
        let mut effects = Effects::default();
        effects.inventory.push(InventoryChange::delete_at(cluster_key(&input.cluster), found.revision));
        effects.inventory.extend(found.value.endpoint.leased.map(|ip| InventoryChange::delete(address_key(ip))));
        effects.events.push(DomainEvent {
            kind: "cluster_forgotten",
            cluster: Some(input.cluster.to_string()),
            body: json!({ "object": input.cluster, "facts": { "cluster_uid": found.value.uid } }),
        });
        Ok(Done::with_effects(output, effects))
    }

    async fn preview(&self, _cx: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let Ok(input) = Input::deserialize(input) else { return Ok(Vec::new()) };
        Ok(vec![Change {
            verb: "forget".into(),
            object: format!("cluster {}", input.cluster),
            details: Default::default(),
            destroys: true,
        }])
    }
}
