//! `talos.select_nodes_to_remove`: which nodes of a pool to give up: unhealthy ones first, then the emptiest.

use std::{cmp::Reverse, collections::HashMap};

use contractor::action::{Action, Change, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use k8s_openapi::api::core::v1::{Node as KubernetesNode, Pod};
use kube::{Api, Client, api::ListParams};
use messages::name::{ClusterName, NodeName, PoolName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{Reader, Versioned};
use uuid::Uuid;

use super::wait_nodes_ready::ready;
use crate::{
    drain::moves,
    failure::{asked, read},
    inventory::{self, ClusterState, Node, NodeState},
    kubernetes,
    reach::{Deps, known_cluster},
    told,
};

/// Chooses nodes.
pub struct SelectNodes(pub Deps);

/// How many nodes a pool should keep.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
    #[serde(default)]
    pub cluster_uid: Option<Uuid>,
    pub pool: PoolName,
    pub count: u32,
    /// The pool's machines as infrastructure-contractor knows them.
    #[serde(default)]
    pub machines: Vec<NodeName>,
}

/// Which nodes go.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    pub cluster_uid: Uuid,
    /// Those that have to leave.
    pub nodes: Vec<Removed>,
    /// Those that have left already, and whose machines are still there: an earlier removal was broken off.
    pub gone: Vec<Removed>,
}

/// A node that goes, as `node_removed` names it.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct Removed {
    pub hostname: NodeName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_uid: Option<Uuid>,
    pub pool: PoolName,
}

impl Action for SelectNodes {
    const NAME: &'static str = "talos.select_nodes_to_remove";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let cluster = known_cluster(cx, &input.cluster)?.value;
        if input.cluster_uid.is_some_and(|uid| uid != cluster.uid) {
            return Err(StepError::fail(format!("the request is for another cluster called {}", cluster.name)));
        }
        if cluster.state != ClusterState::Active {
            return Err(StepError::fail(format!("cluster {} does not stand ({:?})", cluster.name, cluster.state)));
        }
        let pool = pool(&cx.store, input)?;
        let surplus = surplus(&pool, input.count)?;
        let gone = gone(&pool, input);
        let mut effects = Effects::default();
        let chosen = if surplus == 0 {
            Vec::new()
        } else {
            let client = kubernetes::connect(&self.0, &cx.store, &cluster).await?;
            let ranks = ranks(&client, &pool).await?;
            choose(pool, surplus, &ranks)
        };
        for node in &chosen {
            if node.value.state != NodeState::Leaving {
                let value = Node { state: NodeState::Leaving, ..node.value.clone() };
                let name = value.hostname.as_str();
                effects.events.push(told::event("node_leaving", &input.cluster, name, json!({ "pool": input.pool })));
                effects.inventory.push(inventory::put_node(&Versioned { revision: node.revision, value }));
            }
        }
        let nodes = chosen.into_iter().map(|node| Removed {
            hostname: node.value.hostname,
            node_uid: node.value.uid,
            pool: input.pool.clone(),
        });
        Ok(Done::with_effects(Output { cluster_uid: cluster.uid, nodes: nodes.collect(), gone }, effects))
    }

    async fn undo(&self, cx: &StepContext, input: &Input, output: Option<&Output>) -> Result<Effects, StepError> {
        let mut effects = Effects::default();
        for node in output.iter().flat_map(|output| &output.nodes) {
            let key = inventory::node_key(&input.cluster, &node.hostname);
            if let Some(Versioned { revision, value }) = cx.store.get::<Node>(&key).map_err(read)?
                && value.state == NodeState::Leaving
            {
                let value = Node { state: NodeState::Ready, ..value };
                effects.events.push(told::event("node_kept", &input.cluster, node.hostname.as_str(), json!({})));
                effects.inventory.push(inventory::put_node(&Versioned { revision, value }));
            }
        }
        Ok(effects)
    }

    async fn preview(&self, cx: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let Ok(input) = Input::deserialize(input) else { return Ok(Vec::new()) };
        let pool = pool(&cx.store, &input)?;
        for node in &pool {
            cx.read::<Node>(&inventory::node_key(&input.cluster, &node.value.hostname)).map_err(read)?;
        }
        let surplus = surplus(&pool, input.count)?;
        let object = format!("{surplus} of {} nodes of pool {} of cluster {}", pool.len(), input.pool, input.cluster);
        let details = [("chosen".to_owned(), json!("when it is done: unhealthy nodes first, then the emptiest"))];
        let change = Change { verb: "remove".to_owned(), object, details: details.into(), destroys: true };
        Ok(if surplus == 0 { Vec::new() } else { vec![change] })
    }
}

fn pool(store: &Reader, input: &Input) -> Result<Vec<Versioned<Node>>, StepError> {
    let mut nodes = inventory::nodes(store, &input.cluster).map_err(read)?;
    nodes.retain(|node| node.value.pool.as_ref() == Some(&input.pool));
    Ok(nodes)
}

fn surplus(pool: &[Versioned<Node>], count: u32) -> Result<usize, StepError> {
    let surplus = pool.len().saturating_sub(count as usize);
    if surplus > 0 && pool.iter().any(|node| node.value.is_control_plane()) {
        return Err(StepError::fail("a pool of control planes is not scaled"));
    }
    Ok(surplus)
}

/// Machines of the pool that are no nodes of it.
fn gone(pool: &[Versioned<Node>], input: &Input) -> Vec<Removed> {
    let known = |machine: &&NodeName| pool.iter().any(|node| node.value.hostname == **machine);
    let left = input.machines.iter().filter(|machine| !known(machine));
    left.map(|hostname| Removed { hostname: hostname.clone(), node_uid: None, pool: input.pool.clone() }).collect()
}

/// How dear a node is: whether it is healthy, and how many pods would have to move.
type Rank = (bool, usize);

async fn ranks(client: &Client, pool: &[Versioned<Node>]) -> Result<HashMap<NodeName, Rank>, StepError> {
    let everything = ListParams::default();
    let nodes = Api::<KubernetesNode>::all(client.clone()).list(&everything).await;
    let nodes = nodes.map_err(|error| asked("listing nodes", &error))?.items;
    let pods = Api::<Pod>::all(client.clone()).list(&everything).await;
    let pods = pods.map_err(|error| asked("listing pods", &error))?.items;
    let rank = |name: &NodeName| {
        let node = nodes.iter().find(|node| node.metadata.name.as_deref() == Some(name.as_str()));
        let here = pods.iter().filter(|pod| {
            pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(name.as_str()) && moves(pod)
        });
        (node.is_some_and(ready), here.count())
    };
    Ok(pool.iter().map(|node| (node.value.hostname.clone(), rank(&node.value.hostname))).collect())
}

/// Nodes that are leaving already come first, so that asking again chooses the same; ties go to the youngest name.
fn choose(mut pool: Vec<Versioned<Node>>, surplus: usize, ranks: &HashMap<NodeName, Rank>) -> Vec<Versioned<Node>> {
    pool.sort_by_key(|node| {
        let leaving = node.value.state == NodeState::Leaving;
        let rank = ranks.get(&node.value.hostname).copied().unwrap_or_default();
        (!leaving, rank, Reverse((node.value.hostname.as_str().len(), node.value.hostname.clone())))
    });
    pool.truncate(surplus);
    pool.sort_by(|left, right| left.value.hostname.cmp(&right.value.hostname));
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, state: &str) -> Versioned<Node> {
        let value = json!({
            "cluster": "c", "hostname": name, "pool": "worker", "role": "worker", "ip": "127.0.0.1",
            "vm_id": "100", "state": state,
        });
        Versioned { revision: 1, value: serde_json::from_value(value).unwrap() }
    }

    #[test]
    fn machines_whose_nodes_are_gone_are_given_back() {
        let input = json!({ "cluster": "c", "pool": "worker", "count": 1, "machines": ["w-1", "w-2"] });
        let gone = gone(&[node("w-2", "ready")], &serde_json::from_value(input).unwrap());
        let names: Vec<_> = gone.iter().map(|removed| removed.hostname.as_str()).collect();
        assert_eq!(names, ["w-1"]);
    }

    #[test]
    fn leaving_then_unhealthy_then_emptiest_then_youngest() {
        let pool = vec![node("w-1", "ready"), node("w-2", "ready"), node("w-9", "ready"), node("w-10", "ready")];
        let rank = |name: &str, rank: Rank| (name.parse::<NodeName>().unwrap(), rank);
        let names = |chosen: Vec<Versioned<Node>>| -> Vec<String> {
            chosen.into_iter().map(|node| node.value.hostname.to_string()).collect()
        };
        let ranks: HashMap<_, _> =
            [rank("w-1", (true, 3)), rank("w-2", (false, 9)), rank("w-9", (true, 1)), rank("w-10", (true, 1))].into();
        assert_eq!(names(choose(pool.clone(), 1, &ranks)), ["w-2"]);
        assert_eq!(names(choose(pool.clone(), 2, &ranks)), ["w-10", "w-2"]);
        let mut pool = pool;
        pool[0] = node("w-1", "leaving");
        assert_eq!(names(choose(pool, 1, &ranks)), ["w-1"]);
    }
}
