//! Cordon and drain of a node, as Talos does them before a graceful reset, reboot or upgrade.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::api::delete::Options;
use super::api::subresources::evict_pod;
use super::cluster::Cluster;
use super::object::{annotation, controller_of, remove, set, text};
use super::storage::WriteError;

/// How long Talos tries to drain before it goes on (talos.md section 3.5).
const DEADLINE: Duration = Duration::from_secs(300);
/// How often an eviction that a budget forbids is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Cordons a node, evicts its pods and waits until they are gone; false when the deadline came first.
pub(super) async fn drain(cluster: &Arc<Cluster>, node: &str) -> bool {
    set_unschedulable(cluster, node, true);
    let deadline = Instant::now() + cluster.scaled(DEADLINE);
    loop {
        let left = evictable(cluster, node);
        if left.is_empty() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        for pod in left.iter().filter(|pod| !super::object::is_terminating(pod)) {
            if let Err(error) = evict_pod(cluster, pod, &Options::default()) {
                tracing::debug!(%error, "a pod cannot be evicted yet");
            }
        }
        let mut writes = cluster.store.activity();
        writes.borrow_and_update();
        let _ = tokio::time::timeout(cluster.scaled(RETRY), writes.changed()).await;
    }
}

/// Sets or clears `spec.unschedulable` with its taint.
pub(super) fn set_unschedulable(cluster: &Cluster, node: &str, unschedulable: bool) {
    let result = cluster.store.update::<()>("nodes", "", node, |it| {
        if unschedulable {
            set(it, &["spec", "unschedulable"], json!(true));
        } else {
            remove(it, &["spec", "unschedulable"]);
        }
        Ok(())
    });
    if let Err(WriteError::NotFound) = result {
        tracing::debug!(node, "the node to drain is not registered");
    }
}

/// The node's pods that a drain moves: not mirror pods, not those of DaemonSets, not finished ones.
fn evictable(cluster: &Cluster, node: &str) -> Vec<Arc<Value>> {
    let moves = |pod: &Arc<Value>| {
        text(pod, "/spec/nodeName") == node
            && annotation(pod, "kubernetes.io/config.mirror").is_none()
            && controller_of(pod).is_none_or(|owner| text(owner, "/kind") != "DaemonSet")
            && !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
    };
    cluster.store.list("pods", None).into_iter().filter(moves).collect()
}
