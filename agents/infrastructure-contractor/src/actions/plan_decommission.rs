//! `infrastructure.plan_decommission`: marks a cluster as leaving; its preview is the plan that needs consent.

use contractor::action::{Action, Change, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use messages::request::DecommissionRequest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::InventoryChange;
use uuid::Uuid;

use super::{cluster, cluster_event, known_cluster, list_machines::destruction, machines};
use crate::{
    failure,
    inventory::{Cluster, ClusterState, cluster_key},
    reservation,
};

pub(super) struct PlanDecommission;

/// What is asked for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// The request.
    request: DecommissionRequest,
}

/// What follows.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct Output {
    /// The incarnation that leaves.
    cluster_uid: Uuid,
    /// How many machines it has.
    machines: usize,
    /// Where it was in its life before.
    state_before: ClusterState,
    /// What talos-contractor is told.
    handoff: DecommissionRequest,
}

impl Action for PlanDecommission {
    const NAME: &'static str = "infrastructure.plan_decommission";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let request = &input.request;
        let mut found = known_cluster(&cx.store, &request.cluster_name, request.cluster_uid)?;
        let state_before = found.value.state;
        found.value.state = ClusterState::Leaving;
        let handoff = DecommissionRequest {
            handoff_type: "decommission_request".into(),
            cluster_uid: Some(found.value.uid),
            approval: None,
            ..request.clone()
        };
        let output = Output {
            cluster_uid: found.value.uid,
            machines: machines(&cx.store, &request.cluster_name)?.len(),
            state_before,
            handoff,
        };
        let key = cluster_key(&request.cluster_name);
        let change = InventoryChange::update(key, found.revision, reservation::json(&found.value));
        let told = cluster_event("cluster_leaving", &found.value.name, json!({ "machines": output.machines }));
        Ok(Done::with_effects(output, Effects { inventory: vec![change], events: vec![told], ..Effects::default() }))
    }

    async fn undo(&self, cx: &StepContext, input: &Input, output: Option<&Output>) -> Result<Effects, StepError> {
        let name = &input.request.cluster_name;
        let (Some(output), Some(mut found)) = (output, cluster(&cx.store, name)?) else {
            return Ok(Effects::default());
        };
        if found.value.uid != output.cluster_uid || found.value.state != ClusterState::Leaving {
            return Ok(Effects::default());
        }
        found.value.state = output.state_before;
        let change = InventoryChange::update(cluster_key(name), found.revision, reservation::json(&found.value));
        let told = cluster_event("cluster_kept", name, json!({ "state": found.value.state }));
        Ok(Effects { inventory: vec![change], events: vec![told], ..Effects::default() })
    }

    /// Everything that will be destroyed in the end, so that consent is given to all of it at once.
    async fn preview(&self, cx: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let Ok(input) = Input::deserialize(input) else { return Ok(Vec::new()) };
        let request = &input.request;
        cx.read::<Cluster>(&cluster_key(&request.cluster_name)).map_err(failure::read)?;
        let found = known_cluster(&cx.store, &request.cluster_name, request.cluster_uid)?;
        let cluster = Change {
            verb: "forget".into(),
            object: format!("cluster {} ({})", found.value.name, found.value.uid),
            details: Default::default(),
            destroys: true,
        };
        let machines = machines(&cx.store, &request.cluster_name)?;
        Ok(machines.iter().map(|vm| destruction(&vm.machine)).chain([cluster]).collect())
    }
}
