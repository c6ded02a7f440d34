//! Approves the serving certificates that kubelets of our own nodes ask for, where they are rotated.

use contractor::action::{StepContext, StepError};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use messages::name::ClusterName;
use serde_json::json;

use crate::{
    failure::{asked, read},
    inventory,
    kubernetes::FIELD_MANAGER,
};

const SIGNER: &str = "kubernetes.io/kubelet-serving";

/// Approves every pending request of a node that this cluster's inventory knows, and only what it may ask for.
pub async fn approve(client: &Client, cx: &StepContext, cluster: &ClusterName) -> Result<usize, StepError> {
    let api = Api::<CertificateSigningRequest>::all(client.clone());
    let field = ListParams::default().fields(&format!("spec.signerName={SIGNER}"));
    let requests = api.list(&field).await.map_err(|error| asked("listing certificate requests", &error))?;
    let nodes = inventory::nodes(&cx.store, cluster).map_err(read)?;
    let mut approved = 0;
    for request in requests.items {
        let known = nodes.iter().any(|node| format!("system:node:{}", node.value.hostname) == user(&request));
        let Some(name) = request.metadata.name.as_deref().filter(|_| known && is_pending(&request)) else { continue };
        if !is_modest(&request) {
            tracing::warn!(request = name, "a certificate request asks for more than serving; left to the operator");
            continue;
        }
        let approval = json!({ "status": { "conditions": [{
            "type": "Approved", "status": "True", "reason": "NodeKnown",
            "message": format!("approved by {FIELD_MANAGER}: the node is in its inventory"),
        }]}});
        api.patch_approval(name, &PatchParams::default(), &Patch::Merge(&approval))
            .await
            .map_err(|error| asked("approving a certificate request", &error))?;
        approved += 1;
    }
    Ok(approved)
}

fn user(request: &CertificateSigningRequest) -> &str {
    request.spec.username.as_deref().unwrap_or_default()
}

fn is_pending(request: &CertificateSigningRequest) -> bool {
    let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut decided = conditions.filter(|condition| matches!(condition.type_.as_str(), "Approved" | "Denied"));
    request.spec.signer_name == SIGNER && decided.next().is_none()
}

/// Asked by a node for itself, to serve with.
fn is_modest(request: &CertificateSigningRequest) -> bool {
    let usages = request.spec.usages.iter().flatten();
    let modest = |usage: &String| matches!(usage.as_str(), "digital signature" | "key encipherment" | "server auth");
    let groups = request.spec.groups.iter().flatten();
    usages.into_iter().all(modest) && groups.into_iter().any(|group| group == "system:nodes")
}
