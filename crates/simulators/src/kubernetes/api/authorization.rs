//! Who may do what: RBAC over the stored roles, and what the node authorizer lets kubelets do.

use serde_json::Value;

use super::authentication::User;
use super::error::ApiError;
use super::request::ObjectRequest;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{items, text};

/// What is asked for, in the words of a `SubjectAccessReview`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Attributes<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// Set for paths that are not resources; then only `verb` counts besides it.
    pub(crate) path: &'a str,
}

/// Checks a request for objects.
///
/// # Errors
/// 403 with the sentence of the real RBAC authorizer.
pub(crate) fn authorize(cluster: &Cluster, user: &User, request: &ObjectRequest) -> Result<(), ApiError> {
    let resource = &request.resource;
    let attributes = Attributes {
        verb: request.verb,
        group: &resource.group,
        resource: &resource.plural,
        subresource: request.subresource.as_deref().unwrap_or_default(),
        namespace: request.place_namespace(),
        name: request.name(),
        path: "",
    };
    if is_allowed(cluster, user, attributes) {
        return Ok(());
    }
    let plural = match &request.subresource {
        Some(subresource) => format!("{}/{subresource}", resource.plural),
        None => resource.plural.clone(),
    };
    let place = match &request.namespace {
        Some(namespace) => format!("in the namespace {namespace:?}"),
        None => "at the cluster scope".to_owned(),
    };
    let why = format!(
        "User {:?} cannot {} resource {plural:?} in API group {:?} {place}",
        user.name, request.verb, resource.group
    );
    Err(ApiError::forbidden(resource, request.name(), &why))
}

/// Checks a path such as `/version`.
///
/// # Errors
/// 403 with the sentence of the real RBAC authorizer.
pub(crate) fn authorize_path(cluster: &Cluster, user: &User, verb: &str, path: &str) -> Result<(), ApiError> {
    if is_allowed(cluster, user, Attributes { verb, path, ..Attributes::default() }) {
        return Ok(());
    }
    let why = format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name);
    Err(ApiError::new(403, "Forbidden", why))
}

/// The decision of node authorizer and RBAC together.
pub(crate) fn is_allowed(cluster: &Cluster, user: &User, asked: Attributes<'_>) -> bool {
    user.is_in("system:masters") || node_allows(user, asked) || rbac_allows(cluster, user, asked)
}

/// What a kubelet may do; it writes only its own node and lease.
fn node_allows(user: &User, asked: Attributes<'_>) -> bool {
    let Some(node) = user.name.strip_prefix("system:node:").filter(|_| user.is_in("system:nodes")) else {
        return false;
    };
    let reads = matches!(asked.verb, "get" | "list" | "watch");
    match (asked.group, asked.resource) {
        ("", "nodes") => reads || asked.verb == "create" || asked.name == node,
        ("", "pods") => {
            reads || matches!(asked.subresource, "status" | "eviction") || matches!(asked.verb, "create" | "delete")
        }
        ("", "services" | "configmaps" | "secrets" | "persistentvolumes" | "persistentvolumeclaims") => reads,
        ("", "events") => !reads,
        ("", "serviceaccounts") => asked.subresource == "token",
        ("coordination.k8s.io", "leases") => {
            asked.namespace == "kube-node-lease" && (asked.verb == "create" || asked.name == node)
        }
        ("certificates.k8s.io", "certificatesigningrequests") => reads || asked.verb == "create",
        ("storage.k8s.io", "csinodes") => true,
        ("storage.k8s.io", "csidrivers" | "volumeattachments") | ("node.k8s.io", "runtimeclasses") => reads,
        ("authentication.k8s.io", "tokenreviews") | ("authorization.k8s.io", "subjectaccessreviews") => true,
        _ => !asked.path.is_empty() && asked.verb == "get",
    }
}

fn rbac_allows(cluster: &Cluster, user: &User, asked: Attributes<'_>) -> bool {
    rules_of(cluster, user, asked.namespace).iter().any(|rule| rule_allows(rule, asked))
}

/// The rules that bind the user in a namespace (empty for the cluster scope).
pub(crate) fn rules_of(cluster: &Cluster, user: &User, namespace: &str) -> Vec<Value> {
    let store = &cluster.store;
    let mut rules = Vec::new();
    let cluster_role = |name: &str| store.get("clusterroles.rbac.authorization.k8s.io", "", name);
    for binding in store.list("clusterrolebindings.rbac.authorization.k8s.io", None) {
        if binds(&binding, user, "")
            && let Some(role) = cluster_role(text(&binding, "/roleRef/name"))
        {
            rules.extend_from_slice(items(&role, "/rules"));
        }
    }
    if namespace.is_empty() {
        return rules;
    }
    for binding in store.list("rolebindings.rbac.authorization.k8s.io", Some(namespace)) {
        if binds(&binding, user, namespace) {
            let name = text(&binding, "/roleRef/name");
            let role = match text(&binding, "/roleRef/kind") {
                "ClusterRole" => cluster_role(name),
                _ => store.get("roles.rbac.authorization.k8s.io", namespace, name),
            };
            rules.extend(role.iter().flat_map(|role| items(role, "/rules").to_vec()));
        }
    }
    rules
}

fn binds(binding: &Value, user: &User, namespace: &str) -> bool {
    items(binding, "/subjects").iter().any(|subject| {
        let name = text(subject, "/name");
        match text(subject, "/kind") {
            "User" => user.name == name,
            "Group" => user.is_in(name),
            _ => {
                let of = match text(subject, "/namespace") {
                    "" => namespace,
                    given => given,
                };
                user.name == format!("system:serviceaccount:{of}:{name}")
            }
        }
    })
}

fn rule_allows(rule: &Value, asked: Attributes<'_>) -> bool {
    let has =
        |key: &str, wanted: &str| items(rule, key).iter().filter_map(Value::as_str).any(|it| it == "*" || it == wanted);
    if !has("/verbs", asked.verb) {
        return false;
    }
    if !asked.path.is_empty() {
        return items(rule, "/nonResourceURLs").iter().filter_map(Value::as_str).any(|pattern| {
            pattern.strip_suffix('*').map_or(pattern == asked.path, |prefix| asked.path.starts_with(prefix))
        });
    }
    let resource = if asked.subresource.is_empty() {
        asked.resource.to_owned()
    } else {
        format!("{}/{}", asked.resource, asked.subresource)
    };
    let any_subresource = format!("*/{}", asked.subresource);
    let names = items(rule, "/resourceNames");
    has("/apiGroups", asked.group)
        && (has("/resources", &resource) || (!asked.subresource.is_empty() && has("/resources", &any_subresource)))
        && (names.is_empty() || names.iter().any(|name| name == asked.name))
}
