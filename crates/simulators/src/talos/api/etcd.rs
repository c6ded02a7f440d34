//! Bootstrap and the etcd calls (talos.md 3.2, 3.6).

use futures::{StreamExt as _, stream};
use talos::proto::common::Data as Chunk;
use talos::proto::machine::{BootstrapRequest, EtcdClusterDowngrade, EtcdMemberStatus, EtcdMembers};
use tonic::{Status, Streaming};

use super::{Api, Frames, plain};
use crate::talos::etcd::{Bootstrap, Data, Refusal, snapshot};
use crate::talos::node::Stage;
use crate::talos::{clock, join, leave};

/// How long a bootstrap waits for the clock to be set.
const TIME_SYNC: std::time::Duration = std::time::Duration::from_secs(5);

impl Api {
    pub(super) async fn bootstrap_etcd(&self, request: &BootstrapRequest) -> Result<(), Status> {
        let boot = &self.boot;
        if !boot.services.is_up("cri") || matches!(boot.stage(), Stage::Rebooting | Stage::Installing) {
            return Err(Status::failed_precondition("bootstrap is not available yet"));
        }
        self.control_plane_only("bootstrap")?;
        let patience = boot.world.scale(TIME_SYNC).max(std::time::Duration::from_millis(20));
        if tokio::time::timeout(patience, clock::until_set(boot)).await.is_err() {
            return Err(Status::failed_precondition("time is not in sync yet"));
        }
        if boot.disk.read(|saved| saved.etcd.is_some()) || boot.etcd.bootstrap_requested() {
            return Err(Status::already_exists("etcd data directory is not empty"));
        }
        let (recover, skip_hash_check) = (request.recover_etcd, request.recover_skip_hash_check);
        boot.logs.kernel(&format!("bootstrap request received, preserve existing data: {recover}"));
        boot.etcd.request_bootstrap(Bootstrap { recover, skip_hash_check });
        Ok(())
    }

    /// The member that runs on this node.
    pub(super) fn local_member(&self, name: &str) -> Result<Data, Status> {
        self.control_plane_only(name)?;
        self.boot
            .etcd
            .running()
            .ok_or_else(|| plain("failed to create etcd client: error building etcd client: context deadline exceeded"))
    }

    pub(super) fn member_list(&self, local: bool) -> Result<EtcdMembers, Status> {
        let data = match self.local_member("etcd member list") {
            Ok(data) => data,
            Err(status) if local || !self.boot.is_control_plane() => return Err(status),
            Err(_) => self.remote_member()?,
        };
        data.cluster.read(|membership| {
            membership.leader().ok_or_else(|| refused(Refusal::NoLeader))?;
            let members: Vec<_> = membership.members().map(|member| member.to_api()).collect();
            let legacy_members = members.iter().map(|member| member.hostname.clone()).collect();
            Ok(EtcdMembers { metadata: None, legacy_members, members })
        })
    }

    /// A member on another control plane, when none runs here.
    fn remote_member(&self) -> Result<Data, Status> {
        let nothing =
            || plain("failed to create etcd client: error getting kubernetes endpoints: no reachable endpoint");
        let config = self.boot.active_config().ok_or_else(nothing)?;
        let cluster = join::discovered_cluster(&self.boot, &config).ok_or_else(nothing)?;
        Ok(Data { cluster, member: 0 })
    }

    pub(super) fn remove_member(&self, id: u64) -> Result<(), Status> {
        let data = match self.local_member("etcd remove member") {
            Ok(data) => data,
            Err(status) if !self.boot.is_control_plane() => return Err(status),
            Err(_) => self.remote_member()?,
        };
        data.cluster.change(|membership| membership.remove(id)).map_err(|refusal| match refusal {
            Refusal::NotFound => Status::not_found("etcdserver: member not found"),
            other => refused(other),
        })
    }

    pub(super) async fn leave_cluster(&self) -> Result<(), Status> {
        self.local_member("etcd leave")?;
        leave::leave_etcd(&self.boot).await.map_err(plain)
    }

    /// The name of the new leader; empty when this member does not lead.
    pub(super) fn forfeit_leadership(&self) -> Result<String, Status> {
        let data = self.local_member("etcd forfeit leadership")?;
        let member = data.cluster.change(|membership| membership.forfeit(data.member)).map_err(plain)?;
        Ok(member.unwrap_or_default())
    }

    pub(super) fn member_status(&self) -> Result<EtcdMemberStatus, Status> {
        let data = self.local_member("etcd status")?;
        let version = self.boot.release.etcd().to_owned();
        let size = i64::try_from(data.cluster.control_plane().snapshot().len()).unwrap_or(0);
        Ok(data.cluster.read(|membership| {
            let (raft_term, raft_index) = membership.raft();
            let leader = membership.leader();
            EtcdMemberStatus {
                storage_version: storage_version(&version),
                protocol_version: version,
                db_size: (size / 4096 + 6) * 4096,
                db_size_in_use: (size / 4096 + 5) * 4096,
                leader: leader.unwrap_or(0),
                raft_index,
                raft_term,
                raft_applied_index: raft_index,
                errors: leader.is_none().then(|| "etcdserver: no leader".to_owned()).into_iter().collect(),
                is_learner: membership.member(data.member).is_some_and(|member| member.learner),
                member_id: data.member,
            }
        }))
    }

    pub(super) fn downgrade(&self, version: &str) -> Result<EtcdClusterDowngrade, Status> {
        self.local_member("etcd downgrade validate")?;
        let mut parts = version.split('.').map(str::parse::<u64>);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), None) if (major, minor) >= (3, 5) => {
                Ok(EtcdClusterDowngrade { cluster_version: version.to_owned() })
            }
            _ => Err(Status::invalid_argument(format!("invalid target version {version:?}"))),
        }
    }

    pub(super) fn snapshot(&self) -> Result<Frames<Chunk>, Status> {
        let data = self.local_member("etcd snapshot")?;
        let revision = data.cluster.read(|membership| membership.raft().1);
        let file = bytes::Bytes::from(snapshot::write(&data.cluster.control_plane().snapshot(), revision));
        let chunks: Vec<_> =
            (0..file.len()).step_by(1024).map(|at| file.slice(at..(at + 1024).min(file.len()))).collect();
        Ok(stream::iter(chunks.into_iter().map(|bytes| Ok(Chunk { metadata: None, bytes }))).boxed())
    }

    pub(super) async fn recover(&self, mut chunks: Streaming<Chunk>) -> Result<(), Status> {
        self.control_plane_only("etcd recover")?;
        if !self.boot.services.is_up("cri") {
            return Err(Status::failed_precondition("etcd service is not ready for recovery yet"));
        }
        let mut file = Vec::new();
        while let Some(chunk) = chunks.next().await {
            file.extend_from_slice(&chunk?.bytes);
        }
        self.boot.disk.write(|saved| saved.snapshot = Some(file));
        Ok(())
    }
}

/// `3.6.12` stores as `3.6.0`.
fn storage_version(version: &str) -> String {
    version.rsplit_once('.').map(|(minor, _)| format!("{minor}.0")).unwrap_or_default()
}

/// As the gRPC client of etcd passes errors on.
fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::NoLeader => Status::unavailable(refusal.to_string()),
        _ => Status::failed_precondition(refusal.to_string()),
    }
}
