//! `/cluster`: what exists where, quorum, free ids.

use std::sync::Arc;

use serde::Deserialize;

use crate::{
    Client, Error, Result, VmId,
    error::Kind,
    form::{self, Params},
    lenient,
};

/// A row of `/cluster/resources`. Guest rows lag up to 10 s, and keep their last state for minutes after their node
/// died: look at the node's row first (proxmox.md 7.2).
#[derive(Clone, Debug, Deserialize)]
pub struct Resource {
    /// `qemu/100`, `node/pve1`, `storage/pve1/local`.
    pub id: String,
    /// `qemu`, `lxc`, `node`, `storage`, `pool`, `sdn`, `network`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it is.
    #[serde(default)]
    pub node: Option<String>,
    /// For guests.
    #[serde(default, deserialize_with = "lenient::opt_u32")]
    pub vmid: Option<u32>,
    /// A guest's name; absent for ten seconds after it was created.
    #[serde(default)]
    pub name: Option<String>,
    /// `running`, `stopped`, `unknown`, `online`, `offline`, `available`, …
    #[serde(default)]
    pub status: Option<String>,
    /// For guests, joined by `;`.
    #[serde(default)]
    pub tags: Option<String>,
    /// For guests.
    #[serde(default)]
    pub pool: Option<String>,
    /// For guests.
    #[serde(default)]
    pub lock: Option<String>,
    /// For guests.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub template: bool,
    /// Bytes: configured for guests, installed for nodes.
    #[serde(default, deserialize_with = "lenient::opt_u64")]
    pub maxmem: Option<u64>,
    /// Bytes in use.
    #[serde(default, deserialize_with = "lenient::opt_u64")]
    pub mem: Option<u64>,
    /// Cores: configured for guests, installed for nodes.
    #[serde(default, deserialize_with = "lenient::opt_f64")]
    pub maxcpu: Option<f64>,
    /// Fraction of [`maxcpu`](Self::maxcpu) in use.
    #[serde(default, deserialize_with = "lenient::opt_f64")]
    pub cpu: Option<f64>,
    /// Bytes: size of a storage.
    #[serde(default, deserialize_with = "lenient::opt_u64")]
    pub maxdisk: Option<u64>,
    /// Bytes in use of a storage.
    #[serde(default, deserialize_with = "lenient::opt_u64")]
    pub disk: Option<u64>,
    /// For storages.
    #[serde(default)]
    pub storage: Option<String>,
    /// For storages: one content seen by all nodes.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub shared: bool,
    /// For storages: `images,import,…`.
    #[serde(default)]
    pub content: Option<String>,
    /// The HA manager's word, for example `maintenance` of a node.
    #[serde(default)]
    pub hastate: Option<String>,
}

impl Resource {
    /// Whether the guest carries `tag`.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.as_deref().unwrap_or_default().split([';', ',', ' ']).any(|own| own.eq_ignore_ascii_case(tag))
    }
}

/// A row of `/cluster/status`.
#[derive(Clone, Debug, Deserialize)]
pub struct Member {
    /// `cluster` or `node`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Cluster's or node's name.
    pub name: String,
    /// For nodes.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub online: bool,
    /// For nodes.
    #[serde(default)]
    pub ip: Option<String>,
    /// For the cluster.
    #[serde(default, deserialize_with = "lenient::opt_u64")]
    quorate: Option<u64>,
}

/// Who is a member, and whether they can decide anything.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// Nodes.
    pub nodes: Vec<Member>,
    /// False in a minority: reads work, writes do not. A single node without a cluster is always quorate.
    pub quorate: bool,
}

impl Client {
    /// All rows of `/cluster/resources`. Callers at the same time share an answer.
    pub async fn resources(&self) -> Result<Arc<[Resource]>> {
        self.listings().all.read(|| self.list(None)).await
    }

    /// The guests in `/cluster/resources`. Callers at the same time share an answer.
    pub async fn guests(&self) -> Result<Arc<[Resource]>> {
        self.listings().guests.read(|| self.list(Some("vm"))).await
    }

    async fn list(&self, kind: Option<&str>) -> Result<Arc<[Resource]>> {
        let rows: Vec<_> = self.get("/cluster/resources", &Params::default().with_some("type", kind)).await?;
        Ok(rows.into())
    }

    /// Where a VM is now; a migration or HA recovery may have moved it.
    pub async fn locate_vm(&self, vmid: VmId) -> Result<Option<Resource>> {
        let rows = self.guests().await?;
        Ok(rows.iter().find(|row| row.vmid == Some(vmid.0)).cloned())
    }

    /// Members and quorum.
    pub async fn cluster_status(&self) -> Result<ClusterStatus> {
        let rows: Vec<Member> = self.get("/cluster/status", &Params::default()).await?;
        let (cluster, nodes): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.kind == "cluster");
        Ok(ClusterStatus { nodes, quorate: cluster.iter().all(|row| row.quorate != Some(0)) })
    }

    /// Whether no guest has this id now. It reserves nothing: only `create_vm` does (proxmox.md 5).
    pub async fn is_free(&self, vmid: VmId) -> Result<bool> {
        let answer: Result<serde_json::Value> =
            self.get("/cluster/nextid", &Params::default().with("vmid", vmid)).await;
        match answer {
            Ok(_) => Ok(true),
            Err(Error { kind: Kind::AlreadyExists, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Stops a task: TERM, then KILL after five seconds.
    pub async fn stop_task(&self, upid: &crate::Upid) -> Result<()> {
        let path = form::path(&["nodes", &upid.node, "tasks", &upid.to_string()]);
        self.delete::<serde_json::Value>(&path, &Params::default()).await.map(drop)
    }
}
