//! The condition `unschedulable_pods`: pods that no node of a cluster has room for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use contractor::{
    action::StepError,
    agent::Workplace,
    counterpart::Counterpart,
    triggers::{Cause, fire},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use messages::{name::ClusterName, query::PoolView};
use serde_json::json;
use store::{Commit, InventoryChange, Reader};

use crate::{
    background::UNSCHEDULABLE_PODS,
    failure::{asked, chain, read},
    inventory::{self, ClusterState, Fired},
    kubernetes,
    reach::Deps,
};

/// Who knows the pools of a cluster, with their generations: infrastructure-contractor.
pub trait Pools: Send + Sync {
    /// All pools of a cluster.
    ///
    /// # Errors
    /// One sentence that says why they are not known.
    fn of(&self, cluster: &ClusterName) -> impl Future<Output = Result<Vec<PoolView>, String>> + Send;
}

impl Pools for Counterpart {
    async fn of(&self, cluster: &ClusterName) -> Result<Vec<PoolView>, String> {
        let told = self.ask("pools.list", &json!({ "cluster": cluster })).await.map_err(|error| error.to_string())?;
        let rows = told.get("rows").cloned().unwrap_or_default();
        serde_json::from_value(rows).map_err(|error| format!("the pools have another shape: {error}"))
    }
}

/// What a playbook that starts by pressure knows between two looks.
pub struct Pressure<P> {
    playbook: String,
    /// Asked when it is about to fire: a count is meant for the generation that it was computed from.
    pools: P,
    hold: SignedDuration,
    cool_down: SignedDuration,
    /// Since when each cluster has been under pressure without a break. A restart begins to count anew.
    since: BTreeMap<ClusterName, Timestamp>,
}

impl<P: Pools> Pressure<P> {
    /// Starts `playbook` when pods have found no room for `hold`, and not again before `cool_down` is over.
    pub fn new(playbook: impl Into<String>, hold: Duration, cool_down: Duration, pools: P) -> Self {
        let signed = |duration| SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
        let (hold, cool_down) = (signed(hold), signed(cool_down));
        Self { playbook: playbook.into(), pools, hold, cool_down, since: BTreeMap::new() }
    }

    /// How long pods must have found no room.
    pub fn hold(&self) -> Duration {
        self.hold.try_into().unwrap_or(Duration::MAX)
    }

    /// Looks once at every cluster that stands. When it last fired for which is kept in the store, together with the run.
    pub async fn look(&mut self, at: &Workplace, deps: &Deps, now: Timestamp) {
        let store = at.store.reader();
        let pressed = match clusters_under_pressure(deps, &store).await {
            Ok(pressed) => pressed.into_iter().map(|(cluster, _)| cluster).collect::<BTreeSet<_>>(),
            Err(error) => return tracing::warn!(%error, "the clusters' pressure is not known"),
        };
        self.since.retain(|cluster, _| pressed.contains(cluster));
        for cluster in pressed {
            let begin = *self.since.entry(cluster.clone()).or_insert(now);
            let key = inventory::trigger_key(&cluster, &self.playbook);
            let fired = match store.get::<Fired>(&key) {
                Ok(row) => row.map(|row| row.value.at),
                Err(error) => return tracing::warn!(error = chain(&error), "when a trigger fired cannot be read"),
            };
            if !self.is_due(begin, fired, now) {
                continue;
            }
            let pools = match self.pools.of(&cluster).await {
                Ok(pools) => pools,
                Err(reason) => {
                    tracing::warn!(%cluster, reason, "pods wait for room, but what their pools hold is not known");
                    continue;
                }
            };
            let row = InventoryChange::put(key, inventory::json(&Fired { at: now }));
            let with = Commit { inventory: vec![row], ..Commit::default() };
            let cause = Cause {
                playbook: &self.playbook,
                name: format!("{UNSCHEDULABLE_PODS}/{cluster}/{begin}"),
                cluster: Some(&cluster),
                input: json!({ "cluster_name": cluster, "pools": pools }),
                with,
            };
            if fire(at, cause).await {
                self.since.remove(&cluster);
            }
        }
    }

    fn is_due(&self, begin: Timestamp, fired: Option<Timestamp>, now: Timestamp) -> bool {
        let rested = fired.is_none_or(|fired| now.duration_since(fired) >= self.cool_down);
        rested && now.duration_since(begin) >= self.hold
    }
}

/// How many pods wait for room. Only what more nodes could change counts: the scheduler said `Unschedulable`.
pub async fn unschedulable(client: &Client) -> Result<usize, StepError> {
    let pending = ListParams::default().fields("status.phase=Pending");
    let pods = Api::<Pod>::all(client.clone()).list(&pending).await;
    let pods = pods.map_err(|error| asked("listing pending pods", &error))?;
    Ok(pods.items.iter().filter(|pod| is_unschedulable(pod)).count())
}

fn is_unschedulable(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut refused = conditions.filter(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    refused.next().is_some() && pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none())
}

/// The clusters that may grow by themselves, stand and have such pods, with how many. One whose API does not answer is
/// left out.
async fn clusters_under_pressure(deps: &Deps, store: &Reader) -> Result<Vec<(ClusterName, usize)>, StepError> {
    let mut found = Vec::new();
    for cluster in inventory::clusters(store).map_err(read)?.into_iter().map(|known| known.value) {
        if cluster.state != ClusterState::Active || cluster.spec.worker_autoscaling != Some(true) {
            continue;
        }
        let Ok(client) = kubernetes::connect(deps, store, &cluster).await else { continue };
        if let Ok(waiting @ 1..) = unschedulable(&client).await {
            found.push((cluster.name, waiting));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Pools for Nobody {
        async fn of(&self, _: &ClusterName) -> Result<Vec<PoolView>, String> {
            Err("nobody is asked".to_owned())
        }
    }

    #[test]
    fn it_is_due_after_the_hold_and_after_the_rest() {
        let pressure = Pressure::new("p", Duration::from_secs(60), Duration::from_secs(600), Nobody);
        let at = |second: i64| Timestamp::from_second(1_000_000 + second).unwrap();
        assert!(!pressure.is_due(at(0), None, at(59)));
        assert!(pressure.is_due(at(0), None, at(60)));
        assert!(!pressure.is_due(at(100), Some(at(0)), at(599)), "it fired ten minutes ago, almost");
        assert!(pressure.is_due(at(100), Some(at(0)), at(600)));
        assert!(!pressure.is_due(at(0), None, at(-3600)), "a clock that was set back is no hour of pressure");
        assert!(!pressure.is_due(at(-100), Some(at(0)), at(-1)), "nor a rest");
    }
}
