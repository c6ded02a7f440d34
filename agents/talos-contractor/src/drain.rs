//! Draining a node as `kubectl drain` does (reliability.md 9): which pods have to move, and how they are asked to.

use std::time::Duration;

use contractor::action::StepError;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{EvictParams, ListParams},
    core::Status,
};

use crate::failure::{asked, chain};

/// When to ask again after a disruption budget said no.
const AGAIN: Duration = Duration::from_secs(1);
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether a pod has to leave before its node can go: not a mirror of a static pod, not a DaemonSet's, not finished.
pub fn moves(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let daemon = pod.owner_references().iter().any(|owner| owner.kind == "DaemonSet" && owner.controller == Some(true));
    let finished = matches!(phase, Some("Succeeded" | "Failed"));
    !pod.annotations().contains_key(MIRROR) && !daemon && !finished
}

/// Evicts what has to move, all at once. `Ok` when nothing is left; otherwise a wait that says what is.
pub async fn drain(client: &Client, node: &str) -> Result<(), StepError> {
    let here = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let pods = Api::<Pod>::all(client.clone()).list(&here).await;
    let pods = pods.map_err(|error| asked(&format!("listing the pods of {node}"), &error))?;
    let left: Vec<_> = pods.items.into_iter().filter(moves).collect();
    if left.is_empty() {
        return Ok(());
    }
    let evictions = left.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).map(|pod| evict(client, pod));
    let refused: Vec<_> =
        join_all(evictions).await.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    let reason = match refused.as_slice() {
        [] => format!("{} pods are leaving {node}", left.len()),
        reasons => format!("{} of {} pods may not leave {node}: {}", reasons.len(), left.len(), reasons.join("; ")),
    };
    Err(StepError::wait(reason, AGAIN))
}

/// Asks one pod to leave; the reason if a disruption budget refuses for now.
async fn evict(client: &Client, pod: &Pod) -> Result<Option<String>, StepError> {
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    let api = Api::<Pod>::namespaced(client.clone(), &namespace);
    match api.evict(&name, &EvictParams::default()).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) => match status.code {
            // Gone already, or going with its namespace.
            404 => Ok(None),
            403 if status.message.contains("terminating") => Ok(None),
            // 429: a budget or a rate limit. 500: two budgets match, which only their owner can mend.
            429 | 500 => Ok(Some(format!("{namespace}/{name}: {}", refusal(&status)))),
            _ => Err(asked(&format!("evicting {namespace}/{name}"), &kube::Error::Api(status))),
        },
        Err(error) => Err(StepError::wait(format!("evicting {namespace}/{name}: {}", chain(&error)), AGAIN)),
    }
}

/// What the server said; which budget refuses stands among the causes only.
fn refusal(status: &Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes).map(|cause| cause.message.as_str());
    let causes: Vec<_> = causes.filter(|cause| !cause.is_empty()).collect();
    if causes.is_empty() { status.message.clone() } else { format!("{} ({})", status.message, causes.join("; ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(metadata: serde_json::Value, phase: &str) -> Pod {
        serde_json::from_value(json!({ "metadata": metadata, "status": { "phase": phase } })).unwrap()
    }

    #[test]
    fn daemons_mirrors_and_finished_pods_stay() {
        let owner = |kind: &str| {
            json!({ "ownerReferences": [{
            "apiVersion": "apps/v1", "kind": kind, "name": "x", "uid": "u", "controller": true }] })
        };
        assert!(moves(&pod(owner("ReplicaSet"), "Running")));
        assert!(moves(&pod(json!({}), "Pending")));
        assert!(!moves(&pod(owner("DaemonSet"), "Running")));
        assert!(!moves(&pod(json!({ "annotations": { MIRROR: "hash" } }), "Running")));
        assert!(!moves(&pod(owner("Job"), "Succeeded")));
    }
}
