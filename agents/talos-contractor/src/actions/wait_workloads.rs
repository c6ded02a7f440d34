//! `talos.wait_workloads`: follows Deployments, DaemonSets and StatefulSets until all their pods are ready.

use std::time::Duration;

use contractor::action::{Action, Done, StepContext, StepError};
use engine::catalog::Undo;
use futures::future::join_all;
use kube::{
    Api, Client,
    core::{DynamicObject, GroupVersionKind},
    discovery::ApiResource,
    runtime::wait::{Condition, await_condition},
};
use messages::name::ClusterName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    kubernetes,
    manifest::Workload,
    reach::{Deps, known_cluster},
};

const SLICE: Duration = Duration::from_secs(5);

/// Waits for workloads.
pub struct WaitWorkloads(pub Deps);

/// Which workloads.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
    pub workloads: Vec<Workload>,
}

/// How many came up.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    pub ready: usize,
}

impl Action for WaitWorkloads {
    const NAME: &'static str = "talos.wait_workloads";
    const UNDO: Undo = Undo::Nothing;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let cluster = known_cluster(cx, &input.cluster)?.value;
        let client = kubernetes::connect(&self.0, &cx.store, &cluster).await?;
        let waits = input.workloads.iter().map(|workload| {
            let api = api(&client, workload);
            async move {
                let up = timeout(SLICE, await_condition(api, &workload.name, is_up())).await;
                (!matches!(up, Ok(Ok(_)))).then(|| title(workload))
            }
        });
        cx.progress(format!("waiting for {}", titles(&input.workloads).join(", ")));
        let missing: Vec<String> = tokio::select! {
            missing = join_all(waits) => missing.into_iter().flatten().collect(),
            () = cx.cancelled.cancelled() => titles(&input.workloads),
        };
        if missing.is_empty() {
            return Ok(Done::new(Output { ready: input.workloads.len() }));
        }
        Err(StepError::wait(format!("not ready: {}", missing.join(", ")), Duration::ZERO))
    }
}

fn title(workload: &Workload) -> String {
    format!("{} {}/{}", workload.kind, workload.namespace, workload.name)
}

fn titles(workloads: &[Workload]) -> Vec<String> {
    workloads.iter().map(title).collect()
}

fn api(client: &Client, workload: &Workload) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("apps", "v1", &workload.kind);
    Api::namespaced_with(client.clone(), &workload.namespace, &ApiResource::from_gvk(&kind))
}

/// Every wanted pod is ready and of the newest generation.
fn is_up() -> impl Condition<DynamicObject> {
    |object: Option<&DynamicObject>| object.is_some_and(up)
}

/// See [`is_up`].
pub(crate) fn up(object: &DynamicObject) -> bool {
    let status = &object.data["status"];
    let count = |name: &str| status[name].as_i64().unwrap_or_default();
    let seen = count("observedGeneration") >= object.metadata.generation.unwrap_or_default();
    let is_daemon = status.get("desiredNumberScheduled").is_some_and(Value::is_i64);
    let (wanted, ready) = if is_daemon {
        (count("desiredNumberScheduled"), count("numberReady"))
    } else {
        (object.data["spec"]["replicas"].as_i64().unwrap_or(1), count("readyReplicas"))
    };
    seen && ready >= wanted && (wanted > 0 || is_daemon)
}
