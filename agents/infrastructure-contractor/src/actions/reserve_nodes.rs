//! `infrastructure.reserve_nodes`: takes what more machines of a pool need, in one commit.

use contractor::action::{Action, Change, Done, Effects, Kept, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use messages::{
    name::{ClusterName, PoolName},
    request::{Pool, Size},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::Reader;
use uuid::Uuid;

use super::{
    cluster, known_cluster, machine_event, machines, node_addresses,
    plan_scale::new_pool,
    references,
    reserve_cluster::{hosts, proposal},
};
use crate::{
    Deps,
    claims::Claim,
    failure,
    inventory::{Cluster, ClusterState, Image, Machine, MachineRef, cluster_key},
    reservation::{self, Ground, Wanted},
};

pub(super) struct ReserveNodes(pub(super) Deps);

/// For which pool.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// The cluster.
    cluster: ClusterName,
    /// Which of that name: it may have been taken away and made again while this waited for room.
    #[serde(default)]
    cluster_uid: Option<Uuid>,
    /// The pool.
    pool: PoolName,
    /// How many machines it should have in all.
    count: u32,
    /// Of which size they are if the pool is new; a plan needs it, as nothing has made the pool yet.
    #[serde(default)]
    size: Option<Size>,
}

/// What was taken.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct Output {
    /// The new machines; every detail of them is in the inventory.
    machines: Vec<MachineRef>,
    /// The hosts that need the image.
    hosts: Vec<String>,
    /// What the machines boot.
    image: Image,
}

impl Action for ReserveNodes {
    const NAME: &'static str = "infrastructure.reserve_nodes";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let cluster = known_cluster(&cx.store, &input.cluster, input.cluster_uid)?.value;
        if cluster.state == ClusterState::Leaving {
            return Err(StepError::fail(format!("cluster {} is being taken away", cluster.name)));
        }
        let gone = || StepError::fail(format!("cluster {} has no pool {}", input.cluster, input.pool));
        let pool = &cluster.pools.get(&input.pool).ok_or_else(gone)?.spec;
        let uid = |what: &str| cx.unique_id(what);
        let (machines, claim) = self.choose(&cx.store, &cluster, pool, input.count, cx.flow, &uid).await?;
        let inventory = reservation::claims(&machines);
        let events = machines.iter().map(|machine| machine_event("vm_reserved", machine)).collect();
        let output = Output { hosts: hosts(&machines), machines: references(&machines), image: cluster.image };
        Ok(Done::with_effects(
            output,
            Effects { inventory, events, until_then: Kept::new(claim), ..Effects::default() },
        ))
    }

    /// Gives back what this flow took.
    async fn undo(&self, cx: &StepContext, input: &Input, _output: Option<&Output>) -> Result<Effects, StepError> {
        let all = machines(&cx.store, &input.cluster)?;
        let own = all.iter().filter(|vm| vm.machine.flow == cx.flow && vm.machine.pool == input.pool);
        // They may have become nodes since.
        if let Some(found) = cluster(&cx.store, &input.cluster)? {
            let leaving: Vec<_> = own.clone().map(|vm| vm.machine.ip).collect();
            self.0.monitoring.leave(&found.value, &leaving, || Ok(node_addresses(&all)))?;
        }
        let inventory = own.flat_map(|vm| reservation::releases(&vm.machine)).collect();
        Ok(Effects { inventory, ..Effects::default() })
    }

    /// Chooses without committing; what it shows is kept from other plans for ten minutes.
    async fn preview(&self, cx: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let Ok(input) = Input::deserialize(input) else { return Ok(Vec::new()) };
        let known = cx.read::<Cluster>(&cluster_key(&input.cluster)).map_err(failure::read)?;
        let Some(cluster) = known.map(|known| known.value) else { return Ok(Vec::new()) };
        let new = || input.size.map(|size| new_pool(&input.pool, size).spec);
        let pool = cluster.pools.get(&input.pool).map(|pool| pool.spec.clone()).or_else(new);
        let Some(pool) = pool else { return Ok(Vec::new()) };
        let uid = |what: &str| Uuid::new_v5(&cx.flow, what.as_bytes());
        let (machines, _claim) = self.choose(&cx.store, &cluster, &pool, input.count, cx.flow, &uid).await?;
        let vmids = machines.iter().map(|machine| machine.vmid).collect();
        self.0.proposals.hold(&input.cluster, vmids, machines.iter().map(|machine| machine.ip).collect());
        Ok(machines.iter().map(proposal).collect())
    }
}

impl ReserveNodes {
    async fn choose(
        &self,
        reader: &Reader,
        cluster: &Cluster,
        pool: &Pool,
        count: u32,
        flow: Uuid,
        uid: &(dyn Fn(&str) -> Uuid + Sync),
    ) -> Result<(Vec<Machine>, Option<Claim>), StepError> {
        let deps = &self.0;
        let mut ground = Ground::survey(deps, reader, &cluster.name).await?;
        let taken = ground.numbers(&cluster.name, pool);
        let missing = usize::try_from(count).unwrap_or(usize::MAX).saturating_sub(taken.len());
        let foreign = ground.foreign_numbers(&cluster.name, pool);
        let free = (1_u32..).filter(|number| !taken.contains(number) && !foreign.contains(number));
        let numbers = free.take(missing).collect();
        let wanted = Wanted {
            cluster: &cluster.name,
            cluster_uid: cluster.uid,
            network: &cluster.network,
            image: &cluster.image,
            flow,
            pools: vec![(pool, numbers)],
        };
        let network = reservation::node_network(deps, &cluster.network.name)?;
        let machines = ground.choose(deps, network, &wanted, uid).await?;
        Ok((machines, ground.into_claim()))
    }
}
