//! What this contractor believes about its world: clusters, nodes and the configurations they were given.

use std::{collections::BTreeMap, net::IpAddr};

use contractor::agent::Left;
use jiff::Timestamp;
use messages::{
    handoff::NetworkFacts,
    name::{ClusterName, NodeName, PoolName, VmId},
    request::{Role, TalosSpec},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{InventoryChange, ReadError, Reader, Versioned};
use uuid::Uuid;

/// `cluster/<name>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    pub name: ClusterName,
    /// Its incarnation: a re-created cluster of the same name has another.
    pub uid: Uuid,
    pub state: ClusterState,
    /// Release of its nodes, `1.13.9`.
    pub talos_version: String,
    /// Kubernetes release, `1.36.3`.
    pub kubernetes_version: String,
    /// `https://address:port` of the Kubernetes API.
    pub endpoint: String,
    /// Image Factory schematic of the nodes' image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schematic: Option<String>,
    pub network: NetworkFacts,
    /// What was asked for, with the defaults filled in.
    pub spec: TalosSpec,
    pub created: Timestamp,
    /// The last health check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// How far a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterState {
    /// Being made; there may be no API yet.
    Bootstrapping,
    /// It stands.
    Active,
    /// Its making failed and it was kept.
    Failed,
    /// Being given up.
    Removing,
}

/// What a health check found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    pub checked: Timestamp,
    pub healthy: bool,
    /// Name of each check, and what is wrong where it did not pass.
    pub checks: BTreeMap<String, Option<String>>,
    /// 95th percentile of the API server's answer times, in milliseconds.
    pub api_p95_ms: f64,
}

/// `node/<cluster>/<hostname>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub cluster: ClusterName,
    pub hostname: NodeName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    pub role: Role,
    pub ip: IpAddr,
    pub vm_id: VmId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smbios_uuid: Option<Uuid>,
    /// The hypervisor that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    pub state: NodeState,
}

impl Node {
    /// Whether etcd and the Kubernetes API run on it.
    pub fn is_control_plane(&self) -> bool {
        self.role == Role::ControlPlane
    }
}

/// How far a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It is to join.
    Joining,
    /// It is Ready in Kubernetes.
    Ready,
    /// It is being given up.
    Leaving,
}

/// `trigger/<cluster>/<playbook>`: when a condition last started the playbook for the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    pub at: Timestamp,
}

/// `config/<cluster>/<hostname>`: what configurations a node was given; the texts are secrets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigHistory {
    /// Oldest first, the last twenty.
    pub versions: Vec<ConfigVersion>,
}

/// One configuration that was applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigVersion {
    /// From 1.
    pub number: u64,
    /// SHA-256 of its canonical text.
    pub digest: String,
    pub applied: Timestamp,
    /// The flow that applied it.
    pub flow: Uuid,
}

impl ConfigHistory {
    const KEEP: usize = 20;

    /// The history with one more version, unless the last one is the same.
    #[must_use]
    pub fn with(mut self, digest: &str, applied: Timestamp, flow: Uuid) -> Self {
        if self.versions.last().is_some_and(|last| last.digest == digest) {
            return self;
        }
        let number = self.versions.last().map_or(1, |last| last.number + 1);
        self.versions.push(ConfigVersion { number, digest: digest.to_owned(), applied, flow });
        let surplus = self.versions.len().saturating_sub(Self::KEEP);
        self.versions.drain(..surplus);
        self
    }
}

/// Key of a cluster.
pub fn cluster_key(name: &ClusterName) -> String {
    format!("cluster/{name}")
}

/// Key of a node.
pub fn node_key(cluster: &ClusterName, hostname: &NodeName) -> String {
    format!("node/{cluster}/{hostname}")
}

/// Key of a node's configuration history.
pub fn config_key(cluster: &ClusterName, hostname: &NodeName) -> String {
    format!("config/{cluster}/{hostname}")
}

/// Key of when a condition last started a playbook for a cluster; `playbook` may be empty for all of the cluster.
pub fn trigger_key(cluster: &ClusterName, playbook: &str) -> String {
    format!("trigger/{cluster}/{playbook}")
}

/// Name of the secret that holds `secrets.yaml`.
pub fn bundle_name(cluster: &ClusterName) -> String {
    format!("cluster/{cluster}/secrets")
}

/// Name of the secret that holds an administrator's kubeconfig.
pub fn kubeconfig_name(cluster: &ClusterName) -> String {
    format!("cluster/{cluster}/kubeconfig")
}

/// Name of the secret that holds an administrator's talosconfig.
pub fn talosconfig_name(cluster: &ClusterName) -> String {
    format!("cluster/{cluster}/talosconfig")
}

/// Name of the secret that holds the configuration a node was last given.
pub fn machine_config_name(cluster: &ClusterName, hostname: &NodeName) -> String {
    format!("cluster/{cluster}/config/{hostname}")
}

/// A cluster.
pub fn cluster(store: &Reader, name: &ClusterName) -> Result<Option<Versioned<Cluster>>, ReadError> {
    store.get(&cluster_key(name))
}

/// The nodes of a cluster, sorted by name.
pub fn nodes(store: &Reader, cluster: &ClusterName) -> Result<Vec<Versioned<Node>>, ReadError> {
    let entries = store.scan(&format!("node/{cluster}/"))?;
    Ok(entries.into_iter().map(|entry| Versioned { revision: entry.revision, value: entry.value }).collect())
}

/// Every cluster, sorted by name.
pub fn clusters(store: &Reader) -> Result<Vec<Versioned<Cluster>>, ReadError> {
    let entries = store.scan("cluster/")?;
    Ok(entries.into_iter().map(|entry| Versioned { revision: entry.revision, value: entry.value }).collect())
}

/// What the inventory says of a cluster whose making failed and was kept: not that it is still being made.
pub fn left(what: Left<'_>, store: &Reader) -> Result<Vec<InventoryChange>, ReadError> {
    let Left::ByRun(run) = what else { return Ok(Vec::new()) };
    let made_by_it = run.input.get("handoff_type") == Some(&"vm_provisioned".into())
        && run.input.get("purpose").is_none_or(|purpose| purpose == "create");
    let name = run.subject.as_deref().and_then(|name| name.parse::<ClusterName>().ok());
    let Some(name) = name.filter(|_| made_by_it) else { return Ok(Vec::new()) };
    let known = cluster(store, &name)?.map(|found| found.value);
    let unfinished = known.filter(|it| it.state == ClusterState::Bootstrapping);
    let failed = unfinished.map(|it| Cluster { state: ClusterState::Failed, ..it });
    Ok(failed.map(|it| InventoryChange::put(cluster_key(&name), json(&it))).into_iter().collect())
}

/// Writes a cluster over the revision that was read.
pub fn put_cluster(cluster: &Versioned<Cluster>) -> InventoryChange {
    InventoryChange::update(cluster_key(&cluster.value.name), cluster.revision, json(&cluster.value))
}

/// Writes a node over the revision that was read.
pub fn put_node(node: &Versioned<Node>) -> InventoryChange {
    InventoryChange::update(node_key(&node.value.cluster, &node.value.hostname), node.revision, json(&node.value))
}

/// A record as JSON.
pub fn json<T: Serialize>(record: &T) -> Value {
    serde_json::to_value(record).expect("records have string keys only")
}
