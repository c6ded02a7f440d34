//! The Node object: registration, labels and taints that Talos owns, status, lease.

use serde_json::{Map, Value, json};
use std::sync::Arc;

use super::Memory;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{Condition, annotation, items, name, now, now_micro, set, set_condition, text, uid};
use crate::kubernetes::settings::{KubeletOptions, Taint};

const LEASES: &str = "leases.coordination.k8s.io";

/// Why a node without CNI is not ready; the words of the real kubelet.
pub(super) const NO_NETWORK: &str = "container runtime network not ready: NetworkReady=false \
    reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized";

/// The node as stored, made when it is not there.
pub(super) fn register(cluster: &Cluster, options: &KubeletOptions, memory: &mut Memory) -> Option<Arc<Value>> {
    if !std::mem::replace(&mut memory.bootstrapped, true) {
        super::certificates::request_client_certificate(cluster, options);
    }
    if let Some(node) = cluster.store.get("nodes", "", &options.node_name) {
        cluster.change("nodes", &node, |it| own(it, options));
        return cluster.store.get("nodes", "", &options.node_name);
    }
    let mut node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": options.node_name,
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        },
        "spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]},
    });
    own(&mut node, options);
    fill_status(&mut node, options, memory.network);
    drop(cluster.store.create("nodes", node));
    let node = cluster.store.get("nodes", "", &options.node_name)?;
    let drivers = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSINode",
        "metadata": {"name": options.node_name, "ownerReferences": [owner(&node)]}, "spec": {"drivers": []},
    });
    cluster.ensure("csinodes.storage.k8s.io", drivers);
    Some(node)
}

fn owner(node: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "name": name(node), "uid": uid(node)})
}

/// Writes labels, annotations and taints as Talos does: it remembers which are its own, so that it can take them back.
fn own(node: &mut Value, options: &KubeletOptions) {
    let mut labels = options.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", options.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", "amd64"),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", "amd64"),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    let owned = |node: &Value, key: &str| -> Vec<String> {
        annotation(node, key).and_then(|list| serde_json::from_str(list).ok()).unwrap_or_default()
    };
    let list = |keys: Vec<&String>| json!(serde_json::to_string(&keys).unwrap_or_default());
    for former in owned(node, "talos.dev/owned-labels") {
        if !labels.contains_key(&former) {
            crate::kubernetes::object::remove(node, &["metadata", "labels", &former]);
        }
    }
    for (key, value) in &labels {
        set(node, &["metadata", "labels", key], json!(value));
    }
    let mut annotations: Map<String, Value> =
        options.annotations.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    annotations.insert("talos.dev/owned-labels".into(), list(options.labels.keys().collect()));
    annotations.insert("talos.dev/owned-annotations".into(), list(options.annotations.keys().collect()));
    own_taints(node, options, owned(node, "talos.dev/owned-taints"));
    annotations.insert("talos.dev/owned-taints".into(), list(options.taints.iter().map(|taint| &taint.key).collect()));
    for (key, value) in annotations {
        set(node, &["metadata", "annotations", &key], value);
    }
    if let Some(provider) = &options.provider_id
        && text(node, "/spec/providerID").is_empty()
    {
        set(node, &["spec", "providerID"], json!(provider));
    }
}

fn own_taints(node: &mut Value, options: &KubeletOptions, former: Vec<String>) {
    let wanted = |taint: &Value| options.taints.iter().any(|it| taint["key"] == it.key && taint["effect"] == it.effect);
    let mut taints: Vec<Value> = items(node, "/spec/taints")
        .iter()
        .filter(|taint| wanted(taint) || !former.iter().any(|key| taint["key"] == *key))
        .cloned()
        .collect();
    for taint in &options.taints {
        if !taints.iter().any(|it| it["key"] == taint.key && it["effect"] == taint.effect) {
            taints.push(taint_json(taint));
        }
    }
    if !taints.is_empty() {
        set(node, &["spec", "taints"], Value::Array(taints));
    } else {
        crate::kubernetes::object::remove(node, &["spec", "taints"]);
    }
}

fn taint_json(taint: &Taint) -> Value {
    let mut json = json!({"key": taint.key, "effect": taint.effect});
    if !taint.value.is_empty() {
        json["value"] = json!(taint.value);
    }
    json
}

/// Writes the node's status; true when it is ready.
pub(super) fn report(cluster: &Cluster, options: &KubeletOptions, memory: &Memory) -> bool {
    if let Some(node) = cluster.store.get("nodes", "", &options.node_name) {
        cluster.change("nodes", &node, |it| fill_status(it, options, memory.network));
    }
    memory.network
}

fn fill_status(node: &mut Value, options: &KubeletOptions, network: bool) {
    let memory_kib = options.memory_bytes >> 10;
    let capacity = |cpu: String, memory_kib: u64, ephemeral: String| {
        json!({
            "cpu": cpu, "memory": format!("{memory_kib}Ki"), "ephemeral-storage": ephemeral, "pods": "110",
            "hugepages-1Gi": "0", "hugepages-2Mi": "0"})
    };
    let ephemeral_kib = options.ephemeral_bytes >> 10;
    let all = capacity(options.cpus.to_string(), memory_kib, format!("{ephemeral_kib}Ki"));
    let allocatable = capacity(
        format!("{}m", u64::from(options.cpus) * 1000 - 50),
        memory_kib.saturating_sub(300 << 10),
        (options.ephemeral_bytes / 10 * 9).to_string(),
    );
    let mut addresses: Vec<Value> =
        options.addresses.iter().map(|it| json!({"type": "InternalIP", "address": it.to_string()})).collect();
    addresses.push(json!({"type": "Hostname", "address": options.node_name}));
    set(node, &["status", "capacity"], all);
    set(node, &["status", "allocatable"], allocatable);
    set(node, &["status", "addresses"], Value::Array(addresses));
    set(node, &["status", "daemonEndpoints"], json!({"kubeletEndpoint": {"Port": 10250}}));
    set(
        node,
        &["status", "nodeInfo"],
        json!({
            "machineID": options.machine_id, "systemUUID": options.system_uuid, "bootID": options.boot_id,
            "kernelVersion": options.kernel_version, "osImage": options.os_image,
            "containerRuntimeVersion": options.container_runtime, "kubeletVersion": options.kubelet_version,
            "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64",
        }),
    );
    for (kind, reason, message) in [
        ("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ] {
        set_condition(node, &Condition { kind, status: "False", reason, message });
    }
    let ready = if network {
        Condition { kind: "Ready", status: "True", reason: "KubeletReady", message: "kubelet is posting ready status" }
    } else {
        Condition { kind: "Ready", status: "False", reason: "KubeletNotReady", message: NO_NETWORK }
    };
    set_condition(node, &ready);
    let mut conditions = items(node, "/status/conditions").to_vec();
    for condition in &mut conditions {
        if condition.get("lastHeartbeatTime").is_none() {
            condition["lastHeartbeatTime"] = json!(now());
        }
    }
    set(node, &["status", "conditions"], Value::Array(conditions));
}

/// Renews the node's lease, which the node lifecycle controller watches.
pub(super) fn renew_lease(cluster: &Cluster, node: &Value) {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name(node), "namespace": "kube-node-lease", "ownerReferences": [owner(node)]},
        "spec": {"holderIdentity": name(node), "leaseDurationSeconds": 40, "renewTime": now_micro()},
    });
    match cluster.store.get(LEASES, "kube-node-lease", name(node)) {
        Some(existing) => cluster.change(LEASES, &existing, |it| {
            set(it, &["spec", "renewTime"], json!(now_micro()));
            set(it, &["spec", "holderIdentity"], json!(name(node)));
        }),
        None => drop(cluster.ensure(LEASES, lease)),
    }
}
