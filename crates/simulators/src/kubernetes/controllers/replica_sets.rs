//! ReplicaSets: as many pods as wanted.

use serde_json::{Value, json};

use super::templates::{adopt, by_dispensability, count, create_pod, delete_pod, is_active, is_ready, pods_of};
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{integer, is_terminating, set};

const RESOURCE: &str = "replicasets.apps";

pub(super) fn sync(cluster: &Cluster) {
    for set in cluster.store.list(RESOURCE, None) {
        if !is_terminating(&set) {
            adopt(cluster, &set);
            scale(cluster, &set);
        }
        report(cluster, &set);
    }
}

fn scale(cluster: &Cluster, owner: &Value) {
    let wanted = usize::try_from(integer(owner, "/spec/replicas").unwrap_or(1)).unwrap_or(0);
    let mut active: Vec<_> = pods_of(cluster, owner).into_iter().filter(|pod| is_active(pod)).collect();
    for _ in active.len()..wanted {
        create_pod(cluster, owner, None, |_| {});
    }
    if active.len() > wanted {
        by_dispensability(&mut active);
        for pod in &active[..active.len() - wanted] {
            delete_pod(cluster, owner, pod);
        }
    }
}

fn report(cluster: &Cluster, owner: &Value) {
    let active: Vec<_> = pods_of(cluster, owner).into_iter().filter(|pod| is_active(pod)).collect();
    let ready = count(active.iter().filter(|pod| is_ready(pod)).count());
    cluster.change(RESOURCE, owner, |it| {
        let mut status = json!({"replicas": active.len(), "observedGeneration": it["metadata"]["generation"]});
        if !active.is_empty() {
            status["fullyLabeledReplicas"] = json!(active.len());
        }
        if ready > 0 {
            status["readyReplicas"] = json!(ready);
            status["availableReplicas"] = json!(ready);
        }
        set(it, &["status"], status);
    });
}
