//! `infrastructure.plan_scale`: what a desired count means for a pool, and the pool's new generation.

use contractor::action::{Action, Change, DomainEvent, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use messages::{
    name::{ClusterName, NodeName, PoolName},
    request::{Pool, Role, ScaleRequest, Size},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use store::{InventoryChange, Reader, Versioned};

use super::{cluster_event, known_cluster, machines};
use crate::{
    inventory::{Cluster, ClusterState, PoolRecord, cluster_key},
    reservation,
};

pub(super) struct PlanScale;

/// What is asked for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// The request or handoff.
    request: ScaleRequest,
}

/// What it means.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct Output {
    /// `up`, `down` or `none`.
    direction: Direction,
    /// The cluster.
    cluster: ClusterName,
    /// The pool.
    pool: PoolName,
    /// How many nodes it should have.
    count: u32,
    /// How many machines it has.
    current: u32,
    /// How many were wanted before.
    wanted_before: u32,
    /// The pool's generation from now on.
    generation: u64,
    /// What talos-contractor is told when nodes are to go.
    handoff: ScaleRequest,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Direction {
    /// More machines.
    Up,
    /// Fewer.
    Down,
    /// As many as there are.
    None,
}

impl Action for PlanScale {
    const NAME: &'static str = "infrastructure.plan_scale";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let (found, output) = decide(&cx.store, &input.request)?;
        match found.value.state {
            ClusterState::Active => {}
            ClusterState::Provisioning => {
                let reason = format!("cluster {} is not ready yet", found.value.name);
                // Without the cluster's lock, which the run that makes it ready needs.
                return Err(StepError::no_capacity(reason, Duration::from_secs(5)));
            }
            ClusterState::Failed => {
                let reason = format!("cluster {}'s making failed, and what there is of it was kept", found.value.name);
                return Err(StepError::fail(reason).with_hint("decommission it and make it again"));
            }
            ClusterState::Leaving => {
                return Err(StepError::fail(format!("cluster {} is being taken away", found.value.name)));
            }
        }
        let change = set_count(found, &input.request, output.generation);
        let told = scaled(&output, output.wanted_before, output.count, output.generation);
        Ok(Done::with_effects(output, Effects { inventory: vec![change], events: vec![told], ..Effects::default() }))
    }

    /// The count that was wanted before, unless it was changed again since.
    async fn undo(&self, cx: &StepContext, input: &Input, output: Option<&Output>) -> Result<Effects, StepError> {
        let Some(output) = output else { return Ok(Effects::default()) };
        let Some(mut found) = super::cluster(&cx.store, &input.request.cluster_name)? else {
            return Ok(Effects::default());
        };
        let Some(pool) = found.value.pools.get_mut(&output.pool).filter(|pool| pool.generation == output.generation)
        else {
            return Ok(Effects::default());
        };
        pool.spec.count = output.wanted_before;
        pool.generation += 1;
        let told = scaled(output, output.count, output.wanted_before, pool.generation);
        let change = InventoryChange::update(
            cluster_key(&input.request.cluster_name),
            found.revision,
            reservation::json(&found.value),
        );
        Ok(Effects { inventory: vec![change], events: vec![told], ..Effects::default() })
    }

    async fn preview(&self, cx: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let Ok(input) = Input::deserialize(input) else { return Ok(Vec::new()) };
        cx.read::<Cluster>(&cluster_key(&input.request.cluster_name)).map_err(crate::failure::read)?;
        let (_, output) = decide(&cx.store, &input.request)?;
        let scale = Change {
            verb: "scale".into(),
            object: format!("pool {} of {}", output.pool, output.cluster),
            details: BTreeMap::from([("from".into(), json!(output.current)), ("to".into(), json!(output.count))]),
            destroys: false,
        };
        let surplus = output.current.saturating_sub(output.count);
        let destroy = Change {
            verb: "destroy".into(),
            object: format!("{surplus} of {} machines, with their disks", output.current),
            details: BTreeMap::from([("when".into(), json!("talos-contractor has chosen and removed their nodes"))]),
            destroys: true,
        };
        Ok(std::iter::once(scale).chain((surplus > 0).then_some(destroy)).collect())
    }

    async fn foresee(&self, cx: &PreviewContext, input: &Input) -> Result<Option<Value>, StepError> {
        let (_, output) = decide(&cx.store, &input.request)?;
        Ok(Some(reservation::json(&output)))
    }
}

fn scaled(of: &Output, from: u32, to: u32, generation: u64) -> DomainEvent {
    let facts = json!({ "pool": of.pool, "from": from, "to": to, "generation": generation });
    cluster_event("pool_scaled", &of.cluster, facts)
}

fn decide(reader: &Reader, request: &ScaleRequest) -> Result<(Versioned<Cluster>, Output), StepError> {
    let found = known_cluster(reader, &request.cluster_name, request.cluster_uid)?;
    let pool = pool_of(&found.value, request)?;
    if let Some(expected) = request.generation.filter(|expected| *expected != pool.generation) {
        let message = format!("pool {} is at generation {}, not {expected}", request.pool, pool.generation);
        return Err(StepError::fail(message).with_hint("the pool has changed since the count was computed: ask again"));
    }
    let own = machines(reader, &request.cluster_name)?;
    let own = own.into_iter().filter(|vm| vm.machine.pool == request.pool);
    let own: Vec<NodeName> = own.map(|vm| vm.machine.hostname).collect();
    let current = u32::try_from(own.len()).unwrap_or(u32::MAX);
    let direction = match request.count.cmp(&current) {
        std::cmp::Ordering::Greater => Direction::Up,
        std::cmp::Ordering::Less => Direction::Down,
        std::cmp::Ordering::Equal => Direction::None,
    };
    let generation = pool.generation + 1;
    let handoff = ScaleRequest {
        handoff_type: "scale_request".into(),
        cluster_uid: Some(found.value.uid),
        generation: Some(generation),
        machines: own,
        approval: None,
        ..request.clone()
    };
    let output = Output {
        direction,
        cluster: request.cluster_name.clone(),
        pool: request.pool.clone(),
        count: request.count,
        current,
        wanted_before: pool.spec.count,
        generation,
        handoff,
    };
    Ok((found, output))
}

/// The pool, or a new one of workers where the request says of which size.
fn pool_of(cluster: &Cluster, request: &ScaleRequest) -> Result<PoolRecord, StepError> {
    match (cluster.pools.get(&request.pool), request.size) {
        (Some(pool), _) if pool.spec.role == Role::ControlPlane => {
            Err(StepError::fail(format!("pool {} holds control planes, which are not scaled", request.pool)))
        }
        (Some(pool), _) => Ok(pool.clone()),
        (None, Some(size)) => Ok(new_pool(&request.pool, size)),
        (None, None) => {
            let known: Vec<_> = cluster.pools.keys().map(ToString::to_string).collect();
            let message = format!("cluster {} has no pool {}; it has {}", cluster.name, request.pool, known.join(", "));
            Err(StepError::fail(message).with_hint("name a size to make a new pool"))
        }
    }
}

/// A pool of workers that has no machines yet.
pub(super) fn new_pool(name: &PoolName, size: Size) -> PoolRecord {
    let spec = json!({ "name": name, "role": Role::Worker, "count": 0, "size": size });
    let spec = Pool::deserialize(spec).expect("a name, a role, a count and a size make a pool");
    PoolRecord { spec, generation: 0 }
}

fn set_count(mut found: Versioned<Cluster>, request: &ScaleRequest, generation: u64) -> InventoryChange {
    let pool = pool_of(&found.value, request).expect("it was decided for this pool a moment ago");
    let pool = PoolRecord { spec: Pool { count: request.count, ..pool.spec }, generation };
    found.value.pools.insert(request.pool.clone(), pool);
    InventoryChange::update(cluster_key(&request.cluster_name), found.revision, reservation::json(&found.value))
}
