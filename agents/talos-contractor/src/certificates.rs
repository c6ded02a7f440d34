//! Approves the serving certificates that kubelets of our own nodes ask for, where they are rotated.
//!
//! Whoever holds such a certificate is taken for that node's kubelet by the API server, so a request is approved only if
//! its requester, its subject, its names and its addresses are those of one node of the inventory. Everything else is
//! left to the operator.

use contractor::action::{StepContext, StepError};
use futures::StreamExt;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use messages::name::ClusterName;
use serde_json::json;

use crate::{
    actions::nodes_of,
    failure::{asked, chain},
    inventory::Node,
    kubernetes::FIELD_MANAGER,
};

mod examine;

use examine::examine;

const SIGNER: &str = "kubernetes.io/kubelet-serving";

/// Approves every pending request that a node of this cluster's inventory makes for itself; how many there were.
pub async fn approve(client: &Client, cx: &StepContext, cluster: &ClusterName) -> Result<usize, StepError> {
    approve_for(client, &nodes_of(&cx.store, cluster)?).await
}

/// Approves requests as they come, until it is dropped or the API refuses.
pub async fn keep_approving(client: &Client, cx: &StepContext, cluster: &ClusterName) -> StepError {
    let api = Api::<CertificateSigningRequest>::all(client.clone());
    let config = watcher::Config::default().fields(&of_signer());
    let mut changes = std::pin::pin!(watcher(api, config).default_backoff().touched_objects());
    loop {
        if let Err(error) = approve(client, cx, cluster).await {
            return error;
        }
        if let Some(Err(error)) = changes.next().await {
            tracing::debug!(error = chain(&error), "watching certificate requests");
        }
    }
}

async fn approve_for(client: &Client, nodes: &[Node]) -> Result<usize, StepError> {
    let api = Api::<CertificateSigningRequest>::all(client.clone());
    let requests = api.list(&ListParams::default().fields(&of_signer())).await;
    let requests = requests.map_err(|error| asked("listing certificate requests", &error))?;
    let mut approved = 0;
    for request in requests.items.into_iter().filter(is_pending) {
        let Some(name) = request.metadata.name.as_deref() else { continue };
        if let Err(reason) = examine(&request.spec, nodes) {
            tracing::warn!(request = name, reason, "a certificate request is left to the operator");
            continue;
        }
        let approval = json!({
            "metadata": { "resourceVersion": request.metadata.resource_version },
            "status": { "conditions": [{
                "type": "Approved", "status": "True", "reason": "NodeKnown",
                "message": format!("approved by {FIELD_MANAGER}: the node is in its inventory"),
            }]},
        });
        match api.patch_approval(name, &PatchParams::default(), &Patch::Merge(&approval)).await {
            Ok(_) => approved += 1,
            // Somebody decided meanwhile, or the request expired.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(asked("approving a certificate request", &error)),
        }
    }
    Ok(approved)
}

fn of_signer() -> String {
    format!("spec.signerName={SIGNER}")
}

fn is_pending(request: &CertificateSigningRequest) -> bool {
    let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut decided = conditions.filter(|condition| matches!(condition.type_.as_str(), "Approved" | "Denied"));
    request.spec.signer_name == SIGNER && decided.next().is_none()
}
