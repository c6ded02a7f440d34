//! Makes the machine configuration of a node from what is known of its cluster and of itself.
//!
//! Without options the result is what Talos's own generator writes for the same secrets (talos.md 5.1, 5.2); each
//! option adds the fields or documents that the Talos line in question wants for it.

mod kubernetes;
mod machine;
mod network;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::secrets::Bundle;
use crate::version::{Minor, Unsupported};

use super::document::{Document, LoadError};
use super::yaml::Mapping;
use super::{MachineConfig, compat};

/// What all nodes of a cluster share.
#[derive(Clone, Debug)]
pub struct ClusterInput {
    pub name: String,
    /// `https://host:port` of the Kubernetes API; never used for the Talos API.
    pub endpoint: String,
    pub talos_version: semver::Version,
    pub kubernetes_version: semver::Version,
    pub dns_domain: String,
    pub pod_subnets: Vec<IpNet>,
    pub service_subnets: Vec<IpNet>,
    /// Names and addresses added to the certificates of the Talos API and of the Kubernetes API.
    pub additional_sans: Vec<String>,
    pub cni: Cni,
    /// Off where the CNI replaces it, as Cilium does.
    pub kube_proxy: bool,
    /// Port of the load balancer on every node's loopback that a CNI without kube-proxy talks to.
    pub kube_prism_port: u16,
    pub discovery: Discovery,
    pub schedule_on_control_planes: bool,
    /// The layer-2 address that moves between control planes.
    pub vip: Option<IpAddr>,
    /// NTP servers; Talos's own choice if empty.
    pub time_servers: Vec<String>,
    pub nameservers: Vec<IpAddr>,
    pub registry_mirrors: Vec<RegistryMirror>,
    pub kubelet: Kubelet,
    /// What Longhorn needs on the node besides its extensions; see [`longhorn_data_path`].
    pub longhorn: bool,
    /// The API server's, controller manager's and scheduler's images come from here: `registry.k8s.io`.
    pub kubernetes_registry: String,
}

/// What one node has of its own.
#[derive(Clone, Debug)]
pub struct NodeInput {
    pub role: Role,
    /// The static hostname; a stable one of Talos's choice if absent.
    pub hostname: Option<String>,
    pub install: Install,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// `key` to `value:Effect` or `Effect`.
    pub taints: BTreeMap<String, String>,
    /// What `spec.providerID` of the Kubernetes node is to be.
    pub provider_id: Option<String>,
    /// The node's first network interface; needed for a VIP and for static addresses.
    pub link: Option<Link>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    ControlPlane,
    Worker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cni {
    /// Ships with Talos.
    Flannel,
    /// Installed after bootstrap by somebody else; nodes are not ready before.
    None,
}

/// How members of a cluster find each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// The public discovery service.
    Public,
    /// A discovery service at this URL.
    Service(String),
    /// None: members are found through the Kubernetes API endpoint only.
    Disabled,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryMirror {
    /// `docker.io`, or `*` for all registries without one.
    pub registry: String,
    pub endpoints: Vec<String>,
    pub skip_fallback: bool,
    /// The endpoint's path is used as it is, without `/v2` after it.
    pub override_path: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubelet {
    /// The serving certificate is requested from the cluster, where somebody approves it.
    pub rotate_server_certificates: bool,
    pub extra_args: BTreeMap<String, String>,
    /// The node's Kubernetes address is taken from these subnets; `!` before one excludes it.
    pub node_ip_subnets: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    pub disk: InstallDisk,
    /// `factory.talos.dev/nocloud-installer/<schematic>:v1.13.9`, see [`super::installer::Schematic::installer`].
    pub image: String,
    pub wipe: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstallDisk {
    /// `/dev/sda`: right for one disk, a matter of luck for several.
    Path(String),
    Selector(DiskSelector),
}

/// The properties of the disk to install to; all that are set must match. Texts may hold `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskSelector {
    pub serial: Option<String>,
    pub wwid: Option<String>,
    pub model: Option<String>,
    pub bus_path: Option<String>,
    pub size: Option<SizeMatch>,
}

/// A condition on the size of a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeMatch {
    AtLeast(u64),
    AtMost(u64),
}

/// A network interface and, if it is not configured by the platform or DHCP, its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub name: LinkName,
    pub mtu: Option<u32>,
    pub addresses: Vec<IpNet>,
    pub gateway: Option<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkName {
    /// A kernel name such as `ens18`, which depends on the virtual hardware.
    Kernel(String),
    /// A MAC address; the link gets the alias `net0`, which holds on every hardware.
    Mac(String),
}

impl Default for LinkName {
    fn default() -> Self {
        Self::Kernel("eth0".to_owned())
    }
}

/// Why no configuration can be made.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    #[error("{0}")]
    Unsupported(Unsupported),
    #[error("{0}")]
    Incompatible(compat::Incompatible),
    #[error("a virtual IP needs the node's link")]
    VipWithoutLink,
    #[error("the secrets bundle holds no secretbox encryption secret, which Talos 1.14 needs")]
    NoSecretboxSecret,
    /// A bug of the generator: it wrote something that its own catalogue does not know.
    #[error("the generated document does not fit the catalogue: {0}")]
    Catalogue(LoadError),
}

impl ClusterInput {
    /// A cluster with Talos's defaults for everything else.
    pub fn new(
        name: impl Into<String>,
        endpoint: impl Into<String>,
        talos_version: semver::Version,
        kubernetes_version: semver::Version,
    ) -> Self {
        Self {
            name: name.into(),
            endpoint: endpoint.into(),
            talos_version,
            kubernetes_version,
            dns_domain: "cluster.local".to_owned(),
            pod_subnets: vec![default_net([10, 244, 0, 0], 16)],
            service_subnets: vec![default_net([10, 96, 0, 0], 12)],
            additional_sans: Vec::new(),
            cni: Cni::Flannel,
            kube_proxy: true,
            kube_prism_port: 7445,
            discovery: Discovery::Public,
            schedule_on_control_planes: false,
            vip: None,
            time_servers: Vec::new(),
            nameservers: Vec::new(),
            registry_mirrors: Vec::new(),
            kubelet: Kubelet::default(),
            longhorn: false,
            kubernetes_registry: "registry.k8s.io".to_owned(),
        }
    }
}

impl NodeInput {
    pub fn new(role: Role, install: Install) -> Self {
        Self {
            role,
            hostname: None,
            install,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            taints: BTreeMap::new(),
            provider_id: None,
            link: None,
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ControlPlane => "controlplane",
            Self::Worker => "worker",
        })
    }
}

/// Where Longhorn finds its disk on nodes of a line: up to 1.13 a directory mounted into the kubelet, from 1.14 on,
/// which has no such mounts, the user volume `longhorn`.
pub fn longhorn_data_path(minor: Minor) -> &'static str {
    if minor >= Minor::V1_14 { "/var/mnt/longhorn" } else { "/var/lib/longhorn" }
}

/// Makes the configuration of a node.
pub fn generate(cluster: &ClusterInput, node: &NodeInput, secrets: &Bundle) -> Result<MachineConfig, GenerateError> {
    let minor = Minor::of(&cluster.talos_version.to_string()).map_err(GenerateError::Unsupported)?;
    compat::check_kubernetes(&cluster.talos_version, &cluster.kubernetes_version)
        .map_err(GenerateError::Incompatible)?;
    let inputs = Inputs { cluster, node, secrets, minor };
    let mut trees = vec![machine::main_document(&inputs)];
    if minor.has_kubernetes_documents() {
        trees.extend(machine::system_documents(&inputs));
        trees.push(network::hostname(&inputs));
        trees.extend(kubernetes::documents(&inputs)?);
    } else {
        trees.push(network::hostname(&inputs));
        trees.extend(network::resolver(&inputs));
    }
    trees.extend(network::options(&inputs)?);
    trees.extend(machine::longhorn_volume(&inputs));
    let documents: Result<Vec<_>, _> =
        trees.into_iter().map(|tree| Document::from_tree(tree, minor).map_err(GenerateError::Catalogue)).collect();
    Ok(MachineConfig::new(documents?, minor))
}

/// Everything a document is made from.
struct Inputs<'a> {
    cluster: &'a ClusterInput,
    node: &'a NodeInput,
    secrets: &'a Bundle,
    minor: Minor,
}

impl Inputs<'_> {
    fn is_control_plane(&self) -> bool {
        self.node.role == Role::ControlPlane
    }

    /// `registry.k8s.io/kube-apiserver:v1.36.3`
    fn kubernetes_image(&self, component: &str) -> String {
        format!("{}/{component}:v{}", self.cluster.kubernetes_registry, self.cluster.kubernetes_version)
    }

    fn kubelet_image(&self) -> String {
        format!("ghcr.io/siderolabs/kubelet:v{}", self.cluster.kubernetes_version)
    }

    /// The kubelet's command line beyond what Talos gives it.
    fn kubelet_args(&self) -> BTreeMap<String, String> {
        let mut args = self.cluster.kubelet.extra_args.clone();
        if self.cluster.kubelet.rotate_server_certificates {
            args.insert("rotate-server-certificates".to_owned(), "true".to_owned());
        }
        if let Some(id) = &self.node.provider_id {
            args.insert("provider-id".to_owned(), id.clone());
        }
        args
    }

    fn node_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.node.labels.clone();
        if self.is_control_plane() {
            labels.entry("node.kubernetes.io/exclude-from-external-load-balancers".to_owned()).or_default();
        }
        labels
    }
}

/// A document of a kind, with its `apiVersion` in front.
fn kind(kind: &str) -> Mapping {
    super::yaml::mapping! { "apiVersion" => "v1alpha1", "kind" => kind }
}

fn texts(map: &BTreeMap<String, String>) -> Mapping {
    map.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

fn strings<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn default_net(octets: [u8; 4], prefix: u8) -> IpNet {
    IpNet::new(IpAddr::from(octets), prefix).expect("a prefix below 32 fits an IPv4 address")
}
