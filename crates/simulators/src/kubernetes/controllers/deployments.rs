//! Deployments: one ReplicaSet per template, rolled over within surge and unavailability.

use std::sync::Arc;

use serde_json::{Value, json};

use super::disruption::int_or_percent;
use super::templates::delete;
use crate::kubernetes::cluster::{Cluster, Event};
use crate::kubernetes::object::{
    Condition, annotation, controller_reference, integer, is_controlled_by, is_terminating, name, namespace, set,
    set_condition, short_hash, text, uid,
};

const RESOURCE: &str = "deployments.apps";
const SETS: &str = "replicasets.apps";
const REVISION: &str = "deployment.kubernetes.io/revision";

pub(super) fn sync(cluster: &Cluster) {
    for deployment in cluster.store.list(RESOURCE, None) {
        if is_terminating(&deployment) {
            continue;
        }
        if deployment["spec"]["paused"] != true {
            roll(cluster, &deployment);
        }
        report(cluster, &deployment);
    }
}

fn sets_of(cluster: &Cluster, deployment: &Value) -> Vec<Arc<Value>> {
    let all = cluster.store.list(SETS, Some(namespace(deployment)));
    all.into_iter().filter(|it| is_controlled_by(it, uid(deployment))).collect()
}

fn revision_of(set: &Value) -> i64 {
    annotation(set, REVISION).and_then(|it| it.parse().ok()).unwrap_or(0)
}

fn replicas(set: &Value) -> i64 {
    integer(set, "/spec/replicas").unwrap_or(0)
}

/// The hash of the template, as labels and ReplicaSet names carry it.
fn template_hash(deployment: &Value) -> String {
    short_hash(&deployment["spec"]["template"])
}

fn roll(cluster: &Cluster, deployment: &Value) {
    let hash = template_hash(deployment);
    let sets = sets_of(cluster, deployment);
    let newest = sets.iter().map(|it| revision_of(it)).max().unwrap_or(0);
    let current = sets.iter().find(|it| text(it, "/metadata/labels/pod-template-hash") == hash);
    let Some(current) = current else {
        create_set(cluster, deployment, &hash, newest + 1);
        return;
    };
    if revision_of(current) < newest {
        cluster.change(SETS, current, |it| {
            set(it, &["metadata", "annotations", REVISION], json!((newest + 1).to_string()))
        });
    }
    let revision = revision_of(current).max(1);
    cluster.change(RESOURCE, deployment, |it| {
        set(it, &["metadata", "annotations", REVISION], json!(revision.to_string()))
    });
    let old: Vec<&Arc<Value>> = sets.iter().filter(|it| uid(it) != uid(current)).collect();
    scale_sets(cluster, deployment, current, &old);
    forget_history(cluster, deployment, &old);
}

fn create_set(cluster: &Cluster, deployment: &Value, hash: &str, revision: i64) {
    let mut template = deployment["spec"]["template"].clone();
    set(&mut template, &["metadata", "labels", "pod-template-hash"], json!(hash));
    let mut selector = deployment["spec"]["selector"].clone();
    set(&mut selector, &["matchLabels", "pod-template-hash"], json!(hash));
    let made = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", name(deployment)), "namespace": namespace(deployment),
            "labels": template["metadata"]["labels"], "ownerReferences": [controller_reference(deployment)],
            "annotations": {
                REVISION: revision.to_string(),
                "deployment.kubernetes.io/desired-replicas": deployment["spec"]["replicas"].to_string()}},
        "spec": {"replicas": 0, "selector": selector, "template": template},
    });
    cluster.ensure(SETS, made);
}

fn scale_sets(cluster: &Cluster, deployment: &Value, current: &Value, old: &[&Arc<Value>]) {
    let wanted = integer(deployment, "/spec/replicas").unwrap_or(1);
    let old_total: i64 = old.iter().map(|it| replicas(it)).sum();
    if text(deployment, "/spec/strategy/type") == "Recreate" {
        for it in old.iter().filter(|it| replicas(it) > 0) {
            scale(cluster, deployment, it, 0);
        }
        let gone = old.iter().all(|it| integer(it, "/status/replicas").unwrap_or(0) == 0);
        if gone {
            scale(cluster, deployment, current, wanted);
        }
        return;
    }
    let strategy = &deployment["spec"]["strategy"]["rollingUpdate"];
    let surge = int_or_percent(&strategy["maxSurge"], wanted, true);
    let mut unavailable = int_or_percent(&strategy["maxUnavailable"], wanted, false);
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    let room = (wanted + surge - old_total - replicas(current)).max(0);
    let target = if old_total == 0 { wanted } else { (replicas(current) + room).min(wanted) };
    if target != replicas(current) {
        scale(cluster, deployment, current, target);
    }
    let available = |it: &Value| integer(it, "/status/availableReplicas").unwrap_or(0);
    let total_available: i64 = available(current) + old.iter().map(|it| available(it)).sum::<i64>();
    let mut may_remove = (total_available - (wanted - unavailable)).max(0);
    for it in old.iter().filter(|it| replicas(it) > 0) {
        let unready = (replicas(it) - available(it)).max(0);
        let remove = replicas(it).min(unready + may_remove.min(available(it)));
        may_remove -= (remove - unready).max(0);
        if remove > 0 {
            scale(cluster, deployment, it, replicas(it) - remove);
        }
    }
}

fn scale(cluster: &Cluster, deployment: &Value, target: &Value, to: i64) {
    let from = replicas(target);
    if from == to {
        return;
    }
    cluster.change(SETS, target, |it| set(it, &["spec", "replicas"], json!(to)));
    let direction = if to > from { "up" } else { "down" };
    let message = format!("Scaled {direction} replica set {} from {from} to {to}", name(target));
    let event =
        Event { kind: "Normal", reason: "ScalingReplicaSet", message: &message, component: "deployment-controller" };
    cluster.event(deployment, &event);
}

fn forget_history(cluster: &Cluster, deployment: &Value, old: &[&Arc<Value>]) {
    let keep = usize::try_from(integer(deployment, "/spec/revisionHistoryLimit").unwrap_or(10)).unwrap_or(10);
    let mut idle: Vec<_> =
        old.iter().filter(|it| replicas(it) == 0 && integer(it, "/status/replicas") == Some(0)).collect();
    idle.sort_by_key(|it| std::cmp::Reverse(revision_of(it)));
    for it in idle.into_iter().skip(keep) {
        delete(cluster, SETS, it);
    }
}

fn report(cluster: &Cluster, deployment: &Value) {
    let sets = sets_of(cluster, deployment);
    let hash = template_hash(deployment);
    let sum = |key: &str| -> i64 { sets.iter().filter_map(|it| integer(it, &format!("/status/{key}"))).sum() };
    let (total, ready, available) = (sum("replicas"), sum("readyReplicas"), sum("availableReplicas"));
    let current = sets.iter().find(|it| text(it, "/metadata/labels/pod-template-hash") == hash);
    let updated = current.and_then(|it| integer(it, "/status/replicas")).unwrap_or(0);
    let set_name = current.map_or("", |it| name(it)).to_owned();
    cluster.change(RESOURCE, deployment, |it| {
        let wanted = integer(it, "/spec/replicas").unwrap_or(1);
        let observed = it["metadata"]["generation"].clone();
        let mut status = json!({"observedGeneration": observed, "conditions": it["status"]["conditions"]});
        for (key, value) in [
            ("replicas", total),
            ("updatedReplicas", updated),
            ("readyReplicas", ready),
            ("availableReplicas", available),
            ("unavailableReplicas", (wanted.max(total) - available).max(0)),
        ] {
            if value > 0 {
                status[key] = json!(value);
            }
        }
        if status["conditions"].is_null() {
            crate::kubernetes::object::remove(&mut status, &["conditions"]);
        }
        set(it, &["status"], status);
        let unavailable = int_or_percent(&it["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], wanted, false);
        let enough = available >= wanted - unavailable;
        set_condition(it, &availability(enough));
        let done = updated == wanted && available == wanted && total == updated;
        let verb = if done { "has successfully progressed." } else { "is progressing." };
        let message = format!("ReplicaSet \"{set_name}\" {verb}");
        let reason = if done { "NewReplicaSetAvailable" } else { "ReplicaSetUpdated" };
        set_condition(it, &Condition { kind: "Progressing", status: "True", reason, message: &message });
    });
}

fn availability(enough: bool) -> Condition<'static> {
    let (status, reason, message) = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    Condition { kind: "Available", status, reason, message }
}
