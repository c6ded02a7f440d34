//! Endpoints and EndpointSlices: the ready pods behind each Service, and the API servers behind `kubernetes`.

use serde_json::{Value, json};
use std::sync::Arc;

use super::templates::is_ready;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{controller_reference, is_terminating, items, name, namespace, set, text, uid};
use crate::kubernetes::selectors::LabelSelector;

const SLICES: &str = "endpointslices.discovery.k8s.io";

pub(super) fn sync(cluster: &Cluster) {
    for service in cluster.store.list("services", None) {
        if name(&service) == "kubernetes" && namespace(&service) == "default" {
            api_servers(cluster, &service);
        } else if service["spec"]["selector"].as_object().is_some_and(|it| !it.is_empty()) {
            pods(cluster, &service);
        }
    }
    for endpoints in cluster.store.list("endpoints", None) {
        if cluster.store.get("services", namespace(&endpoints), name(&endpoints)).is_none() {
            cluster.store.remove("endpoints", namespace(&endpoints), name(&endpoints));
        }
    }
}

/// The addresses of control-plane nodes whose API server pod is ready.
fn api_servers(cluster: &Cluster, service: &Value) {
    let addresses: Vec<String> = cluster
        .store
        .list("pods", Some("kube-system"))
        .iter()
        .filter(|pod| crate::kubernetes::object::label(pod, "k8s-app") == Some("kube-apiserver") && is_ready(pod))
        .map(|pod| text(pod, "/status/podIP").to_owned())
        .collect();
    let subsets = if addresses.is_empty() {
        json!([])
    } else {
        let addresses: Vec<Value> = addresses.iter().map(|it| json!({"ip": it})).collect();
        json!([{"addresses": addresses, "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}]}])
    };
    write(
        cluster,
        "endpoints",
        json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "kubernetes", "namespace": "default"}, "subsets": subsets,
        }),
        "subsets",
    );
    let endpoints: Vec<Value> =
        addresses.iter().map(|it| json!({"addresses": [it], "conditions": {"ready": true}})).collect();
    write(
        cluster,
        SLICES,
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
            "metadata": {
                "name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": name(service)}},
            "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
        }),
        "endpoints",
    );
}

fn pods(cluster: &Cluster, service: &Value) {
    let selector = LabelSelector::from_map(&service["spec"]["selector"]);
    let behind: Vec<Arc<Value>> = cluster
        .store
        .list("pods", Some(namespace(service)))
        .into_iter()
        .filter(|pod| selector.selects(pod) && !text(pod, "/status/podIP").is_empty() && !is_terminating(pod))
        .filter(|pod| !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed"))
        .collect();
    let address = |pod: &Arc<Value>| {
        json!({
            "ip": text(pod, "/status/podIP"), "nodeName": text(pod, "/spec/nodeName"),
            "targetRef": {"kind": "Pod", "name": name(pod), "namespace": namespace(pod), "uid": uid(pod)}})
    };
    let ports: Vec<Value> =
        items(service, "/spec/ports").iter().map(|port| target_port(port, behind.first())).collect();
    let (ready, unready): (Vec<_>, Vec<_>) = behind.iter().partition(|pod| is_ready(pod));
    let mut subset = json!({"ports": ports});
    for (key, list) in [("addresses", &ready), ("notReadyAddresses", &unready)] {
        if !list.is_empty() {
            subset[key] = json!(list.iter().map(|pod| address(pod)).collect::<Vec<_>>());
        }
    }
    let subsets = if behind.is_empty() { json!([]) } else { json!([subset]) };
    let metadata =
        json!({"name": name(service), "namespace": namespace(service), "labels": service["metadata"]["labels"]});
    write(
        cluster,
        "endpoints",
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets}),
        "subsets",
    );
    let endpoints: Vec<Value> = behind
        .iter()
        .map(|pod| {
            let ready = is_ready(pod);
            json!({
                "addresses": [text(pod, "/status/podIP")], "nodeName": text(pod, "/spec/nodeName"),
                "conditions": {"ready": ready, "serving": ready, "terminating": false},
                "targetRef": {"kind": "Pod", "name": name(pod), "namespace": namespace(pod), "uid": uid(pod)}})
        })
        .collect();
    // A slice's port has a name even when the Service's has none; clients rely on it.
    let mut named = ports;
    named.iter_mut().for_each(|port| crate::kubernetes::object::set_default(port, &["name"], json!("")));
    let suffix = crate::kubernetes::object::short_hash(&json!(uid(service)));
    write(
        cluster,
        SLICES,
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
            "metadata": {
                "name": format!("{}-{}", name(service), &suffix[..5]), "namespace": namespace(service),
                "labels": {
                    "kubernetes.io/service-name": name(service),
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
                "ownerReferences": [controller_reference(service)]},
            "ports": named,
        }),
        "endpoints",
    );
}

/// The port of the pods that a service port leads to; a name is looked up in the first pod.
fn target_port(port: &Value, pod: Option<&Arc<Value>>) -> Value {
    let target = &port["targetPort"];
    let number = match target.as_str() {
        None => target.clone(),
        Some(wanted) => pod
            .iter()
            .flat_map(|pod| items(pod, "/spec/containers"))
            .flat_map(|container| items(container, "/ports"))
            .find(|it| text(it, "/name") == wanted)
            .map_or_else(|| port["port"].clone(), |it| it["containerPort"].clone()),
    };
    let mut shown = json!({"port": number, "protocol": port["protocol"]});
    if !text(port, "/name").is_empty() {
        shown["name"] = port["name"].clone();
    }
    shown
}

/// Creates the object, or brings one part of it up to date.
fn write(cluster: &Cluster, resource: &str, object: Value, part: &str) {
    if cluster.store.get(resource, namespace(&object), name(&object)).is_none() {
        cluster.ensure(resource, object);
        return;
    }
    let value = object[part].clone();
    let ports = object.get("ports").cloned();
    cluster.change_named(resource, &object, |it| {
        set(it, &[part], value);
        if let Some(ports) = ports {
            set(it, &["ports"], ports);
        }
    });
}
