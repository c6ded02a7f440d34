//! Namespaces: their default contents, and their emptying when they are deleted.

use serde_json::json;

use super::templates::delete;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{Condition, is_terminating, name, set, set_condition};

pub(super) fn sync(cluster: &Cluster) {
    for namespace in cluster.store.list("namespaces", None) {
        if is_terminating(&namespace) {
            empty(cluster, &namespace);
        } else {
            furnish(cluster, name(&namespace));
        }
    }
}

fn furnish(cluster: &Cluster, namespace: &str) {
    if cluster.store.get("serviceaccounts", namespace, "default").is_none() {
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}});
        cluster.ensure("serviceaccounts", account);
    }
    if cluster.store.get("configmaps", namespace, "kube-root-ca.crt").is_none() {
        let config = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": "kube-root-ca.crt", "namespace": namespace,
                "annotations": {"kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver."}},
            "data": {"ca.crt": cluster.identity.ca_certificate_pem}});
        cluster.ensure("configmaps", config);
    }
}

fn empty(cluster: &Cluster, namespace: &serde_json::Value) {
    let of = name(namespace);
    let mut left = 0;
    for table in cluster.store.resources() {
        for object in cluster.store.list(&table, Some(of)) {
            if is_terminating(&object) {
                left += 1;
                continue;
            }
            delete(cluster, &table, &object);
            left += usize::from(cluster.store.get(&table, of, name(&object)).is_some());
        }
    }
    cluster.change("namespaces", namespace, |it| {
        if left == 0 {
            set(it, &["spec", "finalizers"], json!([]));
        } else {
            let message = format!(
                "Some content in the namespace has finalizers or is still terminating: {left} objects remaining"
            );
            set_condition(
                it,
                &Condition {
                    kind: "NamespaceContentRemaining",
                    status: "True",
                    reason: "SomeResourcesRemain",
                    message: &message,
                },
            );
        }
    });
}
