//! The membership of one etcd cluster as a value: members, learners, leader and quorum.

use std::collections::BTreeMap;
use std::net::IpAddr;

use talos::proto::machine::EtcdMember;

/// A member of the cluster, running or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: u64,
    /// Empty until the member has started once.
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) learner: bool,
    pub(crate) running: bool,
}

/// Why etcd refuses; the texts are etcd's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("etcdserver: no leader")]
    NoLeader,
    #[error("etcdserver: too many learner members in cluster")]
    TooManyLearners,
    #[error("etcdserver: member not found")]
    NotFound,
    #[error("etcdserver: Peer URLs already exists")]
    PeerExists,
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    NotInSync,
    #[error("etcdserver: can only promote a learner member")]
    NotLearner,
    #[error("etcdserver: re-configuration failed due to not enough started members")]
    NotEnoughStarted,
}

/// One etcd cluster.
#[derive(Debug)]
pub(crate) struct Membership {
    members: BTreeMap<u64, Member>,
    leader: Option<u64>,
    term: u64,
    index: u64,
    next: u64,
}

impl Membership {
    /// A cluster of one, as a bootstrap makes it; ids derive from `seed`.
    pub(crate) fn bootstrap(seed: u64, name: &str, address: IpAddr) -> (Self, u64) {
        let mut cluster = Self { members: BTreeMap::new(), leader: None, term: 1, index: 4, next: seed | 1 };
        let id = cluster.next_id();
        let member = Member { id, name: name.to_owned(), address, learner: false, running: false };
        cluster.members.insert(id, member);
        (cluster, id)
    }

    /// Adds a member that has not started yet and cannot vote.
    pub(crate) fn add_learner(&mut self, address: IpAddr) -> Result<u64, Refusal> {
        self.leader.ok_or(Refusal::NoLeader)?;
        if self.members.values().any(|member| member.learner) {
            return Err(Refusal::TooManyLearners);
        }
        if self.members.values().any(|member| member.address == address) {
            return Err(Refusal::PeerExists);
        }
        let id = self.next_id();
        self.members.insert(id, Member { id, name: String::new(), address, learner: true, running: false });
        self.index += 1;
        Ok(id)
    }

    /// Gives the learner a vote.
    pub(crate) fn promote(&mut self, id: u64) -> Result<(), Refusal> {
        self.leader.ok_or(Refusal::NoLeader)?;
        let member = self.members.get_mut(&id).ok_or(Refusal::NotFound)?;
        if !member.learner {
            return Err(Refusal::NotLearner);
        }
        if !member.running {
            return Err(Refusal::NotInSync);
        }
        member.learner = false;
        self.index += 1;
        Ok(())
    }

    /// Removes a member for good.
    pub(crate) fn remove(&mut self, id: u64) -> Result<(), Refusal> {
        self.leader.ok_or(Refusal::NoLeader)?;
        let member = self.members.get(&id).ok_or(Refusal::NotFound)?;
        // The strict check of etcd: a removal may not cost the quorum of those that are up.
        if !member.learner && member.running {
            let others =
                |running: bool| self.voters().filter(|voter| voter.id != id && (voter.running || !running)).count();
            if others(false) > 0 && others(true) < others(false) / 2 + 1 {
                return Err(Refusal::NotEnoughStarted);
            }
        }
        self.members.remove(&id);
        self.index += 1;
        self.elect();
        Ok(())
    }

    /// The member's process is up; false when it was removed from the cluster for good.
    pub(crate) fn started(&mut self, id: u64, name: &str) -> bool {
        let Some(member) = self.members.get_mut(&id) else { return false };
        member.running = true;
        name.clone_into(&mut member.name);
        self.elect();
        true
    }

    /// The member's process is gone.
    pub(crate) fn stopped(&mut self, id: u64) {
        if let Some(member) = self.members.get_mut(&id) {
            member.running = false;
        }
        self.elect();
    }

    /// Hands leadership to another voter; `Ok(None)` when `from` does not lead.
    pub(crate) fn forfeit(&mut self, from: u64) -> Result<Option<String>, &'static str> {
        if self.members.len() == 1 {
            return Err("cannot forfeit leadership, only one member");
        }
        if self.leader != Some(from) {
            return Ok(None);
        }
        let next = self.voters().find(|voter| voter.id != from && voter.running).map(|voter| voter.id);
        let Some(next) = next else { return Err("no other member is running") };
        self.leader = Some(next);
        self.term += 1;
        Ok(self.members.get(&next).map(|member| member.name.clone()))
    }

    pub(crate) fn has_quorum(&self) -> bool {
        let (voters, running) = (self.voters().count(), self.voters().filter(|voter| voter.running).count());
        running > voters / 2
    }

    pub(crate) fn leader(&self) -> Option<u64> {
        self.leader
    }

    pub(crate) fn member(&self, id: u64) -> Option<&Member> {
        self.members.get(&id)
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Raft term and index.
    pub(crate) fn raft(&self) -> (u64, u64) {
        (self.term, self.index)
    }

    fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !member.learner)
    }

    fn elect(&mut self) {
        let running = |id: &u64| self.members.get(id).is_some_and(|member| member.running && !member.learner);
        if !self.has_quorum() {
            self.leader = None;
        } else if !self.leader.as_ref().is_some_and(running) {
            let next = self.voters().find(|voter| voter.running).map(|voter| voter.id);
            self.leader = next;
            self.term += 1;
            self.index += 1;
        }
    }

    /// A linear congruential step: ids look random and are the same for the same seed.
    fn next_id(&mut self) -> u64 {
        self.next = self.next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.next
    }
}

impl Member {
    /// As the API shows it.
    pub(crate) fn to_api(&self) -> EtcdMember {
        let host = match self.address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        let started = !self.name.is_empty();
        EtcdMember {
            id: self.id,
            hostname: self.name.clone(),
            peer_urls: vec![format!("https://{host}:2380")],
            client_urls: started.then(|| format!("https://{host}:2379")).into_iter().collect(),
            is_learner: self.learner,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([127, 16, 1, last])
    }

    fn three() -> (Membership, [u64; 3]) {
        let (mut cluster, first) = Membership::bootstrap(7, "cp-1", address(1));
        assert!(cluster.started(first, "cp-1"));
        let mut ids = [first, 0, 0];
        for last in [2, 3] {
            let id = cluster.add_learner(address(last)).unwrap();
            assert_eq!(cluster.add_learner(address(9)), Err(Refusal::TooManyLearners));
            assert_eq!(cluster.promote(id), Err(Refusal::NotInSync));
            assert!(cluster.started(id, &format!("cp-{last}")));
            cluster.promote(id).unwrap();
            ids[usize::from(last) - 1] = id;
        }
        (cluster, ids)
    }

    #[test]
    fn a_member_joins_as_the_only_learner_and_is_promoted_once_it_runs() {
        let (cluster, ids) = three();
        assert_eq!(cluster.members().filter(|member| !member.learner).count(), 3);
        assert_eq!(cluster.leader(), Some(ids[0]));
    }

    #[test]
    fn leadership_moves_and_quorum_is_lost_with_the_second_member() {
        let (mut cluster, ids) = three();
        let term = cluster.raft().0;
        cluster.stopped(ids[0]);
        assert!(cluster.leader().is_some_and(|leader| leader != ids[0]));
        assert_eq!(cluster.raft().0, term + 1);
        cluster.stopped(ids[1]);
        assert_eq!((cluster.leader(), cluster.has_quorum()), (None, false));
        assert_eq!(cluster.remove(ids[0]), Err(Refusal::NoLeader));
        assert!(cluster.started(ids[0], "cp-1"));
        cluster.remove(ids[1]).unwrap();
        assert!(!cluster.started(ids[1], "cp-2"));
    }

    #[test]
    fn forfeiting_needs_somebody_to_take_over() {
        let (mut cluster, ids) = three();
        assert_eq!(cluster.forfeit(ids[1]), Ok(None));
        assert!(cluster.forfeit(ids[0]).unwrap().is_some_and(|name| name != "cp-1"));
        let (mut single, id) = Membership::bootstrap(1, "a", address(1));
        single.started(id, "a");
        assert!(single.forfeit(id).is_err());
    }
}
