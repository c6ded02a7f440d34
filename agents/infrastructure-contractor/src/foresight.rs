//! What talos-contractor would be handed at the end of a request or plan, so that it can judge or plan its part.

use contractor::agent::{Foreseen, Message};
use engine::plan::{Change, Plan};
use messages::{
    catalogue::Family,
    name::ClusterName,
    request::{EndpointKind, ProvisionCluster},
    subject::Party,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use store::Reader;

use crate::{
    config::{NodeNetwork, Sections},
    inventory::{Cluster, Endpoint, cluster_key},
    reservation::node_name,
};

/// The handoff that the plan ends with, as far as the plan knows it.
pub(crate) fn handed_over(plan: &Plan, store: &Reader) -> Option<(Party, String, Value)> {
    let (kind, body) = match plan.playbook.as_str() {
        "provision-vms" => ("vm_provisioned", provisioned(plan)?),
        "scale-pool" if creates(plan) => ("vm_provisioned", added(plan, &cluster(plan, store)?)?),
        "scale-pool" if plan.destroys() => ("scale_request", passed_on(plan, "scale_request", store)),
        "decommission-cluster" => ("decommission_request", passed_on(plan, "decommission_request", store)),
        _ => return None,
    };
    Some((Party::Talos, kind.to_owned(), body))
}

/// The handoff that a request for a cluster leads to. Ids and addresses are stand-ins.
pub(crate) fn foreseen(message: &Message, sections: &Sections) -> Option<Foreseen> {
    if (message.family, message.name.as_str()) != (Family::Request, "provision_cluster") {
        return None;
    }
    let request = ProvisionCluster::deserialize(&message.body).ok()?;
    let network = sections.network(request.network.as_ref().and_then(|network| network.name.as_deref()))?;
    let mut spec = request.talos_spec();
    let asked = request.endpoint.as_ref();
    spec.endpoint_is_vip = Some(asked.is_none_or(|endpoint| endpoint.kind == EndpointKind::Vip));
    spec.talos_version = spec.talos_version.or_else(|| Some(sections.images.default_talos_version()));
    let stand_in = network.gateway;
    let endpoint = Endpoint {
        kind: asked.map_or(EndpointKind::Vip, |endpoint| endpoint.kind),
        host: asked.and_then(|endpoint| endpoint.address.clone()).unwrap_or_else(|| stand_in.to_string()),
        port: asked.and_then(|endpoint| endpoint.port).unwrap_or(6443),
        leased: None,
    };
    let body = json!({
        "handoff_type": "vm_provisioned",
        "cluster_name": request.cluster_name,
        "purpose": "create",
        "nodes": machines(&request, network, sections.machines.first_vmid),
        "network": { "gateway": network.gateway, "dns_servers": network.dns_servers, "prefix": network.cidr.prefix_len() },
        "api_endpoint": endpoint.url(),
        "spec": spec,
        "ready": true,
    });
    Some(Foreseen { to: Party::Talos, name: "vm_provisioned".to_owned(), body, within: "/spec" })
}

/// The machines that a request asks for. No two have the same address, as that would be refused.
fn machines(request: &ProvisionCluster, network: &NodeNetwork, vmid: u32) -> Vec<Value> {
    let cluster = &request.cluster_name;
    let mut addresses = network.cidr.hosts().filter(|address| *address != network.gateway);
    let mut machines = Vec::new();
    for pool in request.effective_pools() {
        for number in 1..=pool.count {
            machines.push(json!({
                "role": pool.role, "ip": addresses.next().unwrap_or(network.gateway),
                "hostname": node_name(cluster, &pool.name, number), "vm_id": vmid, "pool": pool.name,
            }));
        }
    }
    machines
}

fn changes(plan: &Plan) -> impl Iterator<Item = &Change> {
    plan.steps.iter().flat_map(|step| &step.changes)
}

fn creates(plan: &Plan) -> bool {
    changes(plan).any(|change| change.verb == "create")
}

fn nodes(plan: &Plan) -> Vec<Value> {
    changes(plan).filter(|change| change.verb == "create").filter_map(node).collect()
}

/// The cluster that the request is about.
fn cluster(plan: &Plan, store: &Reader) -> Option<Cluster> {
    let name = ClusterName::deserialize(plan.input.get("cluster_name")?).ok()?;
    Some(store.get::<Cluster>(&cluster_key(&name)).ok()??.value)
}

fn provisioned(plan: &Plan) -> Option<Value> {
    let request = ProvisionCluster::deserialize(&plan.input).ok()?;
    let reserved = changes(plan).find(|change| change.verb == "reserve")?;
    let mut spec = request.talos_spec();
    spec.endpoint_is_vip = Some(reserved.details.get("kind") == Some(&json!(EndpointKind::Vip)));
    spec.talos_version = spec
        .talos_version
        .or_else(|| changes(plan).find_map(|change| Some(change.details.get("talos")?.as_str()?.to_owned())));
    Some(json!({
        "handoff_type": "vm_provisioned",
        "cluster_name": request.cluster_name,
        "purpose": "create",
        "nodes": nodes(plan),
        "network": reserved.details.get("network")?,
        "api_endpoint": reserved.details.get("url")?,
        "spec": spec,
        "ready": true,
    }))
}

/// More machines for a cluster that stands.
fn added(plan: &Plan, cluster: &Cluster) -> Option<Value> {
    let network = &cluster.network;
    Some(json!({
        "handoff_type": "vm_provisioned",
        "cluster_name": cluster.name,
        "cluster_uid": cluster.uid,
        "purpose": "scale",
        "nodes": nodes(plan),
        "network": { "gateway": network.gateway, "dns_servers": network.dns_servers, "prefix": network.prefix },
        "api_endpoint": cluster.endpoint.url(),
        "spec": cluster.spec,
        "ready": true,
    }))
}

/// A machine as a handoff names it; its uids are made when the plan is carried out.
fn node(change: &Change) -> Option<Value> {
    let mut node = Map::new();
    for field in ["role", "ip", "hostname", "vm_id", "pool", "host"] {
        node.insert(field.to_owned(), change.details.get(field)?.clone());
    }
    Some(Value::Object(node))
}

/// What the contractor was asked, as it passes it on.
fn passed_on(plan: &Plan, kind: &str, store: &Reader) -> Value {
    let mut body = plan.input.clone();
    if let Some(fields) = body.as_object_mut() {
        fields.insert("handoff_type".to_owned(), json!(kind));
        if let Some(cluster) = cluster(plan, store) {
            fields.insert("cluster_uid".to_owned(), json!(cluster.uid));
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::IpAddr};

    use super::*;
    use crate::config::tests::smallest;

    #[test]
    fn every_machine_that_is_foreseen_has_an_address_of_its_own() {
        let request = json!({ "request_type": "provision_cluster", "cluster_name": "prod", "pattern": "ha" });
        let request = ProvisionCluster::deserialize(request).unwrap();
        let network = smallest().network.remove(0);
        let machines = machines(&request, &network, 4_000);
        let addresses: BTreeSet<IpAddr> =
            machines.iter().map(|machine| serde_json::from_value(machine["ip"].clone()).unwrap()).collect();
        assert!(machines.len() > 3 && addresses.len() == machines.len(), "{machines:?}");
        assert!(addresses.iter().all(|it| network.cidr.contains(it) && *it != network.gateway), "{addresses:?}");
    }
}
