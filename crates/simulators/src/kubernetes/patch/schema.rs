//! What merging must know about lists and maps: which lists are maps by key, which values are replaced whole.

use serde_json::Value;

/// How a list merges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListKind {
    /// Replaced whole.
    Atomic,
    /// A set of scalars.
    Set,
    /// A map whose entries are told apart by these fields.
    Map(&'static [&'static str]),
}

/// Which merging asks: the same list can merge differently (a Node's taints, a Pod's tolerations).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// `x-kubernetes-list-type` of server-side apply, for built-in kinds.
    Apply,
    /// `x-kubernetes-patch-strategy` of strategic merge patch.
    Strategic,
    /// Custom resources: metadata merges as everywhere, lists below `spec` and `status` are replaced.
    Custom,
}

/// How the list at this path merges; path elements are field names, list items are left out.
pub(crate) fn list_kind(rules: Rules, path: &[&str]) -> ListKind {
    use ListKind::{Atomic, Map, Set};
    let Some((field, parents)) = path.split_last() else { return Atomic };
    let parent = parents.last().copied().unwrap_or_default();
    if parents == ["metadata"] {
        return match *field {
            "finalizers" => Set,
            "ownerReferences" => Map(&["uid"]),
            _ => Atomic,
        };
    }
    if rules == Rules::Custom {
        return Atomic;
    }
    let strategic = rules == Rules::Strategic;
    match *field {
        "containers" | "initContainers" | "ephemeralContainers" if parent == "spec" => Map(&["name"]),
        "env" | "volumes" | "imagePullSecrets" | "resourceClaims" => Map(&["name"]),
        "secrets" if parents.is_empty() => Map(&["name"]),
        "volumeMounts" => Map(&["mountPath"]),
        "volumeDevices" => Map(&["devicePath"]),
        "hostAliases" => Map(&["ip"]),
        "podIPs" | "hostIPs" => Map(&["ip"]),
        "conditions" | "addresses" if parent == "status" => Map(&["type"]),
        "ports" if parent == "containers" || parent == "initContainers" => {
            if strategic {
                Map(&["containerPort"])
            } else {
                Map(&["containerPort", "protocol"])
            }
        }
        "ports" if parents == ["spec"] => {
            if strategic {
                Map(&["port"])
            } else {
                Map(&["port", "protocol"])
            }
        }
        "topologySpreadConstraints" => {
            if strategic {
                Map(&["topologyKey"])
            } else {
                Map(&["topologyKey", "whenUnsatisfiable"])
            }
        }
        "taints" if strategic => Map(&["key"]),
        "finalizers" | "podCIDRs" => Set,
        "webhooks" => Map(&["name"]),
        "sources" if parent == "projected" => Atomic,
        _ => Atomic,
    }
}

/// True when the map at this path is owned and replaced whole by server-side apply.
pub(crate) fn is_atomic_map(path: &[&str]) -> bool {
    match path {
        [.., "nodeSelector" | "resourceFieldRef" | "fieldRef" | "secretKeyRef" | "configMapKeyRef"] => true,
        // Label selectors of workloads, and the plain selector of a Service.
        [.., "selector" | "labelSelector" | "podSelector" | "namespaceSelector"] => true,
        [.., "roleRef" | "claimRef" | "involvedObject"] => true,
        _ => false,
    }
}

/// The key fields of a list item; a missing `protocol` is TCP.
pub(crate) fn item_key(keys: &[&str], item: &Value) -> Vec<Value> {
    keys.iter()
        .map(|key| match &item[*key] {
            Value::Null if *key == "protocol" => Value::from("TCP"),
            value => value.clone(),
        })
        .collect()
}
