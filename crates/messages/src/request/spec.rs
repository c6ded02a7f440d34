//! The part of a cluster request that talos-contractor owns; infrastructure-contractor passes it on verbatim.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::PoolName;

/// What talos-contractor needs to know of a cluster besides its machines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TalosSpec {
    /// Talos release without `v`, for example `1.13.9`; default: the newest supported 1.13.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$"))]
    pub talos_version: Option<String>,
    /// Kubernetes release without `v`, for example `1.36.3`; default: what the Talos release ships.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$"))]
    pub kubernetes_version: Option<String>,
    /// Container network; default: the pattern's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_cni: Option<Cni>,
    /// Persistent volumes; default: the pattern's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_backend: Option<Storage>,
    /// Pods may run on control planes; default: only where the pattern has no other nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_workloads_on_control_plane: Option<bool>,
    /// CIDR of pods; default `10.244.0.0/16`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_cidr: Option<String>,
    /// CIDR of services; default `10.96.0.0/12`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_cidr: Option<String>,
    /// Time servers of the nodes; default: Talos's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ntp_servers: Vec<String>,
    /// Registry host to the mirrors that are asked first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub registry_mirrors: BTreeMap<String, RegistryMirror>,
    /// Talos system extensions by their official name, for example `siderolabs/qemu-guest-agent`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
    /// Machine configuration patches by scope.
    #[serde(default, skip_serializing_if = "Patches::is_empty")]
    pub patches: Patches,
    /// Names besides the endpoint's that the API server's certificate is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_sans: Vec<String>,
    /// Kind of the service-account key; an RSA key costs about a second of CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_key: Option<ServiceAccountKey>,
    /// Whether the API address is a layer-2 virtual IP that the control planes hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_is_vip: Option<bool>,
    /// Labels and taints of the nodes, by pool.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pools: BTreeMap<PoolName, PoolSpec>,
    /// The contractor may ask for more workers when pods cannot be scheduled; default: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_autoscaling: Option<bool>,
    /// What becomes of a flow that fails; default `rollback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_policy: Option<FailurePolicy>,
}

/// What Kubernetes should know of a pool's nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolSpec {
    /// Node labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Node taints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
}

/// Container network of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cni {
    /// Cilium, installed by the add-on catalogue; replaces kube-proxy.
    Cilium,
    /// Flannel, which Talos ships.
    Flannel,
    /// None: the nodes stay NotReady until somebody installs one.
    None,
}

/// Persistent volumes of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// Longhorn, replicated over the workers.
    Longhorn,
    /// Rancher's local-path provisioner: a directory of the node.
    LocalPath,
    /// Another name of `local-path`.
    LocalStorage,
    /// An external Ceph cluster. Part of the vocabulary; not in the add-on catalogue.
    Ceph,
    /// None.
    None,
}

/// What becomes of a flow that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FailurePolicy {
    /// Undo what the flow created.
    #[default]
    Rollback,
    /// Leave everything as it is and end.
    Keep,
    /// Stop and wait for an operator.
    Pause,
}

/// Kind of the cluster's service-account key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceAccountKey {
    /// RSA with 4096 bits, as Talos generates.
    #[default]
    Rsa4096,
    /// ECDSA on P-256.
    EcdsaP256,
}

/// Machine configuration patches (Talos strategic merge), as YAML text, applied in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Patches {
    /// For every node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub all: Vec<String>,
    /// For control planes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controlplane: Vec<String>,
    /// For workers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub worker: Vec<String>,
    /// For the nodes of a pool.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pools: BTreeMap<PoolName, Vec<String>>,
    /// For one node, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<String, Vec<String>>,
}

impl Patches {
    /// Whether there is no patch at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Mirrors of one registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryMirror {
    /// URLs that are asked in this order before the registry itself.
    #[schemars(length(min = 1))]
    pub endpoints: Vec<String>,
    /// The registry itself is never asked.
    #[serde(default)]
    pub skip_fallback: bool,
}

/// A Kubernetes taint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Taint {
    /// For example `dedicated`.
    pub key: String,
    /// May be empty.
    #[serde(default)]
    pub value: String,
    /// What it does to pods that do not tolerate it.
    pub effect: TaintEffect,
}

/// Effect of a taint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// No new pods.
    NoSchedule,
    /// No new pods if it can be avoided.
    PreferNoSchedule,
    /// No new pods, and running ones leave.
    NoExecute,
}
