//! Sense checks of a cluster request: everything that can be known to go wrong before anything is created.

mod datacenter;

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use messages::{
    request::{Architecture, Cni, EndpointKind, Feature, Pool, ProvisionCluster, Role, Storage},
    schema::Violation,
};
use talos::version::Minor;

use crate::config::{NodeNetwork, Sections};

pub use datacenter::against;

/// What Talos needs on a control plane (talos.md 1).
const CONTROL_PLANE_MIB: u32 = 2048;

/// What is wrong with the request by itself and by the configuration; the hypervisors are not asked.
pub fn violations(request: &ProvisionCluster, sections: &Sections) -> Vec<Violation> {
    let mut found = Found::default();
    pools(request, &mut found);
    switches(request, &mut found);
    versions(request, sections, &mut found);
    match sections.network(request.network.as_ref().and_then(|network| network.name.as_deref())) {
        Some(network) => networks(request, network, &mut found),
        None => {
            let names: Vec<_> = sections.network.iter().map(|network| network.name.as_str()).collect();
            let expected = format!("one of the configured networks: {}", names.join(", "));
            found.add("/network/name", "known", expected, "another name");
        }
    }
    found.0
}

#[derive(Default)]
struct Found(Vec<Violation>);

impl Found {
    fn add(&mut self, path: impl Into<String>, rule: &str, expected: impl Into<String>, got: impl Into<String>) {
        self.0.push(Violation {
            path: path.into(),
            rule: rule.to_owned(),
            expected: expected.into(),
            got: got.into(),
            did_you_mean: None,
        });
    }
}

fn pools(request: &ProvisionCluster, found: &mut Found) {
    let numbers = request.control_plane_nodes.is_some()
        || request.worker_nodes.is_some()
        || request.node_size.is_some()
        || request.worker_size.is_some();
    if numbers && !request.pools.is_empty() {
        let expected = "either pools, or control_plane_nodes, worker_nodes, node_size and worker_size";
        found.add("/pools", "exclusive", expected, "both");
    }
    let pools = request.effective_pools();
    let control_planes: u32 = pools.iter().filter(|pool| pool.role == Role::ControlPlane).map(|pool| pool.count).sum();
    if control_planes.is_multiple_of(2) || control_planes > 7 {
        let path = if request.pools.is_empty() { "/control_plane_nodes" } else { "/pools" };
        let expected = "1, 3, 5 or 7 control planes: etcd decides by majority";
        found.add(path, "odd", expected, control_planes.to_string());
    }
    let mut names = BTreeSet::new();
    for (index, pool) in pools.iter().enumerate() {
        let path = |field: &str| {
            if request.pools.is_empty() { format!("/{field}") } else { format!("/pools/{index}/{field}") }
        };
        if !names.insert(&pool.name) {
            found.add(path("name"), "unique", "another pool name", pool.name.to_string());
        }
        shape(pool, &path, found);
    }
}

fn shape(pool: &Pool, path: &dyn Fn(&str) -> String, found: &mut Found) {
    if pool.size.is_some() && pool.shape.is_some() {
        found.add(path("shape"), "exclusive", "either size or shape", "both");
    }
    let shape = pool.effective_shape();
    if pool.role == Role::ControlPlane && shape.memory_mib < CONTROL_PLANE_MIB {
        let expected = format!("at least {CONTROL_PLANE_MIB} MiB on a control plane");
        found.add(path("shape/memory_mib"), "minimum", expected, shape.memory_mib.to_string());
    }
}

fn switches(request: &ProvisionCluster, found: &mut Found) {
    if request.architecture == Some(Architecture::Arm64) {
        found.add("/architecture", "available", "amd64: no hypervisor runs arm64 guests", "arm64");
    }
    if let (Some(allow), Some(taint)) = (request.allow_workloads_on_control_plane, request.control_plane_taint)
        && allow == taint
    {
        let expected = "the opposite of allow_workloads_on_control_plane";
        found.add("/control_plane_taint", "consistent", expected, taint.to_string());
    }
    if request.storage_backend == Some(Storage::Ceph) {
        let expected =
            "longhorn, local-path or none; ceph is not in the add-on catalogue, bring it yourself after none";
        found.add("/storage_backend", "available", expected, "ceph");
    }
    if let (Some(Cni::None), Some(Storage::Longhorn | Storage::LocalPath | Storage::LocalStorage)) =
        (request.network_cni, request.storage_backend)
    {
        let expected = "none with network_cni none: without a pod network the pods of an add-on do not start";
        found.add("/storage_backend", "consistent", expected, "an add-on");
    }
    for (index, feature) in request.features.iter().enumerate() {
        let (name, instead) = match feature {
            Feature::MetricsServer => ("metrics_server", "apply its manifest when the cluster stands"),
            Feature::EdgeOptimizations => ("edge_optimizations", "write what you need as `patches`"),
        };
        let expected = format!("no feature: {name} is not in the add-on catalogue; {instead}");
        found.add(format!("/features/{index}"), "available", expected, name);
    }
    let endpoint = request.endpoint.as_ref();
    if let Some(endpoint) = endpoint.filter(|endpoint| endpoint.kind == EndpointKind::External)
        && endpoint.address.is_none()
    {
        found.add("/endpoint/address", "required", "the load balancer's name or address", "nothing");
    }
    if let Some(endpoint) = endpoint.filter(|endpoint| endpoint.kind == EndpointKind::Node)
        && endpoint.address.is_some()
    {
        found.add("/endpoint/address", "forbidden", "nothing: the node's own address is used", "an address");
    }
}

fn versions(request: &ProvisionCluster, sections: &Sections, found: &mut Found) {
    let talos = request.talos_version.clone().unwrap_or_else(|| sections.images.default_talos_version());
    let minor = match Minor::of(&talos) {
        Ok(minor) => minor,
        Err(_) => {
            let newest = Minor::ALL.map(|minor| minor.newest().trim_start_matches('v').to_owned()).join(", ");
            found.add("/talos_version", "supported", format!("Talos 1.12, 1.13 or 1.14, for example {newest}"), talos);
            return;
        }
    };
    if let Some(kubernetes) = request.kubernetes_version.as_ref().filter(|version| !minor.runs_kubernetes(version)) {
        let (first, last) = minor.kubernetes_minors();
        let expected = format!("Kubernetes 1.{first} to 1.{last}, which Talos {talos} runs");
        found.add("/kubernetes_version", "supported", expected, kubernetes);
    }
}

fn networks(request: &ProvisionCluster, nodes: &NodeNetwork, found: &mut Found) {
    let asked = request.network.clone().unwrap_or_default();
    let mut cidrs: Vec<(&str, IpNet)> = vec![("the node network", nodes.cidr)];
    for (field, text, default) in
        [("pod_cidr", asked.pod_cidr, "10.244.0.0/16"), ("service_cidr", asked.service_cidr, "10.96.0.0/12")]
    {
        let text = text.unwrap_or_else(|| default.to_owned());
        let path = format!("/network/{field}");
        match text.parse::<IpNet>() {
            Err(_) => found.add(path, "cidr", "a network as 10.244.0.0/16", "another text"),
            Ok(cidr) => {
                for (other, taken) in &cidrs {
                    if cidr.contains(taken) || taken.contains(&cidr) {
                        let expected = format!("a network apart from {other} {taken}");
                        found.add(path.clone(), "disjoint", expected, cidr.to_string());
                    }
                }
                cidrs.push((if field == "pod_cidr" { "the pod network" } else { "the service network" }, cidr));
            }
        }
    }
    if let Some(endpoint) = request.endpoint.as_ref().filter(|endpoint| endpoint.kind == EndpointKind::Vip)
        && let Some(address) = &endpoint.address
    {
        let inside = address.parse::<IpAddr>().is_ok_and(|ip| nodes.cidr.contains(&ip) && ip != nodes.gateway);
        if !inside {
            found.add("/endpoint/address", "network", format!("a free address in {}", nodes.cidr), "another text");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::tests::smallest;

    fn check(body: Value) -> Vec<String> {
        let mut whole = json!({"request_type": "provision_cluster", "cluster_name": "prod"});
        whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let request: ProvisionCluster = serde_json::from_value(whole).unwrap();
        violations(&request, &smallest()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_patterns_make_sense() {
        for pattern in ["ha", "single", "edge", "hybrid"] {
            assert_eq!(check(json!({ "pattern": pattern })), Vec::<String>::new(), "{pattern}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        assert_eq!(
            check(json!({
                "control_plane_nodes": 2, "architecture": "arm64", "talos_version": "1.9.2",
                "control_plane_taint": true, "allow_workloads_on_control_plane": true, "storage_backend": "ceph",
                "features": ["metrics_server", "edge_optimizations"],
                "network": {"pod_cidr": "192.168.0.0/16", "service_cidr": "192.168.128.0/17"},
                "endpoint": {"kind": "vip", "address": "10.0.0.1"},
            })),
            [
                "/control_plane_nodes: expected 1, 3, 5 or 7 control planes: etcd decides by majority, got 2",
                "/architecture: expected amd64: no hypervisor runs arm64 guests, got arm64",
                "/control_plane_taint: expected the opposite of allow_workloads_on_control_plane, got true",
                "/storage_backend: expected longhorn, local-path or none; ceph is not in the add-on catalogue, bring it \
                 yourself after none, got ceph",
                "/features/0: expected no feature: metrics_server is not in the add-on catalogue; apply its manifest when \
                 the cluster stands, got metrics_server",
                "/features/1: expected no feature: edge_optimizations is not in the add-on catalogue; write what you need \
                 as `patches`, got edge_optimizations",
                "/talos_version: expected Talos 1.12, 1.13 or 1.14, for example 1.12.11, 1.13.9, 1.14.0-rc.1, got 1.9.2",
                "/network/pod_cidr: expected a network apart from the node network 192.168.1.0/24, got 192.168.0.0/16",
                "/network/service_cidr: expected a network apart from the pod network 192.168.0.0/16, got 192.168.128.0/17",
                "/endpoint/address: expected a free address in 192.168.1.0/24, got another text",
            ]
        );
    }

    #[test]
    fn a_kubernetes_that_this_talos_does_not_run_is_refused() {
        let found = check(json!({"talos_version": "1.12.11", "kubernetes_version": "1.36.0"}));
        assert_eq!(
            found,
            ["/kubernetes_version: expected Kubernetes 1.30 to 1.35, which Talos 1.12.11 runs, got 1.36.0"]
        );
    }
}
