//! What infrastructure-contractor believes about its world; one record type per kind of inventory key.

use std::{collections::BTreeMap, net::IpAddr};

use contractor::agent::Left;
use jiff::Timestamp;
use messages::{
    handoff::ClusterStatus,
    name::{ClusterName, NodeName, PoolName},
    request::{EndpointKind, FailurePolicy, Pool, Role, Shape, TalosSpec},
};
use proxmox::config::Mac;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use store::{InventoryChange, ReadError, Reader};
use uuid::Uuid;

use crate::reservation;

/// Key of a cluster.
pub fn cluster_key(name: &ClusterName) -> String {
    format!("cluster/{name}")
}

/// Key of a machine.
pub fn vm_key(node_uid: Uuid) -> String {
    format!("vm/{node_uid}")
}

/// Key of a leased address.
pub fn address_key(address: IpAddr) -> String {
    format!("address/{address}")
}

/// Key of a taken VMID.
pub fn vmid_key(vmid: u32) -> String {
    format!("vmid/{vmid}")
}

/// Key of a VMID that must not be used.
pub fn quarantined_vmid_key(vmid: u32) -> String {
    format!("quarantine/vmid/{vmid}")
}

/// Key of an address that must not be used.
pub fn quarantined_address_key(address: IpAddr) -> String {
    format!("quarantine/address/{address}")
}

/// Key of an image's checksum, hashed once or given.
pub fn checksum_key(image: &Image) -> String {
    format!("image/{}/{}", image.schematic, image.talos_version)
}

/// What the inventory says of a cluster whose making failed and was kept: not that it is still being made.
pub fn left(what: Left<'_>, store: &Reader) -> Result<Vec<InventoryChange>, ReadError> {
    let Left::ByFlow(flow) = what else { return Ok(Vec::new()) };
    let Some(name) = flow.cluster.as_deref().and_then(|name| name.parse::<ClusterName>().ok()) else {
        return Ok(Vec::new());
    };
    let key = cluster_key(&name);
    let known = store.get::<Cluster>(&key)?.map(|found| found.value);
    let unfinished = known.filter(|it| it.flow == flow.flow && it.state == ClusterState::Provisioning);
    let failed = unfinished.map(|it| Cluster { state: ClusterState::Failed, ..it });
    Ok(failed.map(|it| InventoryChange::put(key, reservation::json(&it))).into_iter().collect())
}

/// `cluster/<name>`: a cluster that has machines or is getting or losing them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// This incarnation; another cluster of the same name has another.
    pub uid: Uuid,
    /// Its name.
    pub name: ClusterName,
    /// Where it is in its life.
    pub state: ClusterState,
    /// The flow that made it.
    pub flow: Uuid,
    /// When it was reserved.
    pub created: Timestamp,
    /// Its pools; a pool's `count` is how many nodes are wanted.
    pub pools: BTreeMap<PoolName, PoolRecord>,
    /// Where its nodes' addresses come from.
    pub network: ClusterNetwork,
    /// Where its Kubernetes API is reached.
    pub endpoint: Endpoint,
    /// The talos-owned part of the request, verbatim, with the Talos version filled in.
    pub spec: TalosSpec,
    /// What its machines boot.
    pub image: Image,
    /// What becomes of a flow that fails.
    pub failure_policy: FailurePolicy,
    /// What talos-contractor said when it was ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Ready>,
}

/// Where a cluster is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClusterState {
    /// Its machines are being made, or talos-contractor has them and is not ready.
    Provisioning,
    /// It is healthy, monitored and protected.
    Active,
    /// Its making failed, and what there is of it was kept.
    Failed,
    /// It is being taken away.
    Leaving,
}

/// A pool of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// What its nodes look like and how many are wanted.
    pub spec: Pool,
    /// Grows with every change of the count.
    pub generation: u64,
}

/// The node network of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterNetwork {
    /// Name of the configured network.
    pub name: String,
    /// Length of its prefix in bits.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: IpAddr,
    /// Resolvers of the nodes.
    pub dns_servers: Vec<IpAddr>,
    /// Bridge or VNet of the first NIC.
    pub bridge: String,
    /// VLAN tag of the first NIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// MTU of the first NIC in bytes; 1 means the bridge's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Whether the Proxmox firewall filters the first NIC.
    #[serde(default)]
    pub firewall: bool,
}

/// Where a cluster's Kubernetes API is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// What holds the address.
    pub kind: EndpointKind,
    /// Address or name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The address that was leased for it, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leased: Option<IpAddr>,
}

impl Endpoint {
    /// `https://192.168.1.10:6443`.
    pub fn url(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("https://[{address}]:{}", self.port),
            _ => format!("https://{}:{}", self.host, self.port),
        }
    }
}

/// A Talos image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Talos release without `v`.
    pub talos_version: String,
    /// Image Factory schematic id, 64 lower-case hex digits.
    pub schematic: String,
    /// System extensions of the schematic, in its order.
    #[serde(default)]
    pub extensions: Vec<String>,
}

impl Image {
    /// Its file in an `import` storage. The name says all that decides its content.
    pub fn file_name(&self) -> String {
        format!("talos-{}-{}-nocloud-amd64.qcow2", self.talos_version, &self.schematic[..16.min(self.schematic.len())])
    }
}

/// What talos-contractor said of a cluster that is ready.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// When we heard it.
    pub at: Timestamp,
    /// How the cluster is.
    pub status: ClusterStatus,
    /// Where its Kubernetes API is reached.
    pub api_endpoint: String,
    /// What Prometheus scrapes.
    pub metrics_endpoints: Vec<String>,
    /// Kubernetes release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_version: Option<String>,
    /// 95th percentile of the API server's answer times, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_p95_ms: Option<f64>,
}

/// `vm/<node uid>`: a machine, from its reservation to its release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// What it is.
    pub machine: Machine,
    /// Where it is in its life.
    pub state: VmState,
    /// When it was reserved.
    pub created: Timestamp,
}

/// Where a machine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VmState {
    /// Its ids are held; there may be no VM yet.
    Reserved,
    /// The VM exists.
    Created,
    /// It was started.
    Started,
    /// Its Talos API answered.
    Answering,
    /// It is a node of its cluster.
    Joined,
}

/// Everything that was decided about a machine before it was made. Steps pass it on; the inventory keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The node's own id, part of the ownership proof.
    pub node_uid: Uuid,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its cluster's incarnation, part of the ownership proof.
    pub cluster_uid: Uuid,
    /// VM name = hostname = Kubernetes Node name.
    pub hostname: NodeName,
    /// Its pool.
    pub pool: PoolName,
    /// What it is to become.
    pub role: Role,
    /// Proxmox VM id.
    pub vmid: u32,
    /// The hypervisor that holds it.
    pub host: String,
    /// SMBIOS system UUID, part of the ownership proof.
    pub smbios_uuid: Uuid,
    /// Its address, on the first NIC.
    pub ip: IpAddr,
    /// Its network.
    pub network: ClusterNetwork,
    /// NICs, the first with the address.
    pub nics: Vec<MachineNic>,
    /// CPUs, memory, system disk.
    pub shape: Shape,
    /// Storage of the system disk.
    pub storage: String,
    /// Whether hosts share that storage.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared_storage: bool,
    /// Further disks.
    #[serde(default)]
    pub extra_disks: Vec<MachineDisk>,
    /// What it boots.
    pub image: Image,
    /// The flow that reserved it.
    pub flow: Uuid,
}

/// A NIC of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineNic {
    /// Its address, upper-case with colons.
    #[schemars(with = "String")]
    pub mac: Mac,
    /// Bridge or VNet.
    pub bridge: String,
    /// VLAN tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// MTU in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Whether the Proxmox firewall filters it.
    #[serde(default)]
    pub firewall: bool,
}

/// A disk besides the system disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineDisk {
    /// Size.
    pub gib: u32,
    /// Its storage.
    pub storage: String,
}

/// A machine as steps name it: enough to find its record and the limits that it falls under. A journal's value is at
/// most 60 KiB, so steps do not pass whole machines on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineRef {
    /// The node's own id.
    pub node_uid: Uuid,
    /// Its name.
    pub hostname: NodeName,
    /// Its hypervisor when the reference was made.
    pub host: String,
    /// Storage of its system disk.
    pub storage: String,
    /// Whether hosts share that storage.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared_storage: bool,
}

impl MachineRef {
    /// What limits how many disks are written at once: a shared storage is one, whoever writes to it.
    pub fn storage_limit(&self) -> String {
        let Self { host, storage, .. } = self;
        if self.shared_storage { format!("storage/{storage}") } else { format!("storage/{host}/{storage}") }
    }
}

impl Machine {
    /// The machine as steps name it.
    pub fn reference(&self) -> MachineRef {
        MachineRef {
            node_uid: self.node_uid,
            hostname: self.hostname.clone(),
            host: self.host.clone(),
            storage: self.storage.clone(),
            shared_storage: self.shared_storage,
        }
    }

    /// The MAC of the first NIC, part of the ownership proof.
    pub fn mac(&self) -> Option<Mac> {
        self.nics.first().map(|nic| nic.mac)
    }

    /// `vm 101 prod-k8s-cp-1 on pve1`.
    pub fn title(&self) -> String {
        format!("vm {} {} on {}", self.vmid, self.hostname, self.host)
    }
}

/// `address/<ip>`: a leased address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its cluster.
    pub cluster: ClusterName,
    /// The machine that has it; `None` for an API endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_uid: Option<Uuid>,
    /// The flow that leased it.
    pub flow: Uuid,
}

/// `vmid/<id>`: a VMID that is ours whether or not the VM exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenVmid {
    /// The machine that has it.
    pub node_uid: Uuid,
    /// The flow that took it.
    pub flow: Uuid,
}

/// `quarantine/…`: an id or address that is kept from use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Why, for the operator.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// `image/<schematic>/<version>`: the checksum of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// Where it was fetched to be hashed; `None` if the configuration gave the checksum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashed_from: Option<String>,
}
