//! Serving certificates of kubelets that rotate them are approved while nodes are waited for.

use engine::report::Status;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
    runtime::wait::await_condition,
};
use serde_json::json;

use crate::world::World;

const CHECK: (&str, &str) = (
    "check.yaml",
    r#"
playbook: check
version: 1
steps:
  - { id: health, action: talos.check_health, with: { cluster: prod } }
"#,
);

#[tokio::test(flavor = "multi_thread")]
async fn kubelets_get_their_serving_certificates_and_strangers_do_not() {
    let world = World::rotating(125, &[CHECK]).await;
    let client = world.bench.client().await;
    let api = Api::<CertificateSigningRequest>::all(client);
    // Made by an administrator, whom no inventory knows as a node.
    let stranger: CertificateSigningRequest = serde_json::from_value(json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": { "name": "stranger" },
        "spec": {
            "request": base64_of(&request_of("prod-worker-1")), "signerName": "kubernetes.io/kubelet-serving",
            "usages": ["digital signature", "server auth"],
        },
    }))
    .unwrap();
    api.create(&PostParams::default(), &stranger).await.unwrap();

    // Every kubelet asks in its own time.
    let mut changes = world.control_plane.changes();
    let field = ListParams::default().fields("spec.signerName=kubernetes.io/kubelet-serving");
    let asked = loop {
        let asked = api.list(&field).await.unwrap().items;
        if asked.len() == 4 {
            break asked;
        }
        changes.changed().await.unwrap();
    };
    let report = world.bench.run("check", json!({})).await;
    assert_eq!(report.status, Status::Succeeded, "{report:#?}");
    let issued = |request: Option<&CertificateSigningRequest>| {
        request.and_then(|request| request.status.as_ref()).is_some_and(|status| status.certificate.is_some())
    };
    for request in asked.iter().filter(|request| request.name_any() != "stranger") {
        await_condition(api.clone(), &request.name_any(), issued).await.unwrap();
    }
    let stranger = api.get("stranger").await.unwrap();
    assert!(stranger.status.and_then(|status| status.conditions).is_none_or(|conditions| conditions.is_empty()));
}

fn request_of(node: &str) -> String {
    let mut params = rcgen::CertificateParams::new([node.to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
    params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn base64_of(text: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(text)
}
