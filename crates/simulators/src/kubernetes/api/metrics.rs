//! `metrics.k8s.io`: what a metrics server would say, computed from requests and a steady wobble.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{condition_is_true, items, map, name, namespace, now, text};
use crate::kubernetes::quantity::{bytes_of, cpu_millis};
use crate::kubernetes::resources::Resource;

/// All metrics of nodes or of pods.
pub(crate) fn all(cluster: &Cluster, resource: &Resource) -> Vec<Arc<Value>> {
    if resource.kind == "NodeMetrics" { nodes(cluster) } else { pods(cluster) }
}

fn wobble(of: &str, spread: u64) -> u64 {
    of.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte))) % spread.max(1)
}

fn pod_usage(pod: &Value) -> Vec<(String, u64, u64)> {
    items(pod, "/spec/containers")
        .iter()
        .map(|container| {
            let requests = map(container, "/resources/requests");
            let request = |key: &str| requests.and_then(|it| it.get(key));
            let cpu = request("cpu").map_or(5, cpu_millis) / 4 + 1 + wobble(name(pod), 7);
            let memory = request("memory").map_or(24 << 20, bytes_of) / 2 + (wobble(name(pod), 16) << 20);
            (text(container, "/name").to_owned(), cpu, memory)
        })
        .collect()
}

fn usage(cpu: u64, memory: u64) -> Value {
    json!({"cpu": format!("{cpu}m"), "memory": format!("{}Ki", memory >> 10)})
}

fn pods(cluster: &Cluster) -> Vec<Arc<Value>> {
    let running = cluster.store.list("pods", None).into_iter().filter(|pod| text(pod, "/status/phase") == "Running");
    running
        .map(|pod| {
            let containers: Vec<Value> = pod_usage(&pod)
                .into_iter()
                .map(|(container, cpu, memory)| json!({"name": container, "usage": usage(cpu, memory)}))
                .collect();
            Arc::new(json!({
                "kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
                "metadata": {
                    "name": name(&pod), "namespace": namespace(&pod), "labels": pod["metadata"]["labels"],
                    "creationTimestamp": now()},
                "timestamp": now(), "window": "15s", "containers": containers,
            }))
        })
        .collect()
}

fn nodes(cluster: &Cluster) -> Vec<Arc<Value>> {
    let pods = cluster.store.list("pods", None);
    let ready = cluster.store.list("nodes", None).into_iter().filter(|node| condition_is_true(node, "Ready"));
    ready
        .map(|node| {
            let here = pods
                .iter()
                .filter(|pod| text(pod, "/spec/nodeName") == name(&node) && text(pod, "/status/phase") == "Running");
            let (cpu, memory) = here
                .flat_map(|pod| pod_usage(pod))
                .fold((60 + wobble(name(&node), 20), 400 << 20), |(cpu, memory), (_, more_cpu, more_memory)| {
                    (cpu + more_cpu, memory + more_memory)
                });
            Arc::new(json!({
                "kind": "NodeMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
                "metadata": {"name": name(&node), "labels": node["metadata"]["labels"], "creationTimestamp": now()},
                "timestamp": now(), "window": "20s", "usage": usage(cpu, memory),
            }))
        })
        .collect()
}
