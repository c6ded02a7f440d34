//! The kubelet's certificates: a client certificate by bootstrap token, a serving certificate when rotation is on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use serde_json::{Value, json};

use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{condition_is_true, name, random_suffix, text};
use crate::kubernetes::settings::KubeletOptions;

pub(crate) const REQUESTS: &str = "certificatesigningrequests.certificates.k8s.io";

/// Where the serving certificate stands.
#[derive(Default)]
pub(super) enum Serving {
    #[default]
    NotAsked,
    /// The name of the request that must be approved and signed.
    Asked(String),
    Issued,
}

/// Asks for a client certificate with the bootstrap token, as every joining kubelet does; the cluster approves it itself.
pub(super) fn request_client_certificate(cluster: &Cluster, options: &KubeletOptions) {
    if cluster.store.get("nodes", "", &options.node_name).is_some() {
        return;
    }
    let id = cluster.identity.bootstrap_token.split('.').next().unwrap_or_default();
    let Some(request) = signing_request(options, false) else { return };
    let spec = json!({
        "request": STANDARD.encode(request), "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
        "usages": ["digital signature", "client auth"], "username": format!("system:bootstrap:{id}"),
        "groups": ["system:bootstrappers", "system:bootstrappers:nodes", "system:authenticated"],
    });
    create(cluster, format!("csr-{}", random_suffix(5)), spec);
}

/// Keeps one request for a serving certificate open until it is issued.
pub(super) fn serving(cluster: &Cluster, options: &KubeletOptions, node: &Value, state: &mut Serving) {
    if !options.rotate_server_certificates {
        return;
    }
    match state {
        Serving::Issued => {}
        Serving::Asked(asked) => match cluster.store.get(REQUESTS, "", asked) {
            Some(request) if !text(&request, "/status/certificate").is_empty() => *state = Serving::Issued,
            Some(request) if condition_is_true(&request, "Denied") || condition_is_true(&request, "Failed") => {}
            Some(_) => {}
            None => *state = Serving::NotAsked,
        },
        Serving::NotAsked => {
            let Some(request) = signing_request(options, true) else { return };
            let asked = format!("csr-{}", random_suffix(5));
            let spec = json!({
                "request": STANDARD.encode(request), "signerName": "kubernetes.io/kubelet-serving",
                "usages": ["digital signature", "server auth"], "username": format!("system:node:{}", name(node)),
                "groups": ["system:nodes", "system:authenticated"],
            });
            create(cluster, asked.clone(), spec);
            *state = Serving::Asked(asked);
        }
    }
}

fn create(cluster: &Cluster, request: String, spec: Value) {
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": request, "generateName": "csr-"}, "spec": spec,
    });
    cluster.ensure(REQUESTS, object);
}

/// A PKCS#10 request for `system:node:<name>`, with the node's name and addresses when it is for serving.
fn signing_request(options: &KubeletOptions, serving: bool) -> Option<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{}", options.node_name));
    if serving {
        params.subject_alt_names = options.addresses.iter().map(|it| SanType::IpAddress(*it)).collect();
        params.subject_alt_names.push(SanType::DnsName(options.node_name.clone().try_into().ok()?));
    }
    let key = KeyPair::generate().ok()?;
    params.serialize_request(&key).ok()?.pem().ok()
}
