//! Certificate signing requests: client certificates of kubelets are approved, whatever is approved is signed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{Condition, condition_is_true, items, set, set_condition, text};

const RESOURCE: &str = "certificatesigningrequests.certificates.k8s.io";

pub(super) fn sync(cluster: &Cluster) {
    for request in cluster.store.list(RESOURCE, None) {
        let decided = condition_is_true(&request, "Approved") || condition_is_true(&request, "Denied");
        if !decided && is_approved_by_itself(&request) {
            cluster.change(RESOURCE, &request, |it| {
                let message = "Auto approving kubelet client certificate after SubjectAccessReview.";
                set_condition(it, &Condition { kind: "Approved", status: "True", reason: "AutoApproved", message });
            });
        } else if condition_is_true(&request, "Approved") && text(&request, "/status/certificate").is_empty() {
            sign(cluster, &request);
        }
    }
}

/// Only kubelets' client certificates are; serving certificates wait for somebody's approval.
fn is_approved_by_itself(request: &Value) -> bool {
    text(request, "/spec/signerName") == "kubernetes.io/kube-apiserver-client-kubelet"
        && (items(request, "/spec/groups").iter().any(|it| it == "system:bootstrappers:nodes")
            || text(request, "/spec/username").starts_with("system:node:"))
}

fn sign(cluster: &Cluster, request: &Value) {
    let signer = text(request, "/spec/signerName");
    const SIGNERS: &[&str] = &[
        "kubernetes.io/kubelet-serving",
        "kubernetes.io/kube-apiserver-client-kubelet",
        "kubernetes.io/kube-apiserver-client",
    ];
    if !SIGNERS.contains(&signer) || condition_is_true(request, "Failed") {
        return;
    }
    match issue(cluster, request) {
        Ok(certificate) => cluster.change(RESOURCE, request, |it| {
            set(it, &["status", "certificate"], json!(STANDARD.encode(certificate)));
        }),
        Err(error) => cluster.change(RESOURCE, request, |it| {
            let message = error.to_string();
            set_condition(
                it,
                &Condition { kind: "Failed", status: "True", reason: "SignerValidationFailure", message: &message },
            );
        }),
    }
}

fn issue(cluster: &Cluster, request: &Value) -> anyhow::Result<String> {
    let pem = String::from_utf8(STANDARD.decode(text(request, "/spec/request"))?)?;
    let mut asked = CertificateSigningRequestParams::from_pem(&pem)?;
    let wants = |usage: &str| items(request, "/spec/usages").iter().any(|it| it == usage);
    asked.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if wants("key encipherment") {
        asked.params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
    }
    asked.params.extended_key_usages = if wants("server auth") {
        vec![ExtendedKeyUsagePurpose::ServerAuth]
    } else {
        vec![ExtendedKeyUsagePurpose::ClientAuth]
    };
    let key = KeyPair::from_pem(&cluster.identity.ca_key_pem)?;
    let issuer = Issuer::from_ca_cert_pem(&cluster.identity.ca_certificate_pem, key)?;
    Ok(asked.signed_by(&issuer)?.pem())
}
