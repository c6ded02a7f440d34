//! `talos.register_nodes`: takes a `vm_provisioned` that adds nodes to a cluster that stands.

use std::collections::HashSet;

use contractor::action::{Action, Change, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use messages::{
    handoff::{Node as Machine, Purpose, VmProvisioned},
    name::{ClusterName, NodeName},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{InventoryChange, SecretPut};
use uuid::Uuid;

use crate::{
    failure::read,
    inventory::{self, Cluster, ClusterState, Node, NodeState, json as record},
    reach::known_cluster,
    told,
};

/// Writes down new nodes of a known cluster.
pub struct RegisterNodes;

/// The handoff.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The whole `vm_provisioned`.
    pub handoff: VmProvisioned,
}

/// What later steps decide by.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    pub cluster: ClusterName,
    pub cluster_uid: Uuid,
    pub nodes: Vec<NodeName>,
    pub control_planes: Vec<NodeName>,
    /// For the handoff that ends the flow.
    pub ready_nodes: Vec<ReadyNode>,
    pub failure_policy: messages::request::FailurePolicy,
}

/// A node as `nodes_ready` names it.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct ReadyNode {
    pub hostname: NodeName,
    pub node_uid: Uuid,
    pub pool: messages::name::PoolName,
}

impl Action for RegisterNodes {
    const NAME: &'static str = "talos.register_nodes";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let handoff = &input.handoff;
        let cluster = known_cluster(cx, &handoff.cluster_name)?.value;
        if handoff.cluster_uid.is_some_and(|uid| uid != cluster.uid) {
            return Err(StepError::fail(format!("the handoff is for another cluster called {}", cluster.name)));
        }
        if !matches!(handoff.purpose, Some(Purpose::Scale | Purpose::Replace)) {
            return Err(StepError::fail("only `purpose: scale` and `replace` add nodes"));
        }
        if cluster.state != ClusterState::Active {
            return Err(StepError::fail(format!("cluster {} does not stand ({:?})", cluster.name, cluster.state)));
        }
        let mut effects = Effects::default();
        let nodes = records(&cluster.name, &handoff.nodes)?;
        for node in &nodes {
            let key = inventory::node_key(&cluster.name, &node.hostname);
            match cx.store.get::<Node>(&key).map_err(read)? {
                None => {
                    effects.inventory.push(InventoryChange::create(key, record(node)));
                    let facts = json!({ "pool": node.pool, "ip": node.ip });
                    effects.events.push(told::event("node_registered", &cluster.name, node.hostname.as_str(), facts));
                }
                Some(known) if known.value.uid == node.uid => {}
                Some(_) => {
                    return Err(StepError::fail(format!("there is another node called {}", node.hostname)));
                }
            }
        }
        let ready_nodes = nodes.iter().map(ready_node).collect::<Result<_, _>>()?;
        let output = Output {
            cluster: cluster.name.clone(),
            cluster_uid: cluster.uid,
            nodes: names(&mut nodes.iter()),
            control_planes: names(&mut nodes.iter().filter(|node| node.is_control_plane())),
            ready_nodes,
            failure_policy: cluster.spec.failure_policy.unwrap_or_default(),
        };
        Ok(Done::with_effects(output, effects))
    }

    async fn undo(&self, cx: &StepContext, input: &Input, _: Option<&Output>) -> Result<Effects, StepError> {
        let cluster = &input.handoff.cluster_name;
        let mut effects = Effects::default();
        for machine in &input.handoff.nodes {
            let key = inventory::node_key(cluster, &machine.hostname);
            let known = cx.store.get::<Node>(&key).map_err(read)?;
            if known.is_some_and(|known| known.value.uid == machine.node_uid) {
                effects.inventory.push(InventoryChange::delete(key));
                effects.inventory.push(InventoryChange::delete(inventory::config_key(cluster, &machine.hostname)));
                let name = inventory::machine_config_name(cluster, &machine.hostname);
                effects.secrets.push(SecretPut { name, plain: None });
                let hostname = machine.hostname.as_str();
                effects.events.push(told::event("node_forgotten", cluster, hostname, json!({})));
            }
        }
        Ok(effects)
    }

    async fn preview(&self, _: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let Ok(input) = Input::deserialize(input) else { return Ok(Vec::new()) };
        let change = |node: &Machine| Change {
            verb: "register".to_owned(),
            object: format!("node {} of cluster {}", node.hostname, input.handoff.cluster_name),
            details: [("address".to_owned(), Value::from(node.ip.to_string()))].into(),
            destroys: false,
        };
        Ok(input.handoff.nodes.iter().map(change).collect())
    }

    /// Ids of nodes are made with their machines.
    async fn foresee(&self, cx: &PreviewContext, input: &Input) -> Result<Option<Value>, StepError> {
        let name = &input.handoff.cluster_name;
        let Some(known) = cx.read::<Cluster>(&inventory::cluster_key(name)).map_err(read)? else { return Ok(None) };
        let nodes = records(name, &input.handoff.nodes)?;
        Ok(Some(json!({
            "cluster": name,
            "cluster_uid": known.value.uid,
            "nodes": names(&mut nodes.iter()),
            "control_planes": names(&mut nodes.iter().filter(|node| node.is_control_plane())),
        })))
    }
}

fn names(nodes: &mut dyn Iterator<Item = &Node>) -> Vec<NodeName> {
    nodes.map(|node| node.hostname.clone()).collect()
}

/// One record per machine; two of one name, address or UUID are refused.
pub(super) fn records(cluster: &ClusterName, machines: &[Machine]) -> Result<Vec<Node>, StepError> {
    let mut seen = HashSet::new();
    let mut fresh = |kind: &str, value: String| {
        seen.insert((kind.to_owned(), value.clone()))
            .then_some(())
            .ok_or_else(|| StepError::fail(format!("two machines have the {kind} {value}")))
    };
    let mut nodes = Vec::new();
    for machine in machines {
        fresh("name", machine.hostname.to_string())?;
        fresh("address", machine.ip.to_string())?;
        machine.smbios_uuid.map_or(Ok(()), |uuid| fresh("SMBIOS UUID", uuid.to_string()))?;
        nodes.push(Node {
            cluster: cluster.clone(),
            hostname: machine.hostname.clone(),
            uid: machine.node_uid,
            pool: machine.pool.clone(),
            role: machine.role,
            ip: machine.ip,
            vm_id: machine.vm_id,
            mac: machine.mac.clone(),
            smbios_uuid: machine.smbios_uuid,
            host: machine.host.clone(),
            state: NodeState::Joining,
        });
    }
    nodes.sort_by(|left, right| left.hostname.cmp(&right.hostname));
    Ok(nodes)
}

fn ready_node(node: &Node) -> Result<ReadyNode, StepError> {
    match (node.uid, node.pool.clone()) {
        (Some(node_uid), Some(pool)) => Ok(ReadyNode { hostname: node.hostname.clone(), node_uid, pool }),
        _ => Err(StepError::fail(format!("the handoff names no node_uid or no pool of {}", node.hostname))),
    }
}
