//! What controllers of pods share: making pods from templates, choosing which to delete, counting.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kubernetes::cluster::{Cluster, Event};
use crate::kubernetes::object::{
    condition_is_true, controller_of, controller_reference, is_controlled_by, is_terminating, name, namespace,
    random_suffix, set, text, uid,
};
use crate::kubernetes::selectors::LabelSelector;

/// The pods in the owner's namespace that it controls.
pub(super) fn pods_of(cluster: &Cluster, owner: &Value) -> Vec<Arc<Value>> {
    let all = cluster.store.list("pods", Some(namespace(owner)));
    all.into_iter().filter(|pod| is_controlled_by(pod, uid(owner))).collect()
}

/// Takes over pods without a controller that the owner's selector matches, as real controllers do.
pub(super) fn adopt(cluster: &Cluster, owner: &Value) {
    let Some(selector) = LabelSelector::from_object(&owner["spec"]["selector"]) else { return };
    for pod in cluster.store.list("pods", Some(namespace(owner))) {
        if controller_of(&pod).is_none() && !is_terminating(&pod) && selector.selects(&pod) && !is_terminating(owner) {
            cluster.change("pods", &pod, |it| {
                set(it, &["metadata", "ownerReferences"], json!([controller_reference(owner)]))
            });
        }
    }
}

/// True while the pod counts as one of its owner's replicas.
pub(super) fn is_active(pod: &Value) -> bool {
    !is_terminating(pod) && !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

pub(super) fn is_ready(pod: &Value) -> bool {
    condition_is_true(pod, "Ready") && !is_terminating(pod)
}

/// Creates a pod from the owner's template; `adjust` has the last word. Returns whether it was made.
pub(super) fn create_pod(
    cluster: &Cluster,
    owner: &Value,
    pod_name: Option<String>,
    adjust: impl FnOnce(&mut Value),
) -> bool {
    let template = &owner["spec"]["template"];
    let generate = format!("{}-", name(owner));
    let chosen = pod_name.unwrap_or_else(|| format!("{generate}{}", random_suffix(5)));
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": chosen, "generateName": generate, "namespace": namespace(owner),
            "labels": template["metadata"]["labels"].as_object().cloned().unwrap_or_default(),
            "ownerReferences": [controller_reference(owner)]},
        "spec": template["spec"],
    });
    if let Some(annotations) = template["metadata"].get("annotations") {
        set(&mut pod, &["metadata", "annotations"], annotations.clone());
    }
    let class = text(&pod, "/spec/priorityClassName").to_owned();
    if let Some(found) = cluster.store.get("priorityclasses.scheduling.k8s.io", "", &class) {
        pod["spec"]["priority"] = found["value"].clone();
    }
    adjust(&mut pod);
    let component = format!("{}-controller", text(owner, "/kind").to_lowercase());
    if let Some(why) = crate::kubernetes::pod_security::violation(cluster, namespace(owner), &pod) {
        let message = format!("Error creating: pods \"{generate}\" is forbidden: {why}");
        cluster
            .event(owner, &Event { kind: "Warning", reason: "FailedCreate", message: &message, component: &component });
        return false;
    }
    let made = cluster.ensure("pods", pod);
    if made {
        let message = format!("Created pod: {chosen}");
        cluster.event(
            owner,
            &Event { kind: "Normal", reason: "SuccessfulCreate", message: &message, component: &component },
        );
    }
    made
}

/// Deletes a pod gracefully on behalf of its controller.
pub(super) fn delete_pod(cluster: &Cluster, owner: &Value, pod: &Value) {
    if is_terminating(pod) {
        return;
    }
    delete(cluster, "pods", pod);
    let component = format!("{}-controller", text(owner, "/kind").to_lowercase());
    let message = format!("Deleted pod: {}", name(pod));
    cluster
        .event(owner, &Event { kind: "Normal", reason: "SuccessfulDelete", message: &message, component: &component });
}

/// Deletes an object as a client with default options would.
pub(super) fn delete(cluster: &Cluster, resource: &str, object: &Value) {
    let Some(found) = cluster.registry.find_id(resource) else { return };
    let options = crate::kubernetes::api::delete::Options {
        uid: Some(uid(object).to_owned()),
        ..crate::kubernetes::api::delete::Options::default()
    };
    let result =
        crate::kubernetes::api::delete::delete_object(cluster, &found, namespace(object), name(object), &options);
    drop(result);
}

/// Which pods to give up first: not scheduled, not ready, youngest.
pub(super) fn by_dispensability(pods: &mut [Arc<Value>]) {
    pods.sort_by_key(|pod| {
        let scheduled = !text(pod, "/spec/nodeName").is_empty();
        let age = std::cmp::Reverse(text(pod, "/metadata/creationTimestamp").to_owned());
        (scheduled, is_ready(pod), age, name(pod).to_owned())
    });
}

/// A count as the API's integers.
pub(super) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
