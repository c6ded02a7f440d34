//! Kubernetes as the node sees it: component configurations, static pods, the Node's state, KubePrism.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::static_pods;
use crate::kubernetes::{ControlPlane, Kubelet};
use crate::talos::config::Config;
use crate::talos::cosi::kinds::{self, Kind};
use crate::talos::join;
use crate::talos::node::Boot;
use crate::talos::release::Line;

/// The control plane's static pods, each with the resource it is made from.
pub(crate) const STATIC_PODS: [(&str, Kind); 3] = [
    ("kube-apiserver", kinds::API_SERVER_CONFIGS),
    ("kube-controller-manager", kinds::CONTROLLER_MANAGER_CONFIGS),
    ("kube-scheduler", kinds::SCHEDULER_CONFIGS),
];

/// Publishes the configurations of the components; a change gives them a new version.
pub(crate) fn control_plane(boot: &Boot) {
    let Some(config) = boot.active_config() else { return };
    let extra = |name: &str| extra_arguments(boot, &config.extra_arguments(name));
    let api_server = json!({
        "image": config.image("kube-apiserver"), "controlPlaneEndpoint": config.endpoint(),
        "etcdServers": ["https://127.0.0.1:2379"], "localPort": join::API_PORT, "serviceCIDR": config.service_subnets(),
        "advertisedAddress": "$(POD_IP)", "extraArgs": extra("kube-apiserver"),
    });
    let controller_manager = json!({
        "enabled": true, "image": config.image("kube-controller-manager"), "podCIDRs": config.pod_subnets(),
        "serviceCIDRs": config.service_subnets(), "extraArgs": extra("kube-controller-manager"),
    });
    let scheduler = json!({
        "enabled": true, "image": config.image("kube-scheduler"), "extraArgs": extra("kube-scheduler"),
        "config": config.main().pointer("/cluster/scheduler/config"),
    });
    for ((id, kind), spec) in STATIC_PODS.iter().zip([api_server, controller_manager, scheduler]) {
        boot.cosi.put(*kind, id, &spec);
        let version = boot.cosi.version(*kind, id).unwrap_or_default();
        boot.cosi.put(kinds::STATIC_PODS, id, &static_pods::pod(&config, id, &version));
    }
    manifests(boot, &config);
}

/// The operator's arguments as the resources hold them: one value each until 1.12, lists since.
pub(super) fn extra_arguments(boot: &Boot, extra: &BTreeMap<String, Vec<String>>) -> Value {
    let value = |values: &Vec<String>| match boot.release.line {
        Line::V1_12 => json!(values.join(",")),
        _ => json!({"values": values}),
    };
    extra.iter().map(|(flag, values)| (flag.clone(), value(values))).collect::<Map<_, _>>().into()
}

/// Publishes what Talos applies to Kubernetes, and from which settings it was rendered.
fn manifests(boot: &Boot, config: &Config) {
    let line = boot.release.line;
    let (proxy, dns) = (config.kube_proxy_image(line), config.coredns_image());
    let cni = config.cni(line);
    let settings = json!({
        "string": config.endpoint(), "clusterDomain": config.dns_domain(), "podCIDRs": config.pod_subnets(),
        "proxyEnabled": proxy.is_some(), "proxyImage": proxy, "coreDNSEnabled": dns.is_some(), "coreDNSImage": dns,
        "dnsServiceIP": config.dns_addresses().first(), "flannelEnabled": cni == "flannel", "cniName": cni,
    });
    boot.cosi.put(kinds::BOOTSTRAP_MANIFESTS_CONFIGS, "manifests", &settings);
    let rendered = ControlPlane::bootstrap_objects(&join::cluster_identity(config), &join::manifests(config, line));
    let ids: Vec<String> = rendered.iter().map(|(id, _)| (*id).to_owned()).collect();
    for (id, objects) in rendered {
        boot.cosi.put(kinds::MANIFESTS, id, &Value::Array(objects));
    }
    boot.cosi.retain(kinds::MANIFESTS, &ids);
    boot.cosi.put(kinds::MANIFEST_STATUSES, "manifests", &json!({"manifestsApplied": ids}));
}

/// Publishes what the kubelet and the API server report.
pub(crate) fn kubernetes(boot: &Boot, kubelet: &Kubelet) {
    let mut ids = Vec::new();
    for pod in kubelet.static_pod_statuses() {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let id = format!("{}/{}", text("/metadata/namespace"), text("/metadata/name"));
        if let Some(status) = pod.get("status") {
            boot.cosi.put(kinds::STATIC_POD_STATUSES, &id, status);
            ids.push(id);
        }
    }
    boot.cosi.retain(kinds::STATIC_POD_STATUSES, &ids);
    if !kubelet.is_registered() {
        return;
    }
    let name = boot.name();
    let control_plane = join::find_control_plane(boot);
    let node = control_plane.as_ref().and_then(|control_plane| control_plane.get("nodes", None, &name));
    let field = |pointer: &str| node.as_ref().and_then(|node| node.pointer(pointer).cloned()).unwrap_or(Value::Null);
    let spec = json!({
        "nodename": name, "nodeReady": kubelet.is_node_ready(),
        "unschedulable": field("/spec/unschedulable").as_bool().unwrap_or(false),
        "labels": field("/metadata/labels"), "annotations": field("/metadata/annotations"),
        "podCIDRs": field("/spec/podCIDRs"),
    });
    boot.cosi.put(kinds::NODE_STATUSES, &name, &spec);
    if boot.cosi.get("k8s", kinds::KUBE_PRISM_CONFIGS.name, "k8s-loadbalancer-config").is_some() {
        let status = json!({"host": "127.0.0.1:7445", "healthy": control_plane.is_some()});
        boot.cosi.put(kinds::KUBE_PRISM_STATUSES, "k8s-loadbalancer", &status);
    }
}

/// How many static pods are ready.
pub(crate) fn ready_static_pods(kubelet: &Kubelet) -> usize {
    let ready = |pod: &Value| {
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    kubelet.static_pod_statuses().iter().filter(|pod| ready(pod)).count()
}

/// Publishes the local load balancer's configuration, when it is on.
pub(super) fn kube_prism(boot: &Boot, config: &Config) {
    let Some(port) = config.kube_prism() else { return };
    let mut endpoints: Vec<Value> = Vec::new();
    if let Some((host, port)) = config.endpoint_parts() {
        endpoints.push(json!({"host": host, "port": port}));
    }
    if config.is_control_plane() {
        endpoints.push(json!({"host": "localhost", "port": join::API_PORT}));
    }
    boot.cosi.put(kinds::KUBE_PRISM_ENDPOINTS, "k8s-cluster", &json!({"endpoints": endpoints}));
    let spec = json!({"host": "127.0.0.1", "port": port, "endpoints": endpoints});
    boot.cosi.put(kinds::KUBE_PRISM_CONFIGS, "k8s-loadbalancer-config", &spec);
}
