//! DaemonSets: one pod on every node that will have it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::disruption::int_or_percent;
use super::scheduler::{affinity_fits, tolerates};
use super::templates::{adopt, count, create_pod, delete_pod, is_active, is_ready, pods_of};
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{integer, is_terminating, items, label, name, set, short_hash, text};
use crate::kubernetes::selectors::LabelSelector;

const RESOURCE: &str = "daemonsets.apps";
const HASH: &str = "controller-revision-hash";

pub(super) fn sync(cluster: &Cluster) {
    let nodes = cluster.store.list("nodes", None);
    for owner in cluster.store.list(RESOURCE, None) {
        if !is_terminating(&owner) {
            adopt(cluster, &owner);
            place(cluster, &owner, &nodes);
            update(cluster, &owner);
        }
        report(cluster, &owner, &nodes);
    }
}

/// The template's tolerations and those that every daemon gets.
fn with_daemon_tolerations(template: &Value) -> Vec<Value> {
    let mut all = items(template, "/spec/tolerations").to_vec();
    for (key, effect) in [
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ] {
        all.push(json!({"key": key, "operator": "Exists", "effect": effect}));
    }
    if template["spec"]["hostNetwork"] == true {
        all.push(
            json!({"key": "node.kubernetes.io/network-unavailable", "operator": "Exists", "effect": "NoSchedule"}),
        );
    }
    all
}

/// True when a daemon pod may start on the node.
fn wants(owner: &Value, node: &Value) -> bool {
    fits(owner, node, &["NoSchedule", "NoExecute"])
}

/// True when selectors match and every taint of these effects is tolerated.
fn fits(owner: &Value, node: &Value, effects: &[&str]) -> bool {
    let template = &owner["spec"]["template"];
    let tolerations = with_daemon_tolerations(template);
    let tolerated =
        |taint: &Value| !effects.contains(&text(taint, "/effect")) || tolerations.iter().any(|it| tolerates(it, taint));
    LabelSelector::from_map(&template["spec"]["nodeSelector"]).selects(node)
        && affinity_fits(&template["spec"], node)
        && items(node, "/spec/taints").iter().all(tolerated)
        && !is_terminating(node)
}

fn on_node<'a>(pods: &'a [Arc<Value>], node: &str) -> Vec<&'a Arc<Value>> {
    pods.iter().filter(|pod| target(pod) == node).collect()
}

/// The node a daemon pod is for.
fn target(pod: &Value) -> &str {
    text(pod, "/spec/nodeName")
}

fn place(cluster: &Cluster, owner: &Value, nodes: &[Arc<Value>]) {
    let pods = pods_of(cluster, owner);
    for pod in pods.iter().filter(|pod| !nodes.iter().any(|node| name(node) == target(pod))) {
        cluster.store.remove("pods", crate::kubernetes::object::namespace(pod), name(pod));
    }
    let hash = short_hash(&owner["spec"]["template"]);
    for node in nodes {
        let here = on_node(&pods, name(node));
        for failed in here.iter().filter(|pod| matches!(text(pod, "/status/phase"), "Failed" | "Succeeded")) {
            delete_pod(cluster, owner, failed);
        }
        match (wants(owner, node), here.is_empty()) {
            (true, true) => {
                create_pod(cluster, owner, None, |pod| {
                    let tolerations = with_daemon_tolerations(&owner["spec"]["template"]);
                    set(pod, &["spec", "tolerations"], Value::Array(tolerations));
                    set(pod, &["spec", "nodeName"], json!(name(node)));
                    set(pod, &["metadata", "labels", HASH], json!(hash));
                    set(
                        pod,
                        &["metadata", "labels", "pod-template-generation"],
                        json!(owner["metadata"]["generation"].to_string()),
                    );
                });
            }
            (false, false) if !fits(owner, node, &["NoExecute"]) => {
                here.iter().for_each(|pod| delete_pod(cluster, owner, pod));
            }
            _ => {}
        }
    }
}

/// Replaces pods of a former template, as many at a time as may be unavailable.
fn update(cluster: &Cluster, owner: &Value) {
    if text(owner, "/spec/updateStrategy/type") != "RollingUpdate" {
        return;
    }
    let hash = short_hash(&owner["spec"]["template"]);
    let pods = pods_of(cluster, owner);
    let stale: Vec<&Arc<Value>> = pods.iter().filter(|pod| is_active(pod) && label(pod, HASH) != Some(&hash)).collect();
    if stale.is_empty() {
        return;
    }
    let limit =
        int_or_percent(&owner["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], count(pods.len()), true)
            .max(1);
    let unavailable = count(pods.iter().filter(|pod| !is_ready(pod)).count());
    let room = usize::try_from(limit - unavailable).unwrap_or(0);
    let (ready, unready): (Vec<&Arc<Value>>, Vec<&Arc<Value>>) = stale.into_iter().partition(|pod| is_ready(pod));
    for pod in unready.into_iter().chain(ready.into_iter().take(room)) {
        delete_pod(cluster, owner, pod);
    }
}

fn report(cluster: &Cluster, owner: &Value, nodes: &[Arc<Value>]) {
    let pods = pods_of(cluster, owner);
    let hash = short_hash(&owner["spec"]["template"]);
    let wanted: Vec<&Arc<Value>> = nodes.iter().filter(|node| wants(owner, node)).collect();
    let covered = |check: &dyn Fn(&Value) -> bool| {
        count(wanted.iter().filter(|node| on_node(&pods, name(node)).iter().any(|pod| check(pod))).count())
    };
    let (current, ready) = (covered(&|_| true), covered(&is_ready));
    let updated = covered(&|pod| label(pod, HASH) == Some(&hash) && !is_terminating(pod));
    cluster.change(RESOURCE, owner, |it| {
        let desired = count(wanted.len());
        let mut status = json!({
            "currentNumberScheduled": current, "desiredNumberScheduled": desired, "numberMisscheduled": 0,
            "numberReady": ready, "observedGeneration": integer(it, "/metadata/generation").unwrap_or(1)});
        for (key, value) in
            [("updatedNumberScheduled", updated), ("numberAvailable", ready), ("numberUnavailable", desired - ready)]
        {
            if value > 0 {
                status[key] = json!(value);
            }
        }
        set(it, &["status"], status);
    });
}
