//! etcd as control planes show it (talos.md 3.6).

use super::{Client, Error};
use crate::proto::machine;

/// A member of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdMember {
    /// Printed elsewhere as 16 hexadecimal digits.
    pub id: u64,
    /// Its name, which is the node's host name; empty until it has started.
    pub hostname: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Whether it has no vote yet.
    pub is_learner: bool,
}

/// What the local member says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdStatus {
    /// Its own id.
    pub member: u64,
    /// The leader's id; zero when there is none.
    pub leader: u64,
    /// Whether it has no vote yet.
    pub is_learner: bool,
    /// Size of the backend file, bytes.
    pub db_size: i64,
    /// What of it is in use, bytes.
    pub db_size_in_use: i64,
    /// The log position.
    pub raft_index: u64,
    /// The applied log position.
    pub raft_applied_index: u64,
    /// What is wrong, in etcd's words.
    pub errors: Vec<String>,
}

impl Client {
    /// The members of etcd, as the local member knows them or, with `local` false, as any reachable control plane does.
    pub async fn etcd_members(&self, local: bool) -> Result<Vec<EtcdMember>, Error> {
        const RPC: &str = "EtcdMemberList";
        let request = self.unary(machine::EtcdMemberListRequest { query_local: local });
        let reply = self.machine().etcd_member_list(request).await.map_err(self.failed(RPC))?.into_inner();
        let members = self.single(RPC, reply.messages)?.members.into_iter();
        Ok(members
            .map(|member| EtcdMember {
                id: member.id,
                hostname: member.hostname,
                peer_urls: member.peer_urls,
                is_learner: member.is_learner,
            })
            .collect())
    }

    /// The local member's status.
    pub async fn etcd_status(&self) -> Result<EtcdStatus, Error> {
        const RPC: &str = "EtcdStatus";
        let reply = self.machine().etcd_status(self.unary(())).await.map_err(self.failed(RPC))?.into_inner();
        let status = self.single(RPC, reply.messages)?.member_status.unwrap_or_default();
        Ok(EtcdStatus {
            member: status.member_id,
            leader: status.leader,
            is_learner: status.is_learner,
            db_size: status.db_size,
            db_size_in_use: status.db_size_in_use,
            raft_index: status.raft_index,
            raft_applied_index: status.raft_applied_index,
            errors: status.errors,
        })
    }

    /// Removes a member, alive or dead; `NotFound` if there is none with this id.
    pub async fn remove_etcd_member(&self, id: u64) -> Result<(), Error> {
        const RPC: &str = "EtcdRemoveMemberByID";
        let request = self.unary(machine::EtcdRemoveMemberByIdRequest { member_id: id });
        let reply = self.machine().etcd_remove_member_by_id(request).await.map_err(self.failed(RPC))?.into_inner();
        self.single(RPC, reply.messages).map(drop)
    }

    /// Makes this node leave etcd and delete its data; takes up to five minutes while etcd is unhealthy.
    pub async fn leave_etcd(&self) -> Result<(), Error> {
        const RPC: &str = "EtcdLeaveCluster";
        let mut request = self.streaming(machine::EtcdLeaveClusterRequest {});
        request.set_timeout(std::time::Duration::from_secs(6 * 60));
        let reply = self.machine().etcd_leave_cluster(request).await.map_err(self.failed(RPC))?.into_inner();
        self.single(RPC, reply.messages).map(drop)
    }

    /// Moves leadership away; the new leader's name, or `None` if this node did not lead.
    pub async fn forfeit_etcd_leadership(&self) -> Result<Option<String>, Error> {
        const RPC: &str = "EtcdForfeitLeadership";
        let request = self.unary(machine::EtcdForfeitLeadershipRequest {});
        let reply = self.machine().etcd_forfeit_leadership(request).await.map_err(self.failed(RPC))?.into_inner();
        let member = self.single(RPC, reply.messages)?.member;
        Ok((!member.is_empty()).then_some(member))
    }
}
