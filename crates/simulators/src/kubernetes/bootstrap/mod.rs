//! What is in a cluster before anybody asks: the API server's own objects, and what Talos applies at bootstrap.

mod addons;
mod manifests;
mod roles;

use serde_json::{Map, Value, json};

use super::cluster::Cluster;
use super::object::{name, namespace, set, text};
use super::patch::{self, ownership::Writer, schema::Rules};
use super::settings::{BootstrapManifests, ClusterIdentity};

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

/// The name under which Talos keeps what it applied, and that of its field manager (talos.md section 8).
const INVENTORY: &str = "talos-bootstrap-manifests-inventory";
const MANAGER: Writer<'_> = Writer { manager: "talos", operation: "Apply", subresource: "" };

/// The objects of every manifest that Talos renders, by the id of the manifest.
pub(super) fn rendered(identity: &ClusterIdentity, manifests: &BootstrapManifests) -> Vec<(&'static str, Vec<Value>)> {
    let all = manifests::render(identity, manifests).into_iter();
    all.map(|(id, objects)| (id, objects.into_iter().map(|(_, object)| object).collect())).collect()
}

/// What Talos applies once the first API server answers; existing objects are left as they are.
pub(super) fn apply(cluster: &Cluster, manifests: &BootstrapManifests) {
    system_objects(cluster);
    let mut applied = Map::new();
    for (resource, mut object) in manifests::render(&cluster.identity, manifests).into_iter().flat_map(|(_, all)| all) {
        applied.insert(inventory_key(&object), json!(""));
        if manifests.inventory {
            set(&mut object, &["metadata", "annotations", "config.k8s.io/owning-inventory"], json!(INVENTORY));
        }
        let owned = patch::apply::apply(Rules::Apply, &Value::Null, &object, MANAGER, false);
        cluster.ensure(resource, owned.unwrap_or(object));
    }
    if manifests.inventory {
        let (resource, mut inventory) = manifests::config(INVENTORY, Value::Object(applied));
        inventory["metadata"]["labels"] = json!({"cli-utils.sigs.k8s.io/inventory-id": INVENTORY});
        cluster.ensure(resource, inventory);
    }
}

/// How an inventory names an object: namespace, name, group and kind, in which a colon stands as two underscores.
fn inventory_key(object: &Value) -> String {
    let group = text(object, "/apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
    let name = name(object).replace(':', "__");
    format!("{}_{name}_{group}_{}", namespace(object), text(object, "/kind"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inventory_names_objects_as_the_tools_for_it_do() {
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "system:coredns"}});
        assert_eq!(inventory_key(&role), "_system__coredns_rbac.authorization.k8s.io_ClusterRole");
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "coredns", "namespace": "kube-system"}});
        assert_eq!(inventory_key(&account), "kube-system_coredns__ServiceAccount");
    }
}
