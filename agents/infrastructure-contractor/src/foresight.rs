//! What talos-contractor would be handed at the end of a plan, so that it can plan its part.

use engine::plan::{Change, Plan};
use messages::{
    request::{EndpointKind, ProvisionCluster},
    subject::Party,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The handoff that the plan ends with, as far as the plan knows it.
pub(crate) fn handed_over(plan: &Plan) -> Option<(Party, String, Value)> {
    match plan.playbook.as_str() {
        "provision-vms" => provisioned(plan).map(|body| (Party::Talos, "vm_provisioned".to_owned(), body)),
        "decommission-cluster" => Some((Party::Talos, "decommission_request".to_owned(), decommission(plan))),
        _ => None,
    }
}

fn provisioned(plan: &Plan) -> Option<Value> {
    let request = ProvisionCluster::deserialize(&plan.input).ok()?;
    let changes = || plan.steps.iter().flat_map(|step| &step.changes);
    let nodes: Vec<Value> = changes().filter(|change| change.verb == "create").filter_map(node).collect();
    let reserved = changes().find(|change| change.verb == "reserve")?;
    let mut spec = request.talos_spec();
    spec.endpoint_is_vip = Some(reserved.details.get("kind") == Some(&json!(EndpointKind::Vip)));
    spec.talos_version = spec
        .talos_version
        .or_else(|| changes().find_map(|change| Some(change.details.get("talos")?.as_str()?.to_owned())));
    Some(json!({
        "handoff_type": "vm_provisioned",
        "cluster_name": request.cluster_name,
        "purpose": "create",
        "nodes": nodes,
        "network": reserved.details.get("network")?,
        "api_endpoint": reserved.details.get("url")?,
        "spec": spec,
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

fn decommission(plan: &Plan) -> Value {
    let mut body = plan.input.clone();
    if let Some(fields) = body.as_object_mut() {
        fields.insert("handoff_type".to_owned(), json!("decommission_request"));
        fields.remove("approval");
    }
    body
}
