//! Nodes: Unknown when their kubelet goes silent, tainted while not ready, their pods evicted when patience ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::scheduler::tolerates;
use super::templates::delete;
use crate::crowd;
use crate::kubernetes::cluster::{Cluster, Event};
use crate::kubernetes::object::{
    Condition, condition, flag, integer, is_terminating, items, name, set, set_condition, text, uid,
};

/// How long a node may be silent before it counts as unknown (`--node-monitor-grace-period`).
const GRACE: Duration = Duration::from_secs(50);
/// However fast the lab runs, a kubelet that is merely late on a busy machine is not dead.
const LEAST_GRACE: Duration = Duration::from_secs(2);
const LEASES: &str = "leases.coordination.k8s.io";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The least that a node may be silent in a world with as many clusters as there are.
pub(crate) fn least_grace() -> Duration {
    crowd::spread(LEAST_GRACE)
}

/// What the controller saw, by its own clock, as the real one does.
#[derive(Default)]
pub(super) struct Observer {
    /// The last renewal of each node's lease and when it was seen.
    leases: HashMap<String, (String, Instant)>,
    /// When each pod first met a taint that it tolerates for a while only.
    evictions: HashMap<String, Instant>,
}

impl Observer {
    pub(super) fn sync(&mut self, cluster: &Cluster) {
        let nodes = cluster.store.list("nodes", None);
        for node in &nodes {
            let silent = self.silence(cluster, node) >= cluster.scaled(GRACE).max(least_grace());
            if silent {
                mark_unknown(cluster, node);
            }
            if let Some(node) = cluster.store.get("nodes", "", name(node)) {
                taint(cluster, &node);
                assign_pod_subnet(cluster, &node);
            }
        }
        self.leases.retain(|known, _| nodes.iter().any(|node| name(node) == known));
        self.evict(cluster);
        remove_orphaned_pods(cluster, &nodes);
    }

    fn silence(&mut self, cluster: &Cluster, node: &Value) -> Duration {
        let lease = cluster.store.get(LEASES, "kube-node-lease", name(node));
        let renewed = lease.as_ref().map_or("", |it| text(it, "/spec/renewTime")).to_owned();
        let seen = self.leases.entry(name(node).to_owned()).or_insert_with(|| (renewed.clone(), Instant::now()));
        if seen.0 != renewed {
            *seen = (renewed, Instant::now());
        }
        seen.1.elapsed()
    }

    /// Deletes pods that do not tolerate a `NoExecute` taint of their node, or tolerated it long enough.
    fn evict(&mut self, cluster: &Cluster) {
        let mut waiting: HashMap<String, Instant> = HashMap::new();
        for pod in cluster.store.list("pods", None) {
            let Some(node) = cluster.store.get("nodes", "", text(&pod, "/spec/nodeName")) else { continue };
            if is_terminating(&pod) {
                continue;
            }
            let patience = patience(&pod, &node);
            let Some(patience) = patience else { continue };
            let since = *self.evictions.get(uid(&pod)).unwrap_or(&Instant::now());
            if since.elapsed() >= cluster.scaled(Duration::from_secs(patience)) {
                const MESSAGE: &str = "Marking for deletion Pod";
                cluster.event(
                    &pod,
                    &Event {
                        kind: "Normal",
                        reason: "TaintManagerEviction",
                        message: MESSAGE,
                        component: "taint-eviction-controller",
                    },
                );
                delete(cluster, "pods", &pod);
            } else {
                waiting.insert(uid(&pod).to_owned(), since);
            }
        }
        self.evictions = waiting;
    }
}

/// Seconds that the pod may stay on the node; `None` when nothing drives it away.
fn patience(pod: &Value, node: &Value) -> Option<u64> {
    let mut least: Option<u64> = None;
    for taint in items(node, "/spec/taints").iter().filter(|it| text(it, "/effect") == "NoExecute") {
        let tolerations: Vec<&Value> =
            items(pod, "/spec/tolerations").iter().filter(|it| tolerates(it, taint)).collect();
        if tolerations.is_empty() {
            return Some(0);
        }
        let seconds = tolerations.iter().filter_map(|it| integer(it, "/tolerationSeconds")).min();
        if let Some(seconds) = seconds {
            let seconds = u64::try_from(seconds).unwrap_or(0);
            least = Some(least.map_or(seconds, |least| least.min(seconds)));
        }
    }
    least
}

fn mark_unknown(cluster: &Cluster, node: &Value) {
    if condition(node, "Ready").is_some_and(|it| it["status"] == "Unknown") {
        return;
    }
    cluster.change("nodes", node, |it| {
        for kind in ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"] {
            const MESSAGE: &str = "Kubelet stopped posting node status.";
            set_condition(it, &Condition { kind, status: "Unknown", reason: "NodeStatusUnknown", message: MESSAGE });
        }
    });
    let message = format!("Node {} status is now: NodeNotReady", name(node));
    cluster.event(
        node,
        &Event { kind: "Normal", reason: "NodeNotReady", message: &message, component: "node-controller" },
    );
    for pod in cluster.store.list("pods", None).iter().filter(|pod| text(pod, "/spec/nodeName") == name(node)) {
        cluster.change("pods", pod, |it| {
            set_condition(it, &Condition { kind: "Ready", status: "False", reason: "", message: "" });
        });
    }
}

/// Keeps the taints that follow from conditions and from cordoning.
fn taint(cluster: &Cluster, node: &Value) {
    let ready = condition(node, "Ready").map_or("Unknown", |it| text(it, "/status"));
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match ready {
        "True" => {}
        "False" => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        _ => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
    }
    if flag(node, "/spec/unschedulable") {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let managed = |taint: &Value| [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&text(taint, "/key"));
    let has = |taints: &[Value], (key, effect): (&str, &str)| {
        taints.iter().any(|it| text(it, "/key") == key && text(it, "/effect") == effect)
    };
    cluster.change("nodes", node, |it| {
        let mut taints: Vec<Value> = items(it, "/spec/taints")
            .iter()
            .filter(|taint| !managed(taint) || wanted.contains(&(text(taint, "/key"), text(taint, "/effect"))))
            .cloned()
            .collect();
        for (key, effect) in wanted {
            if !has(&taints, (key, effect)) {
                taints.push(json!({"key": key, "effect": effect, "timeAdded": crate::kubernetes::object::now()}));
            }
        }
        if taints.is_empty() {
            crate::kubernetes::object::remove(it, &["spec", "taints"]);
        } else {
            set(it, &["spec", "taints"], Value::Array(taints));
        }
    });
}

/// Gives each node a /24 of the pod subnet.
fn assign_pod_subnet(cluster: &Cluster, node: &Value) {
    if !text(node, "/spec/podCIDR").is_empty() {
        return;
    }
    let Ok(IpNet::V4(all)) = cluster.identity.pod_subnet.parse::<IpNet>() else { return };
    let Ok(mut subnets) = all.subnets(24) else { return };
    // Read anew: this round may have given one to another node.
    let nodes = cluster.store.list("nodes", None);
    let used: Vec<&str> = nodes.iter().map(|it| text(it, "/spec/podCIDR")).collect();
    if let Some(free) = subnets.find(|it| !used.contains(&it.to_string().as_str())) {
        cluster.change("nodes", node, |it| {
            set(it, &["spec", "podCIDR"], json!(free.to_string()));
            set(it, &["spec", "podCIDRs"], json!([free.to_string()]));
        });
    }
}

/// Removes pods of nodes that were deleted, as pod garbage collection does.
fn remove_orphaned_pods(cluster: &Cluster, nodes: &[Arc<Value>]) {
    for pod in cluster.store.list("pods", None) {
        let node = text(&pod, "/spec/nodeName");
        if !node.is_empty()
            && !nodes.iter().any(|it| name(it) == node)
            && cluster.store.get("nodes", "", node).is_none()
        {
            cluster.store.remove("pods", crate::kubernetes::object::namespace(&pod), name(&pod));
        }
    }
}
