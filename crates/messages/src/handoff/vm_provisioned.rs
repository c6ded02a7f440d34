//! `vm_provisioned`: machines stand and answer in Talos maintenance mode; make them part of a cluster.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Unknown;
use crate::{
    name::{ClusterName, NodeName, PoolName, VmId},
    request::{Role, TalosSpec},
};

/// infrastructure → talos. Everything beyond the first form of this handoff is optional, so that the first form stays
/// valid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VmProvisioned {
    /// Always `vm_provisioned`.
    #[schemars(extend("const" = "vm_provisioned"))]
    pub handoff_type: String,
    /// The cluster that the machines are for.
    pub cluster_name: ClusterName,
    /// The machines.
    #[schemars(length(min = 1))]
    pub nodes: Vec<Node>,
    /// Their network.
    pub network: NetworkFacts,
    /// Whether every machine's Talos API has answered.
    pub ready: bool,
    /// The cluster's incarnation; a handoff that names another one than the known is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<Uuid>,
    /// What the machines are for. Without it: `create` if no such cluster is known, else the handoff is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Purpose>,
    /// The talos-owned part of the request, verbatim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<TalosSpec>,
    /// Where the Kubernetes API will be reached, for example `https://192.168.1.10:6443`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^https://[^/]+$"))]
    pub api_endpoint: Option<String>,
    /// Image Factory schematic of the machines' image: 64 lower-case hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
    pub schematic: Option<String>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What provisioned machines are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// A new cluster. Only this may bootstrap etcd, and only while no control plane has a member.
    Create,
    /// More nodes for a cluster that stands.
    Scale,
    /// A node in the place of a lost one.
    Replace,
}

/// One machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// What it is to become.
    pub role: Role,
    /// Its address, which is its own for good.
    pub ip: IpAddr,
    /// VM name = hostname = Kubernetes Node name.
    pub hostname: NodeName,
    /// Its Proxmox VM id.
    pub vm_id: VmId,
    /// The node's own id, part of the ownership proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_uid: Option<Uuid>,
    /// Its pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// MAC of its first interface, upper-case with colons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$"))]
    pub mac: Option<String>,
    /// SMBIOS system UUID, which Talos reports; compared before a configuration is handed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smbios_uuid: Option<Uuid>,
    /// The hypervisor that holds it; becomes `topology.kubernetes.io/zone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The machines' network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkFacts {
    /// Default gateway.
    pub gateway: IpAddr,
    /// Resolvers.
    pub dns_servers: Vec<IpAddr>,
    /// Length of the network's prefix in bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 128))]
    pub prefix: Option<u8>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}
