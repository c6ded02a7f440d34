//! The manifests that Talos renders from its configuration: ids, objects and their order (talos.md section 8).

use serde_json::{Value, json};

use super::addons;
use crate::kubernetes::cluster::nth_address;
use crate::kubernetes::settings::{BootstrapManifests, ClusterIdentity, Cni};

/// The table an object is kept in, and the object.
pub(super) type Placed = (&'static str, Value);

pub(super) const RBAC: &str = "rbac.authorization.k8s.io/v1";
const ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
const BINDINGS: &str = "clusterrolebindings.rbac.authorization.k8s.io";

/// Every manifest by the id of its resource, sorted as Talos applies them.
pub(super) fn render(identity: &ClusterIdentity, manifests: &BootstrapManifests) -> Vec<(&'static str, Vec<Placed>)> {
    let mut all = vec![
        ("00-kubelet-bootstrapping-token", token(identity).into_iter().collect()),
        (
            "01-csr-approver-role-binding",
            vec![bind_groups(
                "system-bootstrap-approve-node-client-csr",
                "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
                &["system:bootstrappers:nodes"],
            )],
        ),
        (
            "01-csr-node-bootstrap",
            vec![bind_groups(
                "system-bootstrap-node-bootstrapper",
                "system:node-bootstrapper",
                &["system:bootstrappers:nodes", "system:nodes"],
            )],
        ),
        (
            "01-csr-renewal-role-binding",
            vec![bind_groups(
                "system-bootstrap-node-renewal",
                "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
                &["system:nodes"],
            )],
        ),
    ];
    if manifests.cni == Cni::Flannel {
        all.push(("05-flannel", addons::flannel(identity)));
    }
    if let Some(image) = &manifests.kube_proxy_image {
        all.push(("10-kube-proxy", addons::kube_proxy(identity, image)));
    }
    if let Some(image) = &manifests.coredns_image {
        let address = nth_address(&identity.service_subnet, 10).unwrap_or_else(|| "10.96.0.10".into());
        all.push(("11-core-dns", addons::core_dns(identity, image)));
        all.push(("11-core-dns-svc", vec![addons::dns_service(&address)]));
    }
    all.push(("11-kube-config-in-cluster", vec![in_cluster(identity)]));
    all.push(("11-talos-node-rbac-template", talos_nodes()));
    all
}

/// The secret by which kubelets make themselves known; none without a token.
fn token(identity: &ClusterIdentity) -> Option<Placed> {
    let (id, secret) = identity.bootstrap_token.split_once('.')?;
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
        "stringData": {
            "token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:nodes"},
    });
    Some(("secrets", object))
}

/// How what runs in the cluster finds the API server.
fn in_cluster(identity: &ClusterIdentity) -> Placed {
    let mounted = "/var/run/secrets/kubernetes.io/serviceaccount";
    let kubeconfig = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority: {mounted}/ca.crt\n    server: {}\n  name: local\n\
         contexts:\n- context:\n    cluster: local\n    user: service-account\n  name: local\ncurrent-context: local\n\
         kind: Config\nusers:\n- name: service-account\n  user:\n    tokenFile: {mounted}/token\n",
        identity.endpoint
    );
    config("kubeconfig-in-cluster", json!({"kubeconfig": kubeconfig}))
}

/// What Talos itself may read with a node's rights.
fn talos_nodes() -> Vec<Placed> {
    let labels = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    let (table, mut binding) = bind_groups("system:talos-nodes", "system:talos-nodes", &["system:nodes"]);
    binding["metadata"]["labels"] = labels.clone();
    binding["metadata"]["annotations"] = json!({"rbac.authorization.kubernetes.io/autoupdate": "true"});
    let rules = json!([
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]}]);
    vec![(table, binding), role("system:talos-nodes", labels, rules)]
}

pub(super) fn role(name: &str, labels: Value, rules: Value) -> Placed {
    let metadata = json!({"name": name, "labels": labels});
    (ROLES, json!({"apiVersion": RBAC, "kind": "ClusterRole", "metadata": metadata, "rules": rules}))
}

fn bind_groups(name: &str, role: &str, groups: &[&str]) -> Placed {
    let subject = |group: &&str| json!({"kind": "Group", "name": group, "apiGroup": "rbac.authorization.k8s.io"});
    bind(json!({"name": name}), role, groups.iter().map(subject).collect())
}

/// Lets a service account of `kube-system` do what a role says.
pub(super) fn bind_account(metadata: Value, role: &str, account: &str) -> Placed {
    bind(metadata, role, vec![json!({"kind": "ServiceAccount", "name": account, "namespace": "kube-system"})])
}

fn bind(metadata: Value, role: &str, subjects: Vec<Value>) -> Placed {
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role});
    let object = json!({
        "apiVersion": RBAC, "kind": "ClusterRoleBinding", "metadata": metadata, "roleRef": role, "subjects": subjects});
    (BINDINGS, object)
}

pub(super) fn config(name: &str, data: Value) -> Placed {
    let metadata = json!({"name": name, "namespace": "kube-system"});
    ("configmaps", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}))
}
