//! Mirror pods: how the API shows the control-plane components that Talos runs as static pods.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{annotation, name, now, short_hash, text, uid};
use crate::kubernetes::settings::{KubeletOptions, StaticPod};

/// Makes the mirror pods match the static pods; returns them as stored.
pub(super) fn sync(cluster: &Cluster, options: &KubeletOptions, node: &Value) -> Vec<Arc<Value>> {
    let of_this_node = |pod: &Arc<Value>| {
        text(pod, "/spec/nodeName") == options.node_name && annotation(pod, "kubernetes.io/config.mirror").is_some()
    };
    for pod in cluster.store.list("pods", Some("kube-system")).iter().filter(|pod| of_this_node(pod)) {
        let wanted = options.static_pods.iter().find(|it| mirror_name(options, it) == name(pod));
        if wanted.is_none_or(|it| annotation(pod, "kubernetes.io/config.hash") != Some(hash(it).as_str())) {
            cluster.store.remove("pods", "kube-system", name(pod));
        }
    }
    options
        .static_pods
        .iter()
        .filter_map(|wanted| {
            let mirror = mirror_name(options, wanted);
            if cluster.store.get("pods", "kube-system", &mirror).is_none() {
                cluster.ensure("pods", mirror_pod(options, wanted, node));
            }
            cluster.store.get("pods", "kube-system", &mirror)
        })
        .collect()
}

fn mirror_name(options: &KubeletOptions, pod: &StaticPod) -> String {
    format!("{}-{}", pod.name, options.node_name)
}

fn hash(pod: &StaticPod) -> String {
    short_hash(&json!([pod.name, pod.image, pod.command, pod.config_version]))
}

fn mirror_pod(options: &KubeletOptions, pod: &StaticPod, node: &Value) -> Value {
    let hash = hash(pod);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": mirror_name(options, pod), "namespace": "kube-system",
            "labels": {"k8s-app": pod.name, "tier": "control-plane", "component": pod.name},
            "annotations": {
                "kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash,
                "kubernetes.io/config.seen": now(), "kubernetes.io/config.source": "http",
                "talos.dev/config-version": pod.config_version,
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Node", "name": options.node_name, "uid": uid(node), "controller": true}],
        },
        "spec": {
            "nodeName": options.node_name, "hostNetwork": true, "priorityClassName": "system-cluster-critical",
            "priority": 2_000_000_000, "enableServiceLinks": true,
            "tolerations": [{"effect": "NoExecute", "operator": "Exists"}],
            "containers": [{
                "name": pod.name, "image": pod.image, "command": pod.command,
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}],
        },
    })
}
