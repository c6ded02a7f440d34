//! `talos.install_cilium`: a Job of ours runs the pinned command-line tool of Cilium inside the cluster.

use std::time::Duration;

use contractor::action::{Action, Change, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api,
    runtime::wait::{await_condition, conditions::is_job_completed},
};
use messages::name::ClusterName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    failure::asked,
    kubernetes,
    manifest::{self, Workload},
    reach::{Deps, known_cluster},
    settings::Cilium,
    told,
};

const NAME: &str = "cilium-install";
const NAMESPACE: &str = "kube-system";
const SLICE: Duration = Duration::from_secs(10);
/// The load balancer for the API on every node's loopback; there is no kube-proxy.
const KUBE_PRISM: (&str, &str) = ("localhost", "7445");

/// Installs Cilium.
pub struct InstallCilium(pub Deps);

/// Which cluster.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
}

/// What has to come up now.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    pub version: String,
    pub workloads: Vec<Workload>,
}

impl Action for InstallCilium {
    const NAME: &'static str = "talos.install_cilium";
    /// What it installs goes with the cluster.
    const UNDO: Undo = Undo::Nothing;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let cluster = known_cluster(cx, &input.cluster)?.value;
        let settings = &self.0.addons().cilium;
        let client = kubernetes::connect(&self.0, &cx.store, &cluster).await?;
        let jobs = Api::<Job>::namespaced(client.clone(), NAMESPACE);
        let known = jobs.get_opt(NAME).await.map_err(|error| asked("reading the Cilium job", &error))?;
        // A job's template cannot be changed, so what is there is left to end.
        if known.is_none() {
            manifest::apply(&client, &objects(settings)?).await?;
        }
        match timeout(SLICE, await_condition(jobs.clone(), NAME, is_job_completed())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(StepError::wait(format!("following the Cilium job: {error}"), SLICE / 60)),
            Err(_) => return Err(not_done(&jobs).await),
        }
        let workload = |kind: &str, name: &str| Workload {
            kind: kind.to_owned(),
            namespace: NAMESPACE.to_owned(),
            name: name.to_owned(),
        };
        let mut effects = Effects::default();
        let facts = json!({ "version": settings.version, "tool": settings.cli_image });
        effects.events.push(told::event("addon_installed", &input.cluster, "cilium", facts));
        let workloads = vec![workload("DaemonSet", "cilium"), workload("Deployment", "cilium-operator")];
        Ok(Done::with_effects(Output { version: settings.version.clone(), workloads }, effects))
    }

    async fn preview(&self, _: &PreviewContext, _: &Value) -> Result<Vec<Change>, StepError> {
        let settings = &self.0.addons().cilium;
        let details = [("version", &settings.version), ("tool", &settings.cli_image)];
        let details = details.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        Ok(vec![Change { verb: "install".to_owned(), object: "add-on cilium".to_owned(), details, destroys: false }])
    }
}

async fn not_done(jobs: &Api<Job>) -> StepError {
    let status = jobs.get_opt(NAME).await.ok().flatten().and_then(|job| job.status).unwrap_or_default();
    let failed = status.conditions.iter().flatten().find(|is| is.type_ == "Failed" && is.status == "True");
    match failed {
        Some(condition) => StepError::fail(format!(
            "the Cilium job failed: {}",
            condition.message.as_deref().or(condition.reason.as_deref()).unwrap_or("no reason given")
        ))
        .with_hint(format!("see `kubectl -n {NAMESPACE} logs job/{NAME}`; delete the job before resuming")),
        None => StepError::wait(
            format!("the Cilium job runs ({} pods failed so far)", status.failed.unwrap_or_default()),
            Duration::ZERO,
        ),
    }
}

/// Account, rights and Job. The Job runs on the host network of a control plane: there is no pod network yet.
fn objects(settings: &Cilium) -> Result<Vec<kube::core::DynamicObject>, StepError> {
    let label = json!({ "app.kubernetes.io/name": NAME, "app.kubernetes.io/managed-by": kubernetes::FIELD_MANAGER });
    let metadata = json!({ "name": NAME, "namespace": NAMESPACE, "labels": label });
    let objects = [
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": NAME, "labels": label },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE }],
        }),
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata,
            "spec": { "backoffLimit": 10, "template": { "metadata": { "labels": label }, "spec": pod(settings) } },
        }),
    ];
    let parse = |object: Value| {
        serde_json::from_value(object).map_err(|error| StepError::fail(format!("the Cilium job: {error}")))
    };
    objects.into_iter().map(parse).collect()
}

fn pod(settings: &Cilium) -> Value {
    let (host, port) = KUBE_PRISM;
    let mut arguments =
        vec!["cilium".to_owned(), "install".to_owned(), "--version".to_owned(), settings.version.clone()];
    for value in [
        "ipam.mode=kubernetes".to_owned(),
        "kubeProxyReplacement=true".to_owned(),
        format!("k8sServiceHost={host}"),
        format!("k8sServicePort={port}"),
        // Talos mounts these itself and lets no pod load kernel modules.
        "cgroup.autoMount.enabled=false".to_owned(),
        "cgroup.hostRoot=/sys/fs/cgroup".to_owned(),
        "securityContext.capabilities.ciliumAgent={CHOWN,KILL,NET_ADMIN,NET_RAW,IPC_LOCK,SYS_ADMIN,SYS_RESOURCE,\
         DAC_OVERRIDE,FOWNER,SETGID,SETUID}"
            .to_owned(),
        "securityContext.capabilities.cleanCiliumState={NET_ADMIN,SYS_ADMIN,SYS_RESOURCE}".to_owned(),
    ] {
        arguments.extend(["--set".to_owned(), value]);
    }
    json!({
        "serviceAccountName": NAME,
        "restartPolicy": "OnFailure",
        "hostNetwork": true,
        "nodeSelector": { "node-role.kubernetes.io/control-plane": "" },
        "tolerations": [{ "operator": "Exists" }],
        "containers": [{
            "name": NAME,
            "image": settings.cli_image,
            "command": arguments,
            "env": [
                { "name": "KUBERNETES_SERVICE_HOST", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
                { "name": "KUBERNETES_SERVICE_PORT", "value": kubernetes::PORT.to_string() },
            ],
        }],
    })
}
