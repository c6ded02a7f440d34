//! What is in a cluster before anybody asks: the API server's own objects, and what Talos applies at bootstrap.

mod manifests;
mod roles;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::settings::{BootstrapManifests, Cni};

/// The namespaces, roles and classes that every API server makes sure of when it starts.
pub(super) fn system_objects(cluster: &Cluster) {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        cluster.ensure("namespaces", object);
    }
    for (name, value) in [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)] {
        let object = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
            "preemptionPolicy": "PreemptLowerPriority", "description": "Used for system critical pods."});
        cluster.ensure("priorityclasses.scheduling.k8s.io", object);
    }
    for (resource, object) in roles::all() {
        cluster.ensure(resource, object);
    }
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "clusterIP": cluster.service_address(1), "type": "ClusterIP",
            "ports": [{"name": "https", "port": 443, "targetPort": 6443, "protocol": "TCP"}]},
    });
    cluster.ensure("services", service);
    api_services(cluster);
}

fn api_services(cluster: &Cluster) {
    for (group, versions) in cluster.registry.groups() {
        for version in versions {
            let name = format!("{version}.{group}");
            let metrics = group == "metrics.k8s.io";
            let service = if metrics {
                json!({"name": "metrics-server", "namespace": "kube-system", "port": 443})
            } else {
                Value::Null
            };
            let object = json!({
                "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
                "metadata": {"name": name, "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"}},
                "spec": {
                    "group": group, "version": version, "groupPriorityMinimum": 17_500, "versionPriority": 15,
                    "service": service},
                "status": {"conditions": [{
                    "type": "Available", "status": "True", "reason": "Local",
                    "lastTransitionTime": super::object::now(),
                    "message": "Local APIServices are always available"}]},
            });
            cluster.ensure("apiservices.apiregistration.k8s.io", object);
        }
    }
}

/// What Talos applies once the first API server answers; existing objects are left as they are.
pub(super) fn apply(cluster: &Cluster, manifests: &BootstrapManifests) {
    system_objects(cluster);
    bootstrap_token(cluster);
    let mut all = manifests::rbac();
    if manifests.cni == Cni::Flannel {
        all.extend(manifests::flannel(&cluster.identity));
    }
    if let Some(image) = &manifests.kube_proxy_image {
        all.extend(manifests::kube_proxy(&cluster.identity, image));
    }
    if let Some(image) = &manifests.coredns_image {
        all.extend(manifests::core_dns(cluster, image));
    }
    for (resource, object) in all {
        cluster.ensure(resource, object);
    }
}

fn bootstrap_token(cluster: &Cluster) {
    let Some((id, secret)) = cluster.identity.bootstrap_token.split_once('.') else { return };
    let encode = |text: &str| json!(STANDARD.encode(text));
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
        "data": {
            "token-id": encode(id), "token-secret": encode(secret), "usage-bootstrap-authentication": encode("true"),
            "auth-extra-groups": encode("system:bootstrappers:nodes")},
    });
    cluster.ensure("secrets", object);
}
