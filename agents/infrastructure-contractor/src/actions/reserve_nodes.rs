//! `infrastructure.reserve_nodes`: takes what more machines of a pool need, in one commit.

use contractor::action::{Action, Done, Effects, StepContext, StepError};
use engine::catalog::Undo;
use messages::name::{ClusterName, PoolName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{known_cluster, machine_event, machines, references, reserve_cluster::hosts};
use crate::{
    Deps,
    inventory::{Image, MachineRef},
    reservation::{self, Ground, Wanted},
};

pub(super) struct ReserveNodes(pub(super) Deps);

/// For which pool.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// The cluster.
    cluster: ClusterName,
    /// The pool.
    pool: PoolName,
    /// How many machines it should have in all.
    count: u32,
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
        let deps = &self.0;
        let cluster = known_cluster(&cx.store, &input.cluster, None)?.value;
        let gone = || StepError::fail(format!("cluster {} has no pool {}", input.cluster, input.pool));
        let pool = &cluster.pools.get(&input.pool).ok_or_else(gone)?.spec;
        let mut ground = Ground::survey(deps, &cx.store, &input.cluster).await?;
        let taken = ground.numbers(&input.cluster, pool);
        let missing = usize::try_from(input.count).unwrap_or(usize::MAX).saturating_sub(taken.len());
        let numbers = (1_u32..).filter(|number| !taken.contains(number)).take(missing).collect();
        let wanted = Wanted {
            cluster: &input.cluster,
            cluster_uid: cluster.uid,
            network: &cluster.network,
            image: &cluster.image,
            flow: cx.flow,
            pools: vec![(pool, numbers)],
        };
        let network = reservation::node_network(deps, &cluster.network.name)?;
        let machines = ground.choose(deps, network, &wanted, &|what| cx.unique_id(what)).await?;
        let inventory = reservation::claims(&machines);
        let events = machines.iter().map(|machine| machine_event("vm_reserved", machine)).collect();
        let output = Output { hosts: hosts(&machines), machines: references(&machines), image: cluster.image };
        Ok(Done::with_effects(output, Effects { inventory, events, ..Effects::default() }))
    }

    /// Gives back what this flow took.
    async fn undo(&self, cx: &StepContext, input: &Input, _output: Option<&Output>) -> Result<Effects, StepError> {
        let own = machines(&cx.store, &input.cluster)?;
        let own = own.iter().filter(|vm| vm.machine.flow == cx.flow && vm.machine.pool == input.pool);
        let inventory = own.flat_map(|vm| reservation::releases(&vm.machine)).collect();
        Ok(Effects { inventory, ..Effects::default() })
    }
}
