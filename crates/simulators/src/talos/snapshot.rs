//! The nodes of a lab and what their clusters hold, in a form that two moments can be compared in.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::etcd::Cluster;
use super::node::{Boot, stage_name};
use super::{Nodes, Powered};

/// All that is on.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Machines by VMID.
    pub nodes: BTreeMap<u32, NodeSnapshot>,
    /// Clusters of which a machine's etcd is a member, by name.
    pub clusters: BTreeMap<String, ClusterSnapshot>,
}

/// One machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeSnapshot {
    /// As people write a stage, `maintenance`; `off` between two boots.
    pub stage: String,
    pub hostname: String,
    /// The cluster of its active configuration.
    pub cluster: Option<String>,
    /// Whether a configuration is on its disk.
    pub is_configured: bool,
    /// Whether `/var/lib/etcd` holds something.
    pub has_etcd: bool,
}

/// One cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterSnapshot {
    /// Members of etcd by name, with whether each has a vote.
    pub members: BTreeMap<String, bool>,
    /// Kubernetes objects by plural resource (`nodes`, `deployments.apps`), as the API shows them.
    pub objects: BTreeMap<String, Vec<Arc<Value>>>,
}

impl Nodes {
    /// As they are now.
    pub fn snapshot(&self) -> Snapshot {
        let machines = self.lock();
        let on = machines.iter().filter(|(_, powered)| !powered.power.is_cancelled());
        let boots: BTreeMap<u32, Option<Arc<Boot>>> =
            on.map(|(vmid, powered)| (*vmid, Powered::boot(powered))).collect();
        drop(machines);
        let members = boots.values().flatten().filter_map(|boot| Some((boot, boot.etcd.running()?.cluster)));
        let clusters = members.map(|(boot, cluster)| (cluster_of(boot).unwrap_or_default(), snapshot(&cluster)));
        Snapshot {
            clusters: clusters.collect(),
            nodes: boots.iter().map(|(vmid, boot)| (*vmid, boot.as_deref().map_or_else(off, node))).collect(),
        }
    }
}

fn cluster_of(boot: &Boot) -> Option<String> {
    Some(boot.active_config()?.cluster_name())
}

fn off() -> NodeSnapshot {
    let (stage, hostname) = ("off".to_owned(), String::new());
    NodeSnapshot { stage, hostname, cluster: None, is_configured: false, has_etcd: false }
}

fn node(boot: &Boot) -> NodeSnapshot {
    let (is_configured, has_etcd) = boot.disk.read(|saved| (saved.config.is_some(), saved.etcd.is_some()));
    NodeSnapshot {
        stage: stage_name(boot.stage()).to_owned(),
        hostname: boot.name(),
        cluster: cluster_of(boot),
        is_configured,
        has_etcd,
    }
}

fn snapshot(cluster: &Cluster) -> ClusterSnapshot {
    let members =
        cluster.read(|membership| membership.members().map(|member| (member.name.clone(), !member.learner)).collect());
    ClusterSnapshot { members, objects: cluster.control_plane().objects() }
}
