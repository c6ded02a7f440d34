//! `provision_cluster`: a new cluster, by pattern or by explicit pools.

use std::{collections::BTreeMap, net::IpAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Approval,
    spec::{Cni, FailurePolicy, Patches, PoolSpec, RegistryMirror, ServiceAccountKey, Storage, Taint, TalosSpec},
};
use crate::name::{ClusterName, Period, PoolName};

/// Asks infrastructure-contractor for a new cluster. The field names are those of the four cluster patterns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProvisionCluster {
    /// Always `provision_cluster`.
    #[schemars(extend("const" = "provision_cluster"))]
    pub request_type: String,
    /// The cluster's name, unique among the clusters that live.
    pub cluster_name: ClusterName,
    /// Where the numbers and switches that the request leaves out come from; default `ha`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<Pattern>,
    /// Number of control planes; odd. Not together with `pools`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 7))]
    pub control_plane_nodes: Option<u32>,
    /// Number of workers. Not together with `pools`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 500))]
    pub worker_nodes: Option<u32>,
    /// Shape of the control planes, and of the workers where `worker_size` is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_size: Option<Size>,
    /// Shape of the workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_size: Option<Size>,
    /// Explicit pools instead of the four numbers above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<Pool>,
    /// Processor architecture; `arm64` is refused where no hypervisor has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// Persistent volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_backend: Option<Storage>,
    /// Container network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_cni: Option<Cni>,
    /// Pods may run on control planes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_workloads_on_control_plane: Option<bool>,
    /// The opposite of `allow_workloads_on_control_plane`; both together must agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_plane_taint: Option<bool>,
    /// The contractor may ask for more workers when pods cannot be scheduled; default: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_autoscaling: Option<bool>,
    /// Optional features by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<Feature>,
    /// Talos release without `v`, for example `1.13.9`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$"))]
    pub talos_version: Option<String>,
    /// Kubernetes release without `v`, for example `1.36.3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$"))]
    pub kubernetes_version: Option<String>,
    /// Networks of nodes, pods and services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Where the Kubernetes API is reached; default: a VIP above one control plane, else the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Talos system extensions by their official name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
    /// Machine configuration patches by scope.
    #[serde(default, skip_serializing_if = "Patches::is_empty")]
    pub patches: Patches,
    /// Time servers of the nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ntp_servers: Vec<String>,
    /// Registry host to the mirrors that are asked first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub registry_mirrors: BTreeMap<String, RegistryMirror>,
    /// Names besides the endpoint's that the API server's certificate is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_sans: Vec<String>,
    /// Kind of the service-account key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_key: Option<ServiceAccountKey>,
    /// What becomes of the flow if it fails; default `rollback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_policy: Option<FailurePolicy>,
    /// How long the flow may take over all waits; default `2h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Period>,
    /// Consent to a plan shown before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
}

/// The four cluster patterns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// 3 control planes (medium) and 3 workers (large), Cilium, Longhorn.
    #[default]
    Ha,
    /// One node (medium) that is both, Flannel, local-path.
    Single,
    /// 1 control plane and 2 workers (small), Flannel, local-path.
    Edge,
    /// 3 dedicated control planes and 10 workers, Cilium; the storage is named by the request.
    Hybrid,
}

/// Processor architecture of the machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Architecture {
    /// 64-bit x86.
    #[default]
    #[serde(rename = "amd64", alias = "x86_64")]
    Amd64,
    /// 64-bit ARM.
    #[serde(rename = "arm64")]
    Arm64,
}

/// Optional features of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Resource metrics for `kubectl top` and autoscaling.
    MetricsServer,
    /// Smaller reservations and longer node timeouts for slow links.
    EdgeOptimizations,
}

/// A named machine shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// 2 CPUs, 4 GiB, 20 GiB of disk.
    Small,
    /// 4 CPUs, 8 GiB, 40 GiB of disk.
    Medium,
    /// 8 CPUs, 16 GiB, 80 GiB of disk.
    Large,
}

impl Size {
    /// The shape that the name stands for.
    pub fn shape(self) -> Shape {
        let (cpus, gib, disk_gib) = match self {
            Self::Small => (2, 4, 20),
            Self::Medium => (4, 8, 40),
            Self::Large => (8, 16, 80),
        };
        Shape { cpus, memory_mib: gib * 1024, disk_gib }
    }
}

/// CPUs, memory and system disk of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Virtual CPUs.
    #[schemars(range(min = 1, max = 512))]
    pub cpus: u32,
    /// Memory in MiB; Talos needs 2048 on a control plane and 1024 on a worker.
    #[schemars(range(min = 1024, max = 16_777_216))]
    pub memory_mib: u32,
    /// System disk in GiB; Talos needs 10.
    #[schemars(range(min = 10, max = 65_536))]
    pub disk_gib: u32,
}

/// Nodes of one cluster with one role and shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Unique in the cluster; part of the node names `<cluster>-<pool>-<number>`.
    pub name: PoolName,
    /// What the nodes are.
    pub role: Role,
    /// How many.
    #[schemars(range(max = 500))]
    pub count: u32,
    /// A named shape. Exactly one of `size` and `shape`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// An explicit shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// Hypervisors that may hold the nodes; default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Proxmox storage of the disks; default: the configured one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// Disks besides the system disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_disks: Vec<Disk>,
    /// Network interfaces besides the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_nics: Vec<Nic>,
    /// Node labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Node taints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs etcd and the Kubernetes control plane.
    ControlPlane,
    /// Runs workloads.
    Worker,
}

/// A disk besides the system disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Size in GiB.
    #[schemars(range(min = 1, max = 65_536))]
    pub size_gib: u32,
    /// Proxmox storage; default: the pool's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
}

/// A network interface besides the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// Proxmox bridge or VNet.
    pub bridge: String,
    /// VLAN tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4094))]
    pub vlan: Option<u16>,
    /// MTU in bytes; 1 means the bridge's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_520))]
    pub mtu: Option<u16>,
}

/// Networks of nodes, pods and services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Name of the configured node network that addresses come from; default: the only one, or the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Resolvers of the nodes; default: the node network's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_servers: Vec<IpAddr>,
    /// Proxmox bridge or VNet; default: the node network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// VLAN tag; default: the node network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4094))]
    pub vlan: Option<u16>,
    /// MTU in bytes; 1 means the bridge's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_520))]
    pub mtu: Option<u16>,
    /// CIDR of pods; default `10.244.0.0/16`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_cidr: Option<String>,
    /// CIDR of services; default `10.96.0.0/12`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_cidr: Option<String>,
}

/// Where the Kubernetes API is reached. Never used for the Talos API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// What holds the address.
    pub kind: EndpointKind,
    /// Needed for `external` (name or address); for `vip` a wanted address, else one is reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Port; default 6443.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<u16>,
}

/// What holds the API's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EndpointKind {
    /// A layer-2 virtual IP that moves between the control planes.
    Vip,
    /// A load balancer that exists.
    External,
    /// The first control plane's own address.
    Node,
}

impl ProvisionCluster {
    /// The smallest request: a name and a pattern.
    pub fn new(cluster_name: ClusterName, pattern: Pattern) -> Self {
        let json = serde_json::json!({
            "request_type": "provision_cluster", "cluster_name": cluster_name, "pattern": pattern,
        });
        serde_json::from_value(json).expect("the smallest request has the request's shape")
    }

    /// The pattern that fills what the request leaves out.
    pub fn effective_pattern(&self) -> Pattern {
        self.pattern.unwrap_or_default()
    }

    /// The pools as asked, or as the pattern and the four numbers make them: `cp` and `worker`.
    pub fn effective_pools(&self) -> Vec<Pool> {
        if !self.pools.is_empty() {
            return self.pools.clone();
        }
        let (control_planes, workers, size, worker_size) = match self.effective_pattern() {
            Pattern::Ha => (3, 3, Size::Medium, Size::Large),
            Pattern::Single => (1, 0, Size::Medium, Size::Medium),
            Pattern::Edge => (1, 2, Size::Small, Size::Small),
            Pattern::Hybrid => (3, 10, Size::Medium, Size::Large),
        };
        let node_size = self.node_size.unwrap_or(size);
        let worker_size = self.worker_size.or(self.node_size).unwrap_or(worker_size);
        let pool = |name: &str, role, count, size| Pool {
            name: name.parse().expect("the pattern's pool names are labels"),
            role,
            count,
            size: Some(size),
            shape: None,
            hosts: Vec::new(),
            storage: None,
            extra_disks: Vec::new(),
            extra_nics: Vec::new(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
        };
        let mut pools =
            vec![pool("cp", Role::ControlPlane, self.control_plane_nodes.unwrap_or(control_planes), node_size)];
        let workers = self.worker_nodes.unwrap_or(workers);
        if workers > 0 {
            pools.push(pool("worker", Role::Worker, workers, worker_size));
        }
        pools
    }

    /// The part that talos-contractor owns, with the pattern's defaults filled in.
    pub fn talos_spec(&self) -> TalosSpec {
        let pattern = self.effective_pattern();
        let pools = self.effective_pools();
        let no_workers = pools.iter().all(|pool| pool.role == Role::ControlPlane || pool.count == 0);
        let (cni, storage) = match pattern {
            Pattern::Ha => (Cni::Cilium, Storage::Longhorn),
            Pattern::Single | Pattern::Edge => (Cni::Flannel, Storage::LocalPath),
            Pattern::Hybrid => (Cni::Cilium, Storage::None),
        };
        let cni = self.network_cni.unwrap_or(cni);
        // The pods of an add-on need a pod network.
        let storage = if cni == Cni::None { Storage::None } else { storage };
        let storage = match self.storage_backend.unwrap_or(storage) {
            Storage::LocalStorage => Storage::LocalPath,
            other => other,
        };
        let network = self.network.clone().unwrap_or_default();
        TalosSpec {
            talos_version: self.talos_version.clone(),
            kubernetes_version: self.kubernetes_version.clone(),
            network_cni: Some(cni),
            storage_backend: Some(storage),
            allow_workloads_on_control_plane: Some(
                self.allow_workloads_on_control_plane
                    .or(self.control_plane_taint.map(|taint| !taint))
                    .unwrap_or(no_workers),
            ),
            pod_cidr: network.pod_cidr,
            service_cidr: network.service_cidr,
            ntp_servers: self.ntp_servers.clone(),
            registry_mirrors: self.registry_mirrors.clone(),
            extensions: self.extensions.clone(),
            patches: self.patches.clone(),
            additional_sans: self.additional_sans.clone(),
            service_account_key: self.service_account_key,
            endpoint_is_vip: None,
            pools: pools
                .into_iter()
                .map(|pool| (pool.name, PoolSpec { labels: pool.labels, taints: pool.taints }))
                .collect(),
            worker_autoscaling: self.worker_autoscaling,
            failure_policy: self.failure_policy,
        }
    }
}

impl Pool {
    /// The machines' shape; medium where neither `size` nor `shape` is given.
    pub fn effective_shape(&self) -> Shape {
        self.shape.unwrap_or_else(|| self.size.unwrap_or(Size::Medium).shape())
    }
}
