//! `talos.smoke_test`: a volume is bound, a pod runs, and it resolves the API's name.

use std::time::Duration;

use contractor::action::{Action, Done, Effects, StepContext, StepError};
use engine::catalog::Undo;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client,
    api::DeleteParams,
    runtime::wait::{Condition, await_condition},
};
use messages::name::ClusterName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    failure::asked,
    inventory, kubernetes, manifest,
    reach::{Deps, known_cluster},
};

const NAME: &str = "smoke";
const SLICE: Duration = Duration::from_secs(60);
/// How long to wait for an earlier namespace to be gone.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs something on the cluster.
pub struct SmokeTest(pub Deps);

/// Which cluster, and whether it has storage.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
    /// Whether a volume of the default storage class must bind.
    pub storage: bool,
}

/// What ran.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The node that the pod ran on.
    pub node: String,
    /// Whether a volume was bound.
    pub volume: bool,
}

impl Action for SmokeTest {
    const NAME: &'static str = "talos.smoke_test";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let cluster = known_cluster(cx, &input.cluster)?.value;
        let client = kubernetes::connect(&self.0, &cx.store, &cluster).await?;
        let namespace = namespace(cx);
        // An attempt that was cut off may have come as far as taking it away; nothing can be made in it until it is gone.
        let found = Api::<Namespace>::all(client.clone()).get_opt(&namespace).await;
        let found = found.map_err(|error| asked("reading the smoke test's namespace", &error))?;
        if found.is_some_and(|found| found.metadata.deletion_timestamp.is_some()) {
            return Err(StepError::wait("the namespace of an earlier smoke test is being removed", PAUSE));
        }
        manifest::apply(&client, &objects(&namespace, &self.0.addons().smoke_image, input.storage)?).await?;
        let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
        let ready = timeout(SLICE, await_condition(pods.clone(), NAME, is_ready())).await;
        let Ok(Ok(pod)) = ready else {
            let pod = pods.get_opt(NAME).await.map_err(|error| asked("reading the smoke test's pod", &error))?;
            return Err(StepError::wait(format!("the smoke test's pod is {}", describe(pod.as_ref())), Duration::ZERO));
        };
        let node = pod.and_then(|pod| pod.spec).and_then(|spec| spec.node_name).unwrap_or_default();
        remove(&client, &namespace).await?;
        Ok(Done::new(Output { node, volume: input.storage }))
    }

    async fn undo(&self, cx: &StepContext, input: &Input, _: Option<&Output>) -> Result<Effects, StepError> {
        let cluster = inventory::cluster(&cx.store, &input.cluster).map_err(crate::failure::read)?;
        // An API that is gone has nothing left to take away.
        if let Some(cluster) = cluster
            && let Ok(client) = kubernetes::connect(&self.0, &cx.store, &cluster.value).await
        {
            remove(&client, &namespace(cx)).await?;
        }
        Ok(Effects::default())
    }
}

/// The same for every attempt of the same step.
fn namespace(cx: &StepContext) -> String {
    format!("cortex-smoke-{}", &cx.unique_id("smoke").simple().to_string()[..8])
}

async fn remove(client: &Client, namespace: &str) -> Result<(), StepError> {
    let api = Api::<Namespace>::all(client.clone());
    match api.delete(namespace, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(asked("removing the smoke test", &error)),
        Ok(_) => Ok(()),
    }
}

fn objects(namespace: &str, image: &str, storage: bool) -> Result<Vec<kube::core::DynamicObject>, StepError> {
    let mut objects = vec![json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } })];
    if storage {
        objects.push(json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": { "name": NAME, "namespace": namespace },
            "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "64Mi" } } },
        }));
    }
    objects.push(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": NAME, "namespace": namespace },
        "spec": pod(image, storage),
    }));
    let parse = |object: Value| {
        serde_json::from_value(object).map_err(|error| StepError::fail(format!("the smoke test: {error}")))
    };
    objects.into_iter().map(parse).collect()
}

/// Ready once the API's name was resolved and, if there is a volume, a file was written to it.
fn pod(image: &str, storage: bool) -> Value {
    let target = if storage { "/data/ok" } else { "/tmp/ok" };
    let script = format!(
        "until nslookup kubernetes.default.svc.cluster.local; do sleep 1; done; echo ok > {target}; sleep 3600"
    );
    let mut pod = json!({
        "terminationGracePeriodSeconds": 0,
        "securityContext": { "runAsNonRoot": true, "runAsUser": 65534, "fsGroup": 65534,
                             "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [{
            "name": NAME, "image": image, "command": ["sh", "-c", script],
            "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            "readinessProbe": { "exec": { "command": ["test", "-f", target] }, "periodSeconds": 1 },
        }],
    });
    if storage {
        pod["volumes"] = json!([{ "name": "data", "persistentVolumeClaim": { "claimName": NAME } }]);
        pod["containers"][0]["volumeMounts"] = json!([{ "name": "data", "mountPath": "/data" }]);
    }
    pod
}

fn is_ready() -> impl Condition<Pod> {
    |pod: Option<&Pod>| {
        let conditions = pod.and_then(|pod| pod.status.as_ref()).and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }
}

fn describe(pod: Option<&Pod>) -> String {
    let status = pod.and_then(|pod| pod.status.as_ref());
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("not there");
    let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let unmet =
        conditions.filter(|condition| condition.status != "True").find_map(|condition| condition.message.clone());
    unmet.map_or_else(|| phase.to_owned(), |message| format!("{phase}: {message}"))
}
