//! The life of the pods on a node: pulled, started, ready, finished, terminated.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::node::NO_NETWORK;
use super::{Memory, PodMemory, cilium, containers, volumes};
use crate::kubernetes::cluster::{Cluster, Event};
use crate::kubernetes::object::{
    Condition, condition_is_true, controller_of, integer, is_terminating, items, name, namespace, now, set,
    set_condition, set_default, text, uid,
};
use crate::kubernetes::settings::KubeletOptions;

/// How long pulling the images and making the sandbox takes.
const PULL: Duration = Duration::from_secs(2);
/// How long a started container takes to become ready, besides what its probe says.
const BECOME_READY: Duration = Duration::from_secs(1);
/// How long a container takes to end after SIGTERM.
const END: Duration = Duration::from_secs(1);

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Admitted; images are being pulled.
    Pulling,
    /// Containers run and are not ready yet.
    Starting,
    Ready,
    /// Asked to end.
    Ending,
    Finished,
}

/// Brings every pod of the node one step further; returns when the next one is due.
pub(super) fn sync(
    cluster: &Arc<Cluster>,
    options: &KubeletOptions,
    node: &Value,
    memory: &mut Memory,
) -> Option<Duration> {
    let mine: Vec<Arc<Value>> = cluster
        .store
        .list("pods", None)
        .into_iter()
        .filter(|pod| text(pod, "/spec/nodeName") == options.node_name)
        .collect();
    memory.pods.retain(|known, _| mine.iter().any(|pod| uid(pod) == known));
    let mut next: Option<Duration> = None;
    for pod in &mine {
        let agent = PodAgent { cluster, options, node, network: memory.network };
        let entry = memory.pods.entry(uid(pod).to_owned()).or_insert_with(|| agent.admit(pod));
        if let Some(due) = agent.advance(pod, entry) {
            next = Some(next.map_or(due, |next| next.min(due)));
        }
    }
    if !memory.network {
        memory.network = mine.iter().any(|pod| is_network_plugin(pod) && condition_is_true(pod, "Ready"));
        if memory.network {
            next = Some(Duration::ZERO);
        }
    }
    next
}

/// A pod of a DaemonSet that writes CNI configuration to the host.
fn is_network_plugin(pod: &Value) -> bool {
    let writes_config = items(pod, "/spec/volumes").iter().any(|it| text(it, "/hostPath/path").starts_with("/etc/cni"));
    writes_config && controller_of(pod).is_some_and(|owner| text(owner, "/kind") == "DaemonSet")
}

struct PodAgent<'a> {
    cluster: &'a Arc<Cluster>,
    options: &'a KubeletOptions,
    node: &'a Value,
    network: bool,
}

impl PodAgent<'_> {
    /// First sight of a pod: a running one was running before the node lost power, so its containers start again.
    fn admit(&self, pod: &Value) -> PodMemory {
        let step = match text(pod, "/status/phase") {
            "Succeeded" | "Failed" => Step::Finished,
            "Running" => {
                self.start(pod, 1);
                Step::Starting
            }
            _ => Step::Pulling,
        };
        PodMemory { since: Instant::now(), step }
    }

    /// Moves a pod on when its time has come; returns how long until the next move.
    fn advance(&self, pod: &Value, memory: &mut PodMemory) -> Option<Duration> {
        if is_terminating(pod) && !matches!(memory.step, Step::Ending) {
            let mirror = crate::kubernetes::object::annotation(pod, "kubernetes.io/config.mirror").is_some();
            let unstarted = matches!(memory.step, Step::Pulling | Step::Finished);
            *memory = PodMemory { since: Instant::now(), step: Step::Ending };
            if mirror || unstarted {
                return self.remove(pod);
            }
            self.say(pod, "Normal", "Killing", &format!("Stopping container {}", text(pod, "/spec/containers/0/name")));
            self.cluster.change("pods", pod, not_ready);
        }
        let due = self.cluster.scaled(self.duration(pod, memory.step)?);
        let left = due.saturating_sub(memory.since.elapsed());
        if !left.is_zero() {
            return Some(left);
        }
        self.step(pod, memory)
    }

    /// How long the step lasts; `None` when only a change from outside ends it.
    fn duration(&self, pod: &Value, step: Step) -> Option<Duration> {
        let initial = Duration::from_secs(items(pod, "/spec/initContainers").len() as u64);
        match step {
            Step::Pulling => Some(PULL + initial),
            Step::Starting => {
                let probe = integer(pod, "/spec/containers/0/readinessProbe/initialDelaySeconds").unwrap_or(0);
                Some(BECOME_READY + Duration::from_secs(probe.unsigned_abs()))
            }
            Step::Ready => containers::run_time(pod),
            Step::Ending => {
                let grace = integer(pod, "/metadata/deletionGracePeriodSeconds").unwrap_or(30).unsigned_abs();
                Some(END.min(Duration::from_secs(grace)))
            }
            Step::Finished => None,
        }
    }

    fn step(&self, pod: &Value, memory: &mut PodMemory) -> Option<Duration> {
        let retry = Some(self.cluster.scaled(Duration::from_secs(2)));
        let took = std::mem::replace(&mut memory.since, Instant::now()).elapsed();
        let record = |what: &str| {
            self.options.delays.note(format_args!("{what} {}/{}", namespace(pod), name(pod)), took);
        };
        match memory.step {
            Step::Pulling => {
                if let Some((reason, message)) = self.obstacle(pod) {
                    self.wait(pod, reason, &message);
                    return retry;
                }
                record("pull");
                self.start(pod, 0);
                memory.step = Step::Starting;
            }
            Step::Starting => {
                if containers::asks_dns(pod) && !dns_answers(self.cluster) {
                    return retry;
                }
                let owner = controller_of(pod).map_or("Pod", |owner| text(owner, "/kind"));
                if self.cluster.fault(&format!("kube ready {owner} {}/{}", namespace(pod), name(pod))).is_some() {
                    return retry;
                }
                record("start");
                self.cluster.change("pods", pod, ready);
                memory.step = Step::Ready;
            }
            Step::Ready => {
                record("run");
                self.finish(pod);
                memory.step = Step::Finished;
            }
            Step::Ending => {
                record("end");
                return self.remove(pod);
            }
            Step::Finished => return None,
        }
        self.duration(pod, memory.step).map(|due| self.cluster.scaled(due))
    }

    /// Why the containers cannot start yet: an event's reason and message.
    fn obstacle(&self, pod: &Value) -> Option<(&'static str, String)> {
        if pod["spec"]["hostNetwork"] != true && !self.network {
            return Some(("NetworkNotReady", format!("network is not ready: {NO_NETWORK}")));
        }
        if let Some(message) = volumes::obstacle(self.cluster, pod) {
            return Some(("FailedMount", message));
        }
        let bad =
            items(pod, "/spec/containers").iter().map(|it| text(it, "/image")).find(|it| it.contains("does-not-exist"));
        bad.map(|image| {
            let message = format!("Failed to pull image {image:?}: rpc error: code = NotFound desc = failed to pull and unpack image: not found");
            ("Failed", message)
        })
    }

    /// Shows the containers as waiting and says why.
    fn wait(&self, pod: &Value, reason: &str, message: &str) {
        let shown = if reason == "Failed" { "ImagePullBackOff" } else { "ContainerCreating" };
        self.say(pod, "Warning", reason, message);
        self.cluster.change("pods", pod, |it| {
            let waiting: Vec<Value> = items(it, "/spec/containers")
                .iter()
                .map(|container| {
                    json!({
                        "name": container["name"], "image": container["image"], "imageID": "", "ready": false,
                        "started": false, "restartCount": 0, "state": {"waiting": {"reason": shown}}, "lastState": {}})
                })
                .collect();
            set(it, &["status", "phase"], json!("Pending"));
            set(it, &["status", "containerStatuses"], Value::Array(waiting));
            set_default(it, &["status", "startTime"], json!(now()));
            set(it, &["status", "hostIP"], json!(host_address(self.options)));
        });
    }

    /// Starts the containers; `restarts` more than they had.
    fn start(&self, pod: &Value, restarts: i64) {
        let host = host_address(self.options);
        let former = text(pod, "/status/podIP");
        let address = if pod["spec"]["hostNetwork"] == true {
            host.clone()
        } else if former.is_empty() {
            self.cluster.pod_address(text(pod, "/spec/nodeName"))
        } else {
            former.to_owned()
        };
        if restarts == 0 {
            for container in items(pod, "/spec/containers") {
                let container = text(container, "/name");
                self.say(pod, "Normal", "Created", &format!("Container created: {container}"));
                self.say(pod, "Normal", "Started", &format!("Container started: {container}"));
            }
        }
        self.cluster.change("pods", pod, |it| {
            let initial = containers::completed_initial(it);
            let running = containers::running(it, restarts);
            for (key, value) in [
                ("phase", json!("Running")),
                ("hostIP", json!(host)),
                ("hostIPs", json!([{"ip": host}])),
                ("podIP", json!(address)),
                ("podIPs", json!([{"ip": address}])),
                ("containerStatuses", Value::Array(running)),
            ] {
                set(it, &["status", key], value);
            }
            if !initial.is_empty() {
                set(it, &["status", "initContainerStatuses"], Value::Array(initial));
            }
            set_default(it, &["status", "startTime"], json!(now()));
            for (kind, status) in
                [("PodReadyToStartContainers", "True"), ("Initialized", "True"), ("PodScheduled", "True")]
            {
                set_condition(it, &Condition { kind, status, reason: "", message: "" });
            }
            not_ready(it);
        });
    }

    /// Ends the containers of a pod that runs to completion.
    fn finish(&self, pod: &Value) {
        let code = match cilium::install(self.cluster, pod) {
            Some(code) => code,
            None => containers::exit_code(pod),
        };
        self.cluster.change("pods", pod, |it| {
            containers::terminate(it, code);
            set(it, &["status", "phase"], json!(if code == 0 { "Succeeded" } else { "Failed" }));
            let reason = if code == 0 { "PodCompleted" } else { "PodFailed" };
            for kind in ["Ready", "ContainersReady"] {
                set_condition(it, &Condition { kind, status: "False", reason, message: "" });
            }
        });
    }

    /// Takes the pod out of the API, as far as its finalizers let it.
    fn remove(&self, pod: &Value) -> Option<Duration> {
        self.cluster.change("pods", pod, |it| {
            containers::terminate(it, 0);
            set(it, &["metadata", "deletionGracePeriodSeconds"], json!(0));
        });
        let gone = self.cluster.store.get("pods", namespace(pod), name(pod)).is_none_or(|it| uid(&it) != uid(pod));
        if gone { None } else { Some(self.cluster.scaled(Duration::from_secs(1))) }
    }

    fn say(&self, pod: &Value, kind: &str, reason: &str, message: &str) {
        self.cluster.event(pod, &Event { kind, reason, message, component: "kubelet" });
        let _ = self.node;
    }
}

/// True when a ready pod of CoreDNS stands behind the service `kube-dns`.
fn dns_answers(cluster: &Cluster) -> bool {
    let endpoints = cluster.store.get("endpoints", "kube-system", "kube-dns");
    endpoints.is_some_and(|it| !items(&it, "/subsets/0/addresses").is_empty())
}

fn host_address(options: &KubeletOptions) -> String {
    options.addresses.first().map(ToString::to_string).unwrap_or_default()
}

fn ready(pod: &mut Value) {
    for status in pod.pointer_mut("/status/containerStatuses").and_then(Value::as_array_mut).into_iter().flatten() {
        status["ready"] = json!(true);
        status["started"] = json!(true);
    }
    for kind in ["ContainersReady", "Ready"] {
        set_condition(pod, &Condition { kind, status: "True", reason: "", message: "" });
    }
}

fn not_ready(pod: &mut Value) {
    let names: Vec<&str> = items(pod, "/spec/containers").iter().map(|it| text(it, "/name")).collect();
    let message = format!("containers with unready status: [{}]", names.join(" "));
    for status in pod.pointer_mut("/status/containerStatuses").and_then(Value::as_array_mut).into_iter().flatten() {
        status["ready"] = json!(false);
    }
    for kind in ["ContainersReady", "Ready"] {
        set_condition(pod, &Condition { kind, status: "False", reason: "ContainersNotReady", message: &message });
    }
}
