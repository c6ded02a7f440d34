//! What is taken but in no inventory yet: shown by a plan, or chosen by a reservation that has not committed.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use messages::name::ClusterName;
use tokio::sync::{Mutex as Turns, OwnedMutexGuard};

use crate::placement::Held;

/// How long a plan's proposals are kept from other plans.
const PROPOSED_FOR: Duration = Duration::from_secs(10 * 60);

/// Ids and addresses that plans have shown: kept from other clusters' plans and reservations for ten minutes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proposals(Arc<Mutex<BTreeMap<ClusterName, Proposal>>>);

#[derive(Clone, Debug)]
struct Proposal {
    until: Instant,
    vmids: Vec<u32>,
    addresses: Vec<IpAddr>,
}

impl Proposals {
    /// Holds what a plan for `cluster` shows, in place of what an earlier one showed.
    pub(crate) fn hold(&self, cluster: &ClusterName, vmids: Vec<u32>, addresses: Vec<IpAddr>) {
        let proposal = Proposal { until: Instant::now() + PROPOSED_FOR, vmids, addresses };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(cluster.clone(), proposal);
    }

    /// What others than `cluster` hold.
    pub(crate) fn of_others(&self, cluster: &ClusterName) -> (Vec<u32>, Vec<IpAddr>) {
        self.of_others_at(cluster, Instant::now())
    }

    fn of_others_at(&self, cluster: &ClusterName, now: Instant) -> (Vec<u32>, Vec<IpAddr>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, proposal| proposal.until > now);
        let others = || held.iter().filter(|(name, _)| *name != cluster).map(|(_, proposal)| proposal);
        (others().flat_map(|p| p.vmids.clone()).collect(), others().flat_map(|p| p.addresses.clone()).collect())
    }
}

/// What reservations have chosen. One chooses at a time and claims its choice, so that many at once choose different
/// things, and no host is promised twice; what was chosen is confirmed, and committed, without holding up others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    turns: Arc<Turns<()>>,
    made: Arc<Mutex<Made>>,
}

#[derive(Debug, Default)]
struct Made {
    next: u64,
    choices: BTreeMap<u64, Choice>,
}

/// What a reservation has chosen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    /// What its machines need, and where.
    pub(crate) machines: Vec<Held>,
    /// With those that turn out to be taken.
    pub(crate) vmids: Vec<u32>,
    /// With those that turn out to be taken.
    pub(crate) addresses: Vec<IpAddr>,
}

/// A choice that nobody else makes as long as this is there.
#[derive(Debug)]
pub(crate) struct Claim {
    number: u64,
    made: Arc<Mutex<Made>>,
}

impl Claim {
    /// Claims what took the place of something that turned out to be taken, too.
    pub(crate) fn add(&self, vmids: &[u32], addresses: &[IpAddr]) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(choice) = made.choices.get_mut(&self.number) {
            choice.vmids.extend(vmids);
            choice.addresses.extend(addresses);
        }
    }
}

impl Claims {
    /// Waits until nobody else chooses.
    pub(crate) async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turns).lock_owned().await
    }

    /// Claims a choice that was made in one's turn.
    pub(crate) fn claim(&self, choice: Choice) -> Claim {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let number = made.next;
        made.next += 1;
        made.choices.insert(number, choice);
        Claim { number, made: Arc::clone(&self.made) }
    }

    /// Everything that is claimed now. The inventory is to be read after this: what is committed in between is in both.
    pub(crate) fn choices(&self) -> Vec<Choice> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).choices.values().cloned().collect()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).choices.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_plan_shows_is_held_from_other_clusters_for_ten_minutes() {
        let (one, other): (ClusterName, ClusterName) = ("one".parse().unwrap(), "other".parse().unwrap());
        let (now, address) = (Instant::now(), "10.0.0.9".parse().unwrap());
        let proposals = Proposals::default();
        proposals.hold(&one, vec![100], vec![address]);
        assert_eq!(proposals.of_others_at(&one, now), (vec![], vec![]), "its own plan may be carried out");
        assert_eq!(proposals.of_others_at(&other, now), (vec![100], vec![address]));
        proposals.hold(&one, vec![101], vec![]);
        assert_eq!(proposals.of_others_at(&other, now).0, [101], "a later plan takes the place of the earlier");
        assert_eq!(proposals.of_others_at(&other, now + PROPOSED_FOR * 2), (vec![], vec![]));
    }

    #[tokio::test]
    async fn a_choice_is_claimed_until_its_claim_is_gone_and_one_chooses_at_a_time() {
        let claims = Claims::default();
        let turn = claims.turn().await;
        let claim = claims.claim(Choice { vmids: vec![100], ..Choice::default() });
        let next = claims.turn();
        tokio::pin!(next);
        assert!(futures::poll!(&mut next).is_pending());
        drop(turn);
        let _turn = next.await;
        let other = claims.claim(Choice { vmids: vec![101], ..Choice::default() });
        let vmids = || claims.choices().into_iter().flat_map(|choice| choice.vmids).collect::<Vec<_>>();
        assert_eq!(vmids(), [100, 101]);
        claim.add(&[102], &[]);
        assert_eq!(vmids(), [100, 102, 101]);
        drop(claim);
        assert_eq!(vmids(), [101]);
        drop(other);
        assert_eq!(vmids(), [0_u32; 0]);
    }
}
