//! The scheduler: puts pods on nodes that fit, or says why none does.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::volumes;
use crate::kubernetes::cluster::{Cluster, Event};
use crate::kubernetes::object::{
    Condition, flag, integer, is_terminating, items, label, map, name, namespace, set, set_condition, text,
};
use crate::kubernetes::quantity::{bytes_of, cpu_millis};
use crate::kubernetes::selectors::LabelSelector;

/// What a node has left, or a pod asks for.
#[derive(Clone, Copy, Default)]
struct Resources {
    cpu_millis: u64,
    memory_bytes: u64,
    pods: u64,
}

pub(super) fn sync(cluster: &Cluster) {
    let pods = cluster.store.list("pods", None);
    let pending: Vec<&Arc<Value>> = pods
        .iter()
        .filter(|pod| text(pod, "/spec/nodeName").is_empty() && !is_terminating(pod) && is_ours(pod))
        .collect();
    if pending.is_empty() {
        return;
    }
    let nodes = cluster.store.list("nodes", None);
    let mut used: HashMap<String, Resources> = HashMap::new();
    let mut placed: Vec<Arc<Value>> = pods.iter().filter(|pod| occupies(pod)).cloned().collect();
    for pod in &placed {
        take(&mut used, text(pod, "/spec/nodeName"), pod);
    }
    let mut pending = pending;
    pending.sort_by_key(|pod| std::cmp::Reverse(integer(pod, "/spec/priority").unwrap_or(0)));
    for pod in pending {
        match choose(cluster, pod, &nodes, &used, &placed) {
            Ok(node) => {
                bind(cluster, pod, node);
                take(&mut used, name(node), pod);
                let mut copy = (**pod).clone();
                set(&mut copy, &["spec", "nodeName"], json!(name(node)));
                placed.push(Arc::new(copy));
            }
            Err(why) => refuse(cluster, pod, &why),
        }
    }
}

fn is_ours(pod: &Value) -> bool {
    text(pod, "/spec/schedulerName") == "default-scheduler" && items(pod, "/spec/schedulingGates").is_empty()
}

fn occupies(pod: &Value) -> bool {
    !text(pod, "/spec/nodeName").is_empty() && !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

fn take(used: &mut HashMap<String, Resources>, node: &str, pod: &Value) {
    let asked = requests(pod);
    let entry = used.entry(node.to_owned()).or_default();
    entry.cpu_millis += asked.cpu_millis;
    entry.memory_bytes += asked.memory_bytes;
    entry.pods += 1;
}

fn requests(pod: &Value) -> Resources {
    let mut sum = Resources { pods: 1, ..Resources::default() };
    for container in items(pod, "/spec/containers") {
        if let Some(asked) = map(container, "/resources/requests") {
            sum.cpu_millis += asked.get("cpu").map_or(0, cpu_millis);
            sum.memory_bytes += asked.get("memory").map_or(0, bytes_of);
        }
    }
    sum
}

/// The least loaded node that fits, or the sentence of the real scheduler about why none does.
fn choose<'a>(
    cluster: &Cluster,
    pod: &Value,
    nodes: &'a [Arc<Value>],
    used: &HashMap<String, Resources>,
    placed: &[Arc<Value>],
) -> Result<&'a Value, String> {
    if let Some(why) = volumes::unschedulable(cluster, pod) {
        return Err(format!(
            "0/{} nodes are available: {why}. preemption: 0/{0} nodes are available: {0} Preemption is not helpful for scheduling.",
            nodes.len()
        ));
    }
    let mut reasons: HashMap<String, usize> = HashMap::new();
    let mut best: Option<(u64, &Value)> = None;
    for node in nodes {
        let taken = used.get(name(node)).copied().unwrap_or_default();
        match misfit(cluster, pod, node, taken, placed) {
            Some(reason) => *reasons.entry(reason).or_default() += 1,
            None => {
                let siblings = placed.iter().filter(|it| {
                    text(it, "/spec/nodeName") == name(node) && it["metadata"]["labels"] == pod["metadata"]["labels"]
                });
                let load = siblings.count() as u64 * 1_000_000 + taken.pods * 1000 + taken.cpu_millis / 10;
                if best.is_none_or(|(least, _)| load < least) {
                    best = Some((load, node));
                }
            }
        }
    }
    if let Some((_, node)) = best {
        return Ok(node);
    }
    if nodes.is_empty() {
        return Err("no nodes available to schedule pods".into());
    }
    let mut list: Vec<String> = reasons.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    list.sort();
    let total = nodes.len();
    Err(format!(
        "0/{total} nodes are available: {}. preemption: 0/{total} nodes are available: {total} Preemption is not helpful for scheduling.",
        list.join(", ")
    ))
}

fn misfit(cluster: &Cluster, pod: &Value, node: &Value, taken: Resources, placed: &[Arc<Value>]) -> Option<String> {
    let tolerations = items(pod, "/spec/tolerations");
    if flag(node, "/spec/unschedulable")
        && !tolerations
            .iter()
            .any(|it| tolerates(it, &json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"})))
    {
        return Some("node(s) were unschedulable".into());
    }
    let refused = items(node, "/spec/taints").iter().find(|taint| {
        text(taint, "/effect") != "PreferNoSchedule" && !tolerations.iter().any(|it| tolerates(it, taint))
    });
    if let Some(taint) = refused {
        return Some(format!("node(s) had untolerated taint {{{}: {}}}", text(taint, "/key"), text(taint, "/value")));
    }
    let selector = LabelSelector::from_map(&pod["spec"]["nodeSelector"]);
    if !selector.selects(node) || !affinity_fits(&pod["spec"], node) {
        return Some("node(s) didn't match Pod's node affinity/selector".into());
    }
    if let Some(reason) = volumes::misfit(cluster, pod, node) {
        return Some(reason);
    }
    if anti_affinity_forbids(pod, node, placed) {
        return Some("node(s) didn't match pod anti-affinity rules".into());
    }
    let asked = requests(pod);
    let allocatable = |key: &str, read: fn(&Value) -> u64| read(&node["status"]["allocatable"][key]);
    if taken.pods + asked.pods > allocatable("pods", bytes_of) {
        return Some("Too many pods".into());
    }
    if asked.cpu_millis > 0 && taken.cpu_millis + asked.cpu_millis > allocatable("cpu", cpu_millis) {
        return Some("Insufficient cpu".into());
    }
    if asked.memory_bytes > 0 && taken.memory_bytes + asked.memory_bytes > allocatable("memory", bytes_of) {
        return Some("Insufficient memory".into());
    }
    None
}

/// True when a toleration covers a taint.
pub(super) fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let effect = text(toleration, "/effect");
    let key = text(toleration, "/key");
    if !effect.is_empty() && effect != text(taint, "/effect") {
        return false;
    }
    if text(toleration, "/operator") == "Exists" {
        key.is_empty() || key == text(taint, "/key")
    } else {
        key == text(taint, "/key") && text(toleration, "/value") == text(taint, "/value")
    }
}

/// The required node affinity of a pod spec: one of its terms must match.
pub(super) fn affinity_fits(spec: &Value, node: &Value) -> bool {
    const REQUIRED: &str = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let terms = items(spec, REQUIRED);
    terms.is_empty()
        || terms.iter().any(|term| {
            let labels = LabelSelector::from_expressions(items(term, "/matchExpressions"));
            let by_name = json!({"metadata": {"labels": {"metadata.name": name(node)}}});
            let fields = LabelSelector::from_expressions(items(term, "/matchFields"));
            labels.is_some_and(|it| it.selects(node)) && fields.is_some_and(|it| it.selects(&by_name))
        })
}

fn anti_affinity_forbids(pod: &Value, node: &Value, placed: &[Arc<Value>]) -> bool {
    const REQUIRED: &str = "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    items(pod, REQUIRED).iter().any(|term| {
        let key = text(term, "/topologyKey");
        let Some(selector) = LabelSelector::from_object(&term["labelSelector"]) else { return false };
        key == "kubernetes.io/hostname"
            && label(node, key).is_some()
            && placed.iter().any(|it| {
                text(it, "/spec/nodeName") == name(node) && namespace(it) == namespace(pod) && selector.selects(it)
            })
    })
}

fn bind(cluster: &Cluster, pod: &Value, node: &Value) {
    volumes::choose_node(cluster, pod, name(node));
    cluster.change("pods", pod, |it| {
        set(it, &["spec", "nodeName"], json!(name(node)));
        set_condition(it, &Condition { kind: "PodScheduled", status: "True", reason: "", message: "" });
    });
    let message = format!("Successfully assigned {}/{} to {}", namespace(pod), name(pod), name(node));
    cluster
        .event(pod, &Event { kind: "Normal", reason: "Scheduled", message: &message, component: "default-scheduler" });
}

fn refuse(cluster: &Cluster, pod: &Value, why: &str) {
    let known = crate::kubernetes::object::condition(pod, "PodScheduled").is_some_and(|it| it["message"] == why);
    if known {
        return;
    }
    cluster.change("pods", pod, |it| {
        set_condition(it, &Condition { kind: "PodScheduled", status: "False", reason: "Unschedulable", message: why });
    });
    cluster.event(
        pod,
        &Event { kind: "Warning", reason: "FailedScheduling", message: why, component: "default-scheduler" },
    );
}
