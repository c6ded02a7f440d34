//! `talos.plan_scale_up`: whether pods still wait for room, and how many nodes their pool should have then.

use contractor::action::{Action, Done, Effects, StepContext, StepError};
use engine::catalog::Undo;
use messages::{
    name::{ClusterName, PoolName},
    query::PoolView,
    request::Role,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::nodes_of;
use crate::{
    inventory::{Node, NodeState},
    kubernetes, pressure,
    reach::{Deps, known_cluster},
    told,
};

/// Plans one step up.
pub struct PlanScaleUp(pub Deps);

/// Which cluster.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
    /// Its pools, as infrastructure-contractor counts them.
    pub pools: Vec<PoolView>,
    /// Above this many nodes the pool is left as it is.
    #[serde(default = "most")]
    pub most: u32,
}

fn most() -> u32 {
    20
}

/// What to ask for.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// Whether to ask at all.
    pub needed: bool,
    pub cluster_uid: Uuid,
    /// The pool of workers with the fewest nodes; empty if there is none.
    pub pool: Option<PoolName>,
    /// How many nodes it should have.
    pub count: u32,
    /// The pool's generation that the count was computed from.
    pub generation: Option<u64>,
    /// Why, for the operator.
    pub reason: String,
}

impl Action for PlanScaleUp {
    const NAME: &'static str = "talos.plan_scale_up";
    const UNDO: Undo = Undo::Nothing;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let cluster = known_cluster(cx, &input.cluster)?.value;
        let client = kubernetes::connect(&self.0, &cx.store, &cluster).await?;
        let waiting = pressure::unschedulable(&client).await?;
        let workers: Vec<_> =
            nodes_of(&cx.store, &input.cluster)?.into_iter().filter(|node| !node.is_control_plane()).collect();
        // One change at a time: nodes that come or go may change the answer.
        let settled = workers.iter().all(|node| node.state == NodeState::Ready);
        let smallest = smallest_pool(&input.pools, &workers);
        let count = smallest.map_or(0, |pool| pool.count + 1);
        let output = Output {
            needed: waiting > 0 && settled && smallest.is_some() && count <= input.most,
            cluster_uid: cluster.uid,
            pool: smallest.map(|pool| pool.pool.clone()),
            count,
            generation: smallest.map(|pool| pool.generation),
            reason: format!("{waiting} pods are unschedulable"),
        };
        let mut effects = Effects::default();
        if output.needed {
            let facts = json!({ "pods": waiting, "pool": output.pool, "count": count });
            effects.events.push(told::event("pressure_detected", &input.cluster, input.cluster.as_str(), facts));
        }
        Ok(Done::with_effects(output, effects))
    }
}

/// The pool of workers with the fewest nodes, among those that have what they should: as many machines as are wanted,
/// every one of them a node here.
fn smallest_pool<'p>(pools: &'p [PoolView], workers: &[Node]) -> Option<&'p PoolView> {
    let nodes_in = |pool: &PoolView| workers.iter().filter(|node| node.pool.as_ref() == Some(&pool.pool)).count();
    let settled = |pool: &&PoolView| {
        pool.role == Role::Worker
            && pool.machines == pool.count
            && usize::try_from(pool.count).is_ok_and(|count| count == nodes_in(pool))
    };
    pools.iter().filter(settled).min_by_key(|pool| pool.count)
}
