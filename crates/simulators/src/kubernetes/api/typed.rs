//! Built-in kinds as their types: values of the wrong type are refused, fields that no type has are found and dropped.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::storage::v1::StorageClass;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::ApiError;
use crate::kubernetes::object::text;
use crate::kubernetes::resources::Resource;

/// What to do about fields that the kind does not have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    Drop,
    /// `fieldValidation=Strict`, which kubectl asks for.
    Refuse,
}

/// Checks an object against its type, drops `null`s and unknown fields. Kinds without a type here are left alone.
///
/// # Errors
/// 400 for a value of the wrong type, and for unknown fields when they are to be refused.
pub(crate) fn check(resource: &Resource, object: &mut Value, unknown: Unknown) -> Result<(), ApiError> {
    let found = prune(resource, object)?;
    match (unknown, found.as_slice()) {
        (Unknown::Drop, _) | (_, []) => Ok(()),
        (Unknown::Refuse, fields) => {
            let list: Vec<String> = fields.iter().map(|field| format!("unknown field {field:?}")).collect();
            Err(refused(resource, object, &format!("strict decoding error: {}", list.join(", "))))
        }
    }
}

/// Drops what the kind does not have and returns its paths.
///
/// # Errors
/// 400 for a value of the wrong type.
pub(crate) fn prune(resource: &Resource, object: &mut Value) -> Result<Vec<String>, ApiError> {
    if resource.custom.is_some() {
        return Ok(super::structural::prune(resource, object));
    }
    let mut copy = object.clone();
    quantities_as_text(&mut copy);
    let typed = match round_trip(&resource.id(), copy) {
        None => return Ok(Vec::new()),
        Some(Ok(typed)) => typed,
        Some(Err(error)) => return Err(refused(resource, object, &format!("json: {error}"))),
    };
    let mut found = Vec::new();
    prune_value(object, &typed, "", &mut found);
    Ok(found)
}

fn refused(resource: &Resource, object: &Value, why: &str) -> ApiError {
    let version = text(object, "/apiVersion").rsplit('/').next().unwrap_or_default();
    let kind = &resource.kind;
    ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
}

/// The object read as its type and written again; `None` for a resource that has no type here.
fn round_trip(resource: &str, object: Value) -> Option<Result<Value, serde_json::Error>> {
    fn through<T: DeserializeOwned + Serialize>(object: Value) -> Result<Value, serde_json::Error> {
        serde_json::to_value(serde_json::from_value::<T>(object)?)
    }
    Some(match resource {
        "configmaps" => through::<ConfigMap>(object),
        "namespaces" => through::<Namespace>(object),
        "nodes" => through::<Node>(object),
        "persistentvolumeclaims" => through::<PersistentVolumeClaim>(object),
        "persistentvolumes" => through::<PersistentVolume>(object),
        "pods" => through::<Pod>(object),
        "secrets" => through::<Secret>(object),
        "serviceaccounts" => through::<ServiceAccount>(object),
        "services" => through::<Service>(object),
        "daemonsets.apps" => through::<DaemonSet>(object),
        "deployments.apps" => through::<Deployment>(object),
        "replicasets.apps" => through::<ReplicaSet>(object),
        "statefulsets.apps" => through::<StatefulSet>(object),
        "cronjobs.batch" => through::<CronJob>(object),
        "jobs.batch" => through::<Job>(object),
        "poddisruptionbudgets.policy" => through::<PodDisruptionBudget>(object),
        "clusterrolebindings.rbac.authorization.k8s.io" => through::<ClusterRoleBinding>(object),
        "clusterroles.rbac.authorization.k8s.io" => through::<ClusterRole>(object),
        "rolebindings.rbac.authorization.k8s.io" => through::<RoleBinding>(object),
        "roles.rbac.authorization.k8s.io" => through::<Role>(object),
        "storageclasses.storage.k8s.io" => through::<StorageClass>(object),
        _ => return None,
    })
}

/// Quantities may be written as numbers; the types hold them as text.
fn quantities_as_text(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, child) in fields {
                let holds_quantities =
                    matches!(key.as_str(), "limits" | "requests" | "capacity" | "allocatable" | "hard" | "overhead");
                for quantity in
                    child.as_object_mut().filter(|_| holds_quantities).into_iter().flat_map(|it| it.values_mut())
                {
                    if quantity.is_number() {
                        *quantity = json!(quantity.to_string());
                    }
                }
                if matches!(key.as_str(), "sizeLimit" | "divisor") && child.is_number() {
                    *child = json!(child.to_string());
                }
                quantities_as_text(child);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(quantities_as_text),
        _ => {}
    }
}

fn prune_value(value: &mut Value, typed: &Value, path: &str, found: &mut Vec<String>) {
    match (value, typed) {
        (Value::Object(fields), Value::Object(known)) => {
            fields.retain(|key, child| {
                let here = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                if child.is_null() {
                    return false;
                }
                match known.get(key) {
                    Some(typed) => {
                        prune_value(child, typed, &here, found);
                        true
                    }
                    None => {
                        found.push(here);
                        false
                    }
                }
            });
        }
        (Value::Array(list), Value::Array(known)) => {
            for (at, (item, typed)) in list.iter_mut().zip(known).enumerate() {
                prune_value(item, typed, &format!("{path}[{at}]"), found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::resources::Registry;

    fn pod(spec: Value) -> (Resource, Value) {
        let resource = Registry::built_in().find_id("pods").expect("built in");
        (
            (*resource).clone(),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "creationTimestamp": null}, "spec": spec}),
        )
    }

    #[test]
    fn unknown_fields_are_named_or_dropped_and_wrong_types_refused() {
        let (resource, mut object) =
            pod(json!({"containers": [{"name": "a", "imagee": "x", "resources": {"limits": {"cpu": 1}}}]}));
        let error = check(&resource, &mut object.clone(), Unknown::Refuse).expect_err("strict");
        assert!(
            error.message.ends_with("strict decoding error: unknown field \"spec.containers[0].imagee\""),
            "{error}"
        );
        check(&resource, &mut object, Unknown::Drop).expect("lenient");
        assert_eq!(object["spec"], json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": 1}}}]}));
        assert!(object["metadata"].get("creationTimestamp").is_none());
        let (resource, mut object) = pod(json!({"containers": "none"}));
        assert_eq!(check(&resource, &mut object, Unknown::Drop).expect_err("wrong type").code, 400);
    }
}
