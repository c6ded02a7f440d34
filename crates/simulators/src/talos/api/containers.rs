//! Containers of the system and of pods: lists, statistics, logs and images (talos.md 3.7, 3.9).

use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use talos::proto::machine as m;

use super::Api;
use crate::kubernetes::container_log;
use crate::talos::config::Config;
use crate::talos::join;
use crate::talos::services::State;

/// The services that run in containers of their own.
const CONTAINED: [&str; 4] = ["apid", "etcd", "kubelet", "trustd"];
const PAUSE: &str = "registry.k8s.io/pause:3.10.1";

impl Api {
    pub(super) fn container_list(&self, request: &m::ContainersRequest) -> m::Container {
        let containers = match request.namespace.as_str() {
            "" | "system" => self.system_containers(),
            "k8s.io" => self.pods().iter().flat_map(|pod| containers_of(pod)).collect(),
            _ => Vec::new(),
        };
        m::Container { metadata: None, containers }
    }

    fn system_containers(&self) -> Vec<m::ContainerInfo> {
        let config = self.boot.active_config();
        let running =
            CONTAINED.iter().zip(2600..).filter(|(id, _)| self.boot.services.state(id) == Some(State::Running));
        running
            .map(|(id, pid)| m::ContainerInfo {
                namespace: "system".to_owned(),
                id: (*id).to_owned(),
                image: service_image(config.as_deref(), id).unwrap_or_default(),
                pid,
                status: "RUNNING".into(),
                pod_id: (*id).to_owned(),
                name: (*id).to_owned(),
                ..m::ContainerInfo::default()
            })
            .collect()
    }

    pub(super) fn container_stats(&self, request: &m::StatsRequest) -> m::Stats {
        let request = m::ContainersRequest { namespace: request.namespace.clone(), driver: request.driver };
        let stat = |container: m::ContainerInfo| m::Stat {
            namespace: container.namespace,
            id: container.id,
            memory_usage: 60 << 20,
            cpu_usage: 4_000_000,
            pod_id: container.pod_id,
            name: container.name,
        };
        m::Stats { metadata: None, stats: self.container_list(&request).containers.into_iter().map(stat).collect() }
    }

    /// The log of a pod's container by its display id, such as `kube-system/coredns-x:coredns:0123456789ab`.
    pub(super) fn container_log(&self, id: &str) -> Option<Vec<String>> {
        let (pod_id, container) = id.split_once(':')?;
        let name = container.split(':').next()?;
        let pod = self.pods().into_iter().find(|pod| pod_id_of(pod) == pod_id)?;
        let known = containers_of(&pod).into_iter().any(|it| it.id == id || it.id.starts_with(&format!("{id}:")));
        let lines = || container_log(&pod, name).into_iter();
        known.then(|| lines().map(|(at, line)| format!("{at:.9} stdout F {line}")).collect())
    }

    /// Images that something on this node runs; the namespaces are those of containerd, 1 for the system and 2 for pods.
    pub(super) fn images_in_use(&self, namespace: i32) -> Vec<String> {
        if namespace == 1 {
            let config = self.boot.active_config();
            let running =
                ["etcd", "kubelet"].into_iter().filter(|id| self.boot.services.state(id) == Some(State::Running));
            return running.filter_map(|id| service_image(config.as_deref(), id)).collect();
        }
        let mut images: Vec<String> =
            self.pods().iter().flat_map(|pod| containers_of(pod)).map(|container| container.image).collect();
        images.sort();
        images.dedup();
        images
    }

    /// The pods that the kubelet of this node has started.
    fn pods(&self) -> Vec<Arc<Value>> {
        let kubelet = self.boot.state().kubelet.clone();
        let Some(kubelet) = kubelet else { return Vec::new() };
        let name = self.boot.name();
        let mut pods = kubelet.static_pod_statuses();
        if let Some(control_plane) = join::find_control_plane(&self.boot) {
            pods.extend(control_plane.list("pods", None).into_iter().filter(|pod| pod["spec"]["nodeName"] == name));
        }
        pods.retain(|pod| pod["status"]["containerStatuses"].is_array());
        pods.sort_by_key(|pod| pod_id_of(pod));
        pods.dedup_by_key(|pod| pod_id_of(pod));
        pods
    }
}

/// What the container of a service is made from; services of Talos itself have no image of a registry.
fn service_image(config: Option<&Config>, id: &str) -> Option<String> {
    match id {
        "etcd" => config?.image(id).or_else(|| Some("registry.k8s.io/etcd:v3.6.12".to_owned())),
        "kubelet" => config?.image(id),
        _ => None,
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn pod_id_of(pod: &Value) -> String {
    format!("{}/{}", text(pod, "/metadata/namespace"), text(pod, "/metadata/name"))
}

/// The sandbox of a pod and its containers.
fn containers_of(pod: &Value) -> Vec<m::ContainerInfo> {
    let (pod_id, uid) = (pod_id_of(pod), text(pod, "/metadata/uid"));
    let internal = |what: &str| hex::encode(Sha256::digest(format!("{uid}/{what}")));
    let sandbox = m::ContainerInfo {
        namespace: "k8s.io".into(),
        id: pod_id.clone(),
        image: PAUSE.into(),
        pid: process_of(&internal("")),
        status: "SANDBOX_READY".into(),
        pod_id: pod_id.clone(),
        name: pod_id.clone(),
        internal_id: internal(""),
        uid: uid.to_owned(),
        ..m::ContainerInfo::default()
    };
    let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let container = |status: &Value| {
        let name = text(status, "/name");
        let internal_id = internal(name);
        let running = status["state"].get("running").is_some();
        m::ContainerInfo {
            namespace: "k8s.io".into(),
            id: format!("{pod_id}:{name}:{}", &internal_id[..12]),
            image: text(status, "/image").to_owned(),
            pid: if running { process_of(&internal_id) } else { 0 },
            status: if running { "CONTAINER_RUNNING" } else { "CONTAINER_EXITED" }.into(),
            pod_id: pod_id.clone(),
            name: name.to_owned(),
            internal_id,
            uid: uid.to_owned(),
            ..m::ContainerInfo::default()
        }
    };
    std::iter::once(sandbox).chain(statuses.map(container)).collect()
}

/// A number that stays the same for as long as the container lives.
fn process_of(internal_id: &str) -> u32 {
    3000 + u32::from_str_radix(&internal_id[..4], 16).unwrap_or_default() % 28_000
}
