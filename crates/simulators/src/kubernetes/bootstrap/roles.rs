//! The roles and bindings that RBAC starts with, as far as the lab's flows and `kubectl auth` meet them.

use serde_json::{Value, json};

const ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
const BINDINGS: &str = "clusterrolebindings.rbac.authorization.k8s.io";

fn role(name: &str, rules: Value) -> (&'static str, Value) {
    let metadata = json!({"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}});
    (
        ROLES,
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata, "rules": rules}),
    )
}

fn bind(name: &str, role: &str, groups: &[&str]) -> (&'static str, Value) {
    let subjects: Vec<Value> = groups
        .iter()
        .map(|group| json!({"kind": "Group", "name": group, "apiGroup": "rbac.authorization.k8s.io"}))
        .collect();
    (
        BINDINGS,
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}, "subjects": subjects,
        }),
    )
}

/// Every default role and binding, with the store's table each belongs to.
pub(super) fn all() -> Vec<(&'static str, Value)> {
    let everything = json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["*"], "verbs": ["*"]}]);
    let workloads = |verbs: &[&str]| {
        json!([
            {"apiGroups": [""], "verbs": verbs, "resources": [
                "configmaps", "endpoints", "events", "persistentvolumeclaims", "pods", "pods/log", "replicationcontrollers",
                "serviceaccounts", "services", "namespaces", "resourcequotas", "limitranges"]},
            {"apiGroups": ["apps"], "verbs": verbs, "resources": [
                "controllerrevisions", "daemonsets", "deployments", "deployments/scale", "replicasets", "statefulsets"]},
            {"apiGroups": ["batch"], "verbs": verbs, "resources": ["cronjobs", "jobs"]},
            {"apiGroups": ["policy"], "verbs": verbs, "resources": ["poddisruptionbudgets"]},
            {"apiGroups": ["networking.k8s.io"], "verbs": verbs, "resources": ["ingresses", "networkpolicies"]},
            {"apiGroups": ["discovery.k8s.io"], "verbs": verbs, "resources": ["endpointslices"]}])
    };
    let paths = json!([
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/healthz",
        "/livez",
        "/openapi",
        "/openapi/*",
        "/readyz",
        "/version",
        "/version/"
    ]);
    vec![
        role("cluster-admin", everything),
        role("view", workloads(&["get", "list", "watch"])),
        role("edit", workloads(&["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"])),
        role("system:discovery", json!([{"nonResourceURLs": paths, "verbs": ["get"]}])),
        role(
            "system:basic-user",
            json!([
            {"apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"], "verbs": ["create"]},
            {"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["create"]}]),
        ),
        role(
            "system:node-bootstrapper",
            json!([{
            "apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests"],
            "verbs": ["create", "get", "list", "watch"]}]),
        ),
        bind("cluster-admin", "cluster-admin", &["system:masters"]),
        bind("system:discovery", "system:discovery", &["system:authenticated"]),
        bind("system:basic-user", "system:basic-user", &["system:authenticated"]),
        bind("system:node-bootstrapper", "system:node-bootstrapper", &["system:bootstrappers:nodes"]),
    ]
}
