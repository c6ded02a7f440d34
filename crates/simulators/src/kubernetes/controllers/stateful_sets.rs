//! StatefulSets: numbered pods in order, each with its claims.

use std::sync::Arc;

use serde_json::{Value, json};

use super::templates::{count, create_pod, delete_pod, is_active, is_ready, pods_of};
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{integer, is_terminating, items, label, name, namespace, set, short_hash, text};

const RESOURCE: &str = "statefulsets.apps";
const HASH: &str = "controller-revision-hash";

pub(super) fn sync(cluster: &Cluster) {
    for owner in cluster.store.list(RESOURCE, None) {
        if !is_terminating(&owner) {
            scale(cluster, &owner);
            update(cluster, &owner);
        }
        report(cluster, &owner);
    }
}

fn ordinal(owner: &Value, pod: &Value) -> Option<i64> {
    name(pod).strip_prefix(&format!("{}-", name(owner)))?.parse().ok()
}

fn revision(owner: &Value) -> String {
    format!("{}-{}", name(owner), short_hash(&owner["spec"]["template"]))
}

fn scale(cluster: &Cluster, owner: &Value) {
    let wanted = integer(owner, "/spec/replicas").unwrap_or(1);
    let parallel = text(owner, "/spec/podManagementPolicy") == "Parallel";
    let pods = pods_of(cluster, owner);
    let find = |at: i64| pods.iter().find(|pod| ordinal(owner, pod) == Some(at));
    for at in 0..wanted {
        match find(at) {
            None => {
                create(cluster, owner, at);
                if !parallel {
                    return;
                }
            }
            Some(pod) if matches!(text(pod, "/status/phase"), "Failed" | "Succeeded") => {
                delete_pod(cluster, owner, pod)
            }
            Some(pod) if !parallel && !is_ready(pod) => return,
            Some(_) => {}
        }
    }
    let mut surplus: Vec<&Arc<Value>> =
        pods.iter().filter(|pod| ordinal(owner, pod).is_some_and(|at| at >= wanted)).collect();
    surplus.sort_by_key(|pod| std::cmp::Reverse(ordinal(owner, pod)));
    if !parallel {
        surplus.truncate(1);
    }
    surplus.into_iter().for_each(|pod| delete_pod(cluster, owner, pod));
}

fn create(cluster: &Cluster, owner: &Value, at: i64) {
    let pod_name = format!("{}-{at}", name(owner));
    let templates = items(owner, "/spec/volumeClaimTemplates");
    for template in templates {
        let mut claim = template.clone();
        claim["apiVersion"] = json!("v1");
        claim["kind"] = json!("PersistentVolumeClaim");
        set(&mut claim, &["metadata", "name"], json!(format!("{}-{pod_name}", name(template))));
        set(&mut claim, &["metadata", "namespace"], json!(namespace(owner)));
        if let Some(labels) = owner.pointer("/spec/selector/matchLabels") {
            set(&mut claim, &["metadata", "labels"], labels.clone());
        }
        crate::kubernetes::object::remove(&mut claim, &["status"]);
        cluster.ensure("persistentvolumeclaims", claim);
    }
    create_pod(cluster, owner, Some(pod_name.clone()), |pod| {
        for (key, value) in [
            (HASH, revision(owner)),
            ("statefulset.kubernetes.io/pod-name", pod_name.clone()),
            ("apps.kubernetes.io/pod-index", at.to_string()),
        ] {
            set(pod, &["metadata", "labels", key], json!(value));
        }
        set(pod, &["spec", "hostname"], json!(pod_name));
        set(pod, &["spec", "subdomain"], json!(text(owner, "/spec/serviceName")));
        let mut volumes = items(pod, "/spec/volumes").to_vec();
        volumes.extend(templates.iter().map(|template| {
            json!({
                "name": name(template),
                "persistentVolumeClaim": {"claimName": format!("{}-{pod_name}", name(template))}})
        }));
        if !volumes.is_empty() {
            set(pod, &["spec", "volumes"], Value::Array(volumes));
        }
    });
}

/// Replaces pods of a former template from the highest number down, one at a time, above the partition.
fn update(cluster: &Cluster, owner: &Value) {
    if text(owner, "/spec/updateStrategy/type") != "RollingUpdate" {
        return;
    }
    let partition = integer(owner, "/spec/updateStrategy/rollingUpdate/partition").unwrap_or(0);
    let current = revision(owner);
    let mut pods = pods_of(cluster, owner);
    if pods.iter().any(|pod| !is_ready(pod) && label(pod, HASH) == Some(&current)) {
        return;
    }
    pods.sort_by_key(|pod| std::cmp::Reverse(ordinal(owner, pod)));
    let stale = |pod: &&Arc<Value>| ordinal(owner, pod) >= Some(partition) && label(pod, HASH) != Some(&current);
    if let Some(pod) = pods.iter().find(stale) {
        delete_pod(cluster, owner, pod);
    }
}

fn report(cluster: &Cluster, owner: &Value) {
    let pods: Vec<_> = pods_of(cluster, owner).into_iter().filter(|pod| is_active(pod)).collect();
    let ready = count(pods.iter().filter(|pod| is_ready(pod)).count());
    let newest = revision(owner);
    let updated = count(pods.iter().filter(|pod| label(pod, HASH) == Some(&newest)).count());
    cluster.change(RESOURCE, owner, |it| {
        let wanted = integer(it, "/spec/replicas").unwrap_or(1);
        let former = text(it, "/status/currentRevision").to_owned();
        let settled = updated == wanted && ready == wanted;
        let current = if settled || former.is_empty() { newest.clone() } else { former };
        let mut status = json!({
            "replicas": pods.len(), "availableReplicas": ready, "observedGeneration": it["metadata"]["generation"],
            "currentRevision": current, "updateRevision": newest, "collisionCount": 0});
        let current_count = if current == newest { updated } else { count(pods.len()) - updated };
        for (key, value) in [("readyReplicas", ready), ("currentReplicas", current_count), ("updatedReplicas", updated)]
        {
            if value > 0 {
                status[key] = json!(value);
            }
        }
        set(it, &["status"], status);
    });
}
