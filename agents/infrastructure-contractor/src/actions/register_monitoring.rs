//! `infrastructure.register_monitoring`: a ready cluster becomes active, and Prometheus learns what to scrape.

use contractor::action::{Action, Change, DomainEvent, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use jiff::Timestamp;
use messages::{handoff::ClusterReady, name::ClusterName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::InventoryChange;

use super::{cluster, machines, record_nodes::unjoined, references, still_there};
use crate::{
    Deps,
    inventory::{ClusterState, MachineRef, Ready, VmState, cluster_key, vm_key},
    reservation,
};

pub(super) struct RegisterMonitoring(pub(super) Deps);

/// What talos-contractor said.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// The handoff.
    ready: ClusterReady,
}

/// What is active now.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct Output {
    /// The cluster.
    cluster: ClusterName,
    /// Its machines.
    machines: Vec<MachineRef>,
    /// The file that Prometheus reads, if one is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    /// Whether the cluster was active before.
    #[serde(default)]
    was_active: bool,
}

impl Action for RegisterMonitoring {
    const NAME: &'static str = "infrastructure.register_monitoring";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let ready = &input.ready;
        let Some(mut found) = still_there(&cx.store, &ready.cluster_name, ready.cluster_uid)? else {
            // Of a cluster that is gone: another of its name, if there is one, is none of its business, an undo included.
            let cluster = ready.cluster_name.clone();
            let nothing = Output { cluster, machines: Vec::new(), file: None, was_active: true };
            return Ok(Done::new(nothing));
        };
        if found.value.state == ClusterState::Leaving {
            return Err(StepError::fail(format!("cluster {} is being taken away", ready.cluster_name)));
        }
        let was_active = found.value.state == ClusterState::Active;
        found.value.state = ClusterState::Active;
        found.value.ready = Some(Ready {
            at: Timestamp::now(),
            status: ready.status,
            api_endpoint: ready.api_endpoint.clone(),
            metrics_endpoints: ready.metrics_endpoints.clone(),
            kubernetes_version: ready.kubernetes_version.clone(),
            api_p95_ms: ready.api_p95_ms,
        });
        self.0.monitoring.write(&found.value)?;
        let mut effects = Effects::default();
        let key = cluster_key(&ready.cluster_name);
        effects.inventory.push(InventoryChange::update(key, found.revision, reservation::json(&found.value)));
        let own = machines(&cx.store, &ready.cluster_name)?;
        for mut vm in own.iter().cloned() {
            vm.state = VmState::Joined;
            effects.inventory.push(InventoryChange::put(vm_key(vm.machine.node_uid), reservation::json(&vm)));
        }
        effects.events.push(DomainEvent {
            kind: "cluster_active",
            cluster: Some(ready.cluster_name.to_string()),
            body: json!({ "object": ready.cluster_name, "facts": { "api_endpoint": ready.api_endpoint } }),
        });
        let output = Output {
            cluster: ready.cluster_name.clone(),
            machines: references(own.iter().map(|vm| &vm.machine)),
            file: self.0.monitoring.file(&ready.cluster_name).map(|file| file.display().to_string()),
            was_active,
        };
        Ok(Done::with_effects(output, effects))
    }

    /// What made it active is taken back; what said so of one that was active already changed nothing.
    async fn undo(&self, cx: &StepContext, input: &Input, output: Option<&Output>) -> Result<Effects, StepError> {
        let name = &input.ready.cluster_name;
        let found = cluster(&cx.store, name)?.filter(|found| found.value.state == ClusterState::Active);
        let made_active = output.is_some_and(|output| !output.was_active);
        if found.is_some() && !made_active {
            return Ok(Effects::default());
        }
        self.0.monitoring.forget(name)?;
        let Some(mut found) = found else { return Ok(Effects::default()) };
        found.value.state = ClusterState::Provisioning;
        found.value.ready = None;
        let mut inventory = unjoined(machines(&cx.store, name)?.into_iter());
        inventory.push(InventoryChange::update(cluster_key(name), found.revision, reservation::json(&found.value)));
        Ok(Effects { inventory, ..Effects::default() })
    }

    async fn preview(&self, _cx: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let Ok(input) = Input::deserialize(input) else { return Ok(Vec::new()) };
        Ok(vec![Change {
            verb: "monitor".into(),
            object: format!("cluster {}", input.ready.cluster_name),
            details: [("targets".to_owned(), json!(input.ready.metrics_endpoints))].into(),
            destroys: false,
        }])
    }
}
