//! The machine configuration of a node: what the cluster's record and the node's record come to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use contractor::action::StepError;
use ipnet::IpNet;
use jiff::Timestamp;
use messages::request::{Cni, Patches, Role, Storage, Taint};
use semver::Version;
use talos::{
    config::{
        self, MachineConfig, Mode, Patch, Scope, ScopedPatch,
        generate::{ClusterInput, DiskSelector, Install, InstallDisk, Link, LinkName, NodeInput, RegistryMirror},
        installer::Schematic,
    },
    secrets::Bundle,
    version::Minor,
};

use crate::{
    failure::unusable,
    inventory::{Cluster, Node},
    kubernetes::address_of,
};

/// What the node itself was found to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardware {
    /// Where Talos is or will be installed.
    pub disk: InstallDisk,
    /// Name of the link with the node's MAC or address.
    pub link: String,
}

/// Generates, patches and validates the configuration of one node.
pub fn generate(
    factory: &str,
    cluster: &Cluster,
    node: &Node,
    hardware: &Hardware,
    bundle: &Bundle,
) -> Result<MachineConfig, StepError> {
    let minor = Minor::of(&cluster.talos_version).map_err(|error| unusable("the Talos version", &error))?;
    let config = config::generate(&cluster_input(cluster)?, &node_input(factory, cluster, node, hardware), bundle)
        .map_err(|error| unusable("the request", &error))?;
    let patches = scoped(&cluster.spec.patches, minor)?;
    let pool = node.pool.as_ref().map_or("", |pool| pool.as_str());
    let config = config
        .patched_for(&patches, role(node.role), pool, node.hostname.as_str())
        .map_err(|error| unusable("a configuration patch", &error))?;
    config.validate(Mode::Cloud).map_err(|error| unusable("the machine configuration", &error))?;
    Ok(config)
}

/// Generates the configurations that a cluster's nodes would get, with keys that nobody uses and hardware that nobody has,
/// to learn before there is a machine whether they would be valid. One node stands for all of its pool.
pub fn rehearse(factory: &str, cluster: &Cluster, nodes: &[Node]) -> Result<(), StepError> {
    let failed = |error: talos::pki::Error| unusable("randomness", &error);
    let minor = Minor::of(&cluster.talos_version).map_err(|error| unusable("the Talos version", &error))?;
    let key = talos::pki::service_account_key(talos::pki::ServiceAccountKey::EcdsaP256).map_err(failed)?;
    let bundle = Bundle::generate(minor, key, Timestamp::now()).map_err(failed)?;
    let hardware = Hardware { disk: InstallDisk::Path("/dev/sda".to_owned()), link: "eth0".to_owned() };
    let mut seen = BTreeSet::new();
    for node in nodes {
        let is_patched = cluster.spec.patches.nodes.contains_key(node.hostname.as_str());
        if seen.insert((node.is_control_plane(), node.pool.clone())) || is_patched {
            generate(factory, cluster, node, &hardware, &bundle)?;
        }
    }
    Ok(())
}

/// The patches of a request, checked: they may not touch what identifies the cluster or the node.
pub fn scoped(patches: &Patches, minor: Minor) -> Result<Vec<ScopedPatch>, StepError> {
    let wide =
        [(Scope::All, &patches.all), (Scope::ControlPlane, &patches.controlplane), (Scope::Worker, &patches.worker)];
    let pools = patches.pools.iter().map(|(name, texts)| (Scope::Pool(name.to_string()), texts));
    let nodes = patches.nodes.iter().map(|(name, texts)| (Scope::Node(name.clone()), texts));
    let mut scoped = Vec::new();
    for (scope, texts) in wide.into_iter().chain(pools).chain(nodes) {
        for text in texts {
            let patch = Patch::parse(text, minor).map_err(|error| unusable("a configuration patch", &error))?;
            patch.check_allowed().map_err(|error| unusable("a configuration patch", &error))?;
            scoped.push(ScopedPatch { scope: scope.clone(), patch });
        }
    }
    Ok(scoped)
}

fn cluster_input(cluster: &Cluster) -> Result<ClusterInput, StepError> {
    let spec = &cluster.spec;
    let version = |text: &str| Version::parse(text).map_err(|error| unusable(&format!("version `{text}`"), &error));
    let (talos, kubernetes) = (version(&cluster.talos_version)?, version(&cluster.kubernetes_version)?);
    let mut input = ClusterInput::new(cluster.name.as_str(), &cluster.endpoint, talos, kubernetes);
    let network = |text: &str| text.parse::<IpNet>().map_err(|error| unusable(&format!("network `{text}`"), &error));
    if let Some(cidr) = &spec.pod_cidr {
        input.pod_subnets = vec![network(cidr)?];
    }
    if let Some(cidr) = &spec.service_cidr {
        input.service_subnets = vec![network(cidr)?];
    }
    let cilium = spec.network_cni == Some(Cni::Cilium);
    input.cni = if spec.network_cni == Some(Cni::Flannel) {
        config::generate::Cni::Flannel
    } else {
        config::generate::Cni::None
    };
    input.kube_proxy = !cilium;
    input.schedule_on_control_planes = spec.allow_workloads_on_control_plane.unwrap_or_default();
    input.vip = if spec.endpoint_is_vip == Some(true) { address_of(&cluster.endpoint) } else { None };
    input.additional_sans = sans(cluster);
    input.time_servers.clone_from(&spec.ntp_servers);
    input.nameservers.clone_from(&cluster.network.dns_servers);
    input.longhorn = spec.storage_backend == Some(Storage::Longhorn);
    input.registry_mirrors = spec
        .registry_mirrors
        .iter()
        .map(|(registry, mirror)| RegistryMirror {
            registry: registry.clone(),
            endpoints: mirror.endpoints.clone(),
            skip_fallback: mirror.skip_fallback,
            override_path: false,
        })
        .collect();
    Ok(input)
}

/// The endpoint's host is in every certificate, whatever else was asked for.
fn sans(cluster: &Cluster) -> Vec<String> {
    let host = cluster.endpoint.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    let host = host.map(|host| host.trim_matches(['[', ']']).to_owned());
    let mut sans: Vec<_> = host.into_iter().chain(cluster.spec.additional_sans.iter().cloned()).collect();
    let mut seen = std::collections::HashSet::new();
    sans.retain(|san| seen.insert(san.clone()));
    sans
}

fn node_input(factory: &str, cluster: &Cluster, node: &Node, hardware: &Hardware) -> NodeInput {
    let schematic = cluster.schematic.clone();
    let schematic = schematic.unwrap_or_else(|| Schematic::with_extensions(cluster.spec.extensions.clone()).id());
    let image = format!("{factory}/nocloud-installer/{schematic}:v{}", cluster.talos_version);
    let install = Install { disk: hardware.disk.clone(), image, wipe: false };
    let mut input = NodeInput::new(role(node.role), install);
    input.hostname = Some(node.hostname.to_string());
    input.labels = labels(cluster, node);
    let pool = node.pool.as_ref().and_then(|pool| cluster.spec.pools.get(pool));
    input.taints = pool.map(|pool| taints(&pool.taints)).unwrap_or_default();
    input.provider_id = Some(provider_id(cluster, node));
    input.link = Some(Link { name: LinkName::Kernel(hardware.link.clone()), ..Link::default() });
    input
}

/// Labels that Kubernetes should show on a node.
pub fn labels(cluster: &Cluster, node: &Node) -> BTreeMap<String, String> {
    let pool = node.pool.as_ref().and_then(|pool| cluster.spec.pools.get(pool));
    let mut labels = pool.map(|pool| pool.labels.clone()).unwrap_or_default();
    if let Some(host) = &node.host {
        labels.insert("topology.kubernetes.io/zone".to_owned(), host.clone());
    }
    if let Some(pool) = &node.pool {
        labels.insert("cortex/pool".to_owned(), pool.to_string());
    }
    labels
}

/// `spec.providerID` of the Kubernetes node: which VM it is.
pub fn provider_id(cluster: &Cluster, node: &Node) -> String {
    format!("proxmox://{}/{}", cluster.uid, node.vm_id.0)
}

fn taints(taints: &[Taint]) -> BTreeMap<String, String> {
    let text = |taint: &Taint| match taint.value.as_str() {
        "" => format!("{:?}", taint.effect),
        value => format!("{value}:{:?}", taint.effect),
    };
    taints.iter().map(|taint| (taint.key.clone(), text(taint))).collect()
}

fn role(role: Role) -> config::generate::Role {
    match role {
        Role::ControlPlane => config::generate::Role::ControlPlane,
        Role::Worker => config::generate::Role::Worker,
    }
}

/// A selector that finds the disk again when device names change; its path where nothing tells it from others.
pub fn select(disk: &talos::proto::talos::resource::definitions::block::DiskSpec) -> InstallDisk {
    let set = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let selector = DiskSelector { serial: set(&disk.serial), wwid: set(&disk.wwid), ..DiskSelector::default() };
    let selector = match (&selector.serial, &selector.wwid) {
        (None, None) => DiskSelector { bus_path: set(&disk.bus_path), ..selector },
        _ => selector,
    };
    if selector == DiskSelector::default() {
        InstallDisk::Path(disk.dev_path.clone())
    } else {
        InstallDisk::Selector(selector)
    }
}

/// Whether an address is one of the node's own, for links that are known by address only.
pub fn holds(addresses: &[(String, IpAddr)], wanted: IpAddr) -> Option<&str> {
    addresses.iter().find(|(_, address)| *address == wanted).map(|(link, _)| link.as_str())
}
