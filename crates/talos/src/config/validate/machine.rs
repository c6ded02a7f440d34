//! Checks of the main document.

use crate::config::yaml::{Mapping, Value};
use crate::version::Minor;

use super::{Errors, Mode, address, cluster, devices, extras, labels};

/// Kubelet settings that Talos sets itself.
pub(super) const PROTECTED_KUBELET_FIELDS: [&str; 13] = [
    "apiVersion",
    "authentication",
    "authorization",
    "cgroupRoot",
    "kind",
    "kubeletCgroups",
    "port",
    "protectKernelDefaults",
    "resolvConf",
    "rotateCertificates",
    "systemCgroups",
    "staticPodPath",
    "seccompDefault",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    ControlPlane,
    Worker,
    Unknown,
}

/// Checks the main document and returns errors and warnings.
pub(super) fn check(root: &Mapping, minor: Minor, mode: Mode) -> (Errors, Vec<String>) {
    let mut errors = Errors::default();
    let mut warnings = Vec::new();
    let Some(machine) = root.mapping("machine") else {
        errors.add("machine instructions are required");
        return (errors, warnings);
    };
    let type_text = machine.text("type").unwrap_or_default();
    let (machine_type, canonical) = parse_type(type_text);
    let is_control_plane = machine_type == Type::ControlPlane;
    errors.extend(cluster::check(root.mapping("cluster"), minor, is_control_plane));
    check_install(machine, minor, mode, &mut errors);
    check_host_dns(machine, mode, &mut errors);
    if machine_type != Type::Unknown && type_text != canonical {
        warnings.push(format!("use {canonical:?} instead of {type_text:?} for machine type"));
    }
    check_authority(machine, &mut errors);
    match machine_type {
        Type::ControlPlane => check_control_plane(root, machine, &mut errors, &mut warnings),
        Type::Worker => check_worker(root, machine, &mut errors),
        Type::Unknown => errors.add(format!("unknown machine type {type_text:?}")),
    }
    if let Some(network) = machine.mapping("network") {
        devices::check(network, &mut errors, &mut warnings);
    }
    check_rest(root, machine, is_control_plane, &mut errors, &mut warnings);
    (errors, warnings)
}

/// `init` and `join` are the old names; an empty type means a worker.
fn parse_type(text: &str) -> (Type, &'static str) {
    match text {
        "init" => (Type::ControlPlane, "init"),
        "controlplane" => (Type::ControlPlane, "controlplane"),
        "worker" | "join" | "" => (Type::Worker, "worker"),
        _ => (Type::Unknown, "unknown"),
    }
}

/// From 1.14 on a document may hold the install instructions, so they are no longer demanded here.
fn check_install(machine: &Mapping, minor: Minor, mode: Mode, errors: &mut Errors) {
    if mode != Mode::Metal {
        return;
    }
    let Some(install) = machine.mapping("install") else {
        let missing = format!("install instructions are required in \"{mode}\" mode");
        return errors.add_if(!minor.has_kubernetes_documents(), missing);
    };
    let selector = install.mapping("diskSelector");
    let by_name = selector.is_some_and(|selector| selector.text("name").is_some_and(|name| !name.is_empty()));
    errors.add_if(by_name, "install disk selector is invalid: selector on name is not supported");
    let has_disk = install.text("disk").is_some_and(|disk| !disk.is_empty())
        || selector.is_some_and(|selector| !selector.is_empty());
    errors.add_if(!has_disk, "either install disk or diskSelector should be defined");
    let both = !install.sequence("extraKernelArgs").is_empty() && install.boolean("grubUseUKICmdline") == Some(true);
    errors.add_if(both, "install.extraKernelArgs and install.grubUseUKICmdline can't be used together");
}

fn check_host_dns(machine: &Mapping, mode: Mode, errors: &mut Errors) {
    let host_dns = machine.mapping("features").and_then(|features| features.mapping("hostDNS"));
    let is_on = |key: &str| host_dns.and_then(|dns| dns.boolean(key)) == Some(true);
    if mode == Mode::Container {
        errors.add_if(
            !is_on("enabled"),
            "feature HostDNS should be enabled in container mode (.machine.features.hostDNS.enabled)",
        );
        errors.add_if(
            !is_on("forwardKubeDNSToHost"),
            "feature HostDNS should forward kube-dns to host in container mode \
             (.machine.features.hostDNS.forwardKubeDNSToHost)",
        );
    }
    errors.add_if(
        is_on("forwardKubeDNSToHost") && !is_on("enabled"),
        "feature hostDNS.forwardKubeDNSToHost requires hostDNS.enabled to be true (.machine.features.hostDNS)",
    );
}

fn check_authority(machine: &Mapping, errors: &mut Errors) {
    let has_authority = machine.mapping("ca").is_some() || !machine.sequence("acceptedCAs").is_empty();
    errors.add_if(!has_authority, "issuing CA or some accepted CAs are required (.machine.ca, machine.acceptedCAs)");
}

fn check_control_plane(root: &Mapping, machine: &Mapping, errors: &mut Errors, warnings: &mut Vec<String>) {
    if let Some(network) = root.mapping("cluster").and_then(|cluster| cluster.mapping("network")) {
        cluster::check_cni(network.mapping("cni"), errors, warnings);
    }
    match machine.mapping("ca") {
        None => errors.add("issuing CA is required (.machine.ca)"),
        Some(ca) => {
            errors.add_if(is_empty(ca, "key"), "issuing CA key is required for controlplane nodes (.machine.ca.key)");
        }
    }
}

fn check_worker(root: &Mapping, machine: &Mapping, errors: &mut Errors) {
    const VIP: &str = "virtual (shared) IP is not allowed on non-controlplane nodes";
    let network = machine.mapping("network");
    for device in network.map(|network| network.sequence("interfaces")).unwrap_or_default() {
        let vlans = device.as_mapping().map(|device| device.sequence("vlans")).unwrap_or_default();
        for link in std::iter::once(device).chain(vlans) {
            errors.add_if(link.at(&["vip"]).is_some(), VIP);
        }
    }
    if let Some(ca) = machine.mapping("ca") {
        errors.add_if(
            !is_empty(ca, "key"),
            "issuing Talos API CA key is not allowed on non-controlplane nodes (.machine.ca)",
        );
        errors.add_if(
            is_empty(ca, "crt") && machine.sequence("acceptedCAs").is_empty(),
            "trusted CA certificates are required on non-controlplane nodes (.machine.ca.crt, .machine.acceptedCAs)",
        );
    }
    let cluster_key = root.get("cluster").and_then(|cluster| cluster.at(&["ca", "key"])).and_then(Value::text);
    errors.add_if(
        cluster_key.is_some_and(|key| !key.is_empty()),
        "issuing Kubernetes API CA key is not allowed on non-controlplane nodes (.cluster.ca)",
    );
}

fn check_rest(
    root: &Mapping,
    machine: &Mapping,
    is_control_plane: bool,
    errors: &mut Errors,
    warnings: &mut Vec<String>,
) {
    extras::check_disks(machine, errors);
    if let Some(kubelet) = machine.mapping("kubelet") {
        check_kubelet(kubelet, errors);
    }
    extras::check_encryption(machine, errors);
    extras::check_kubespan(root, machine, errors);
    extras::check_logging(machine, errors);
    check_extensions(machine, errors, warnings);
    let empty = Mapping::default();
    let map = |key: &str| machine.mapping(key).unwrap_or(&empty);
    errors.nest("invalid machine node labels", &labels::check_labels(map("nodeLabels")));
    errors.nest("invalid machine node annotations", &labels::check_annotations(map("nodeAnnotations")));
    errors.nest("invalid machine node taints", &labels::check_taints(map("nodeTaints")));
    let access = machine.get("features").and_then(|features| features.at(&["kubernetesTalosAPIAccess"]));
    if let Some(access) = access.and_then(Value::as_mapping).filter(|access| access.boolean("enabled") == Some(true)) {
        errors.add_if(
            !is_control_plane,
            "feature Kubernetes Talos API Access can only be enabled on control plane machines",
        );
        for role in access.sequence("allowedRoles").iter().filter_map(Value::text) {
            let invalid = format!("invalid role {role:?} in allowed roles for Kubernetes Talos API Access");
            errors.add_if(!is_role(role), invalid);
        }
    }
    let algorithm = machine.mapping("features").and_then(|features| features.text("nodeAddressSortAlgorithm"));
    if let Some(algorithm) = algorithm.filter(|algorithm| !matches!(*algorithm, "" | "v1" | "v2")) {
        let wrong = "does not belong to AddressSortAlgorithm values";
        errors.add(format!("invalid node address sort algorithm: {algorithm} {wrong}"));
    }
    errors.add_if(root.boolean("persist") == Some(false), ".persist should be enabled");
    extras::check_registries(machine, errors);
}

fn is_role(role: &str) -> bool {
    matches!(
        role,
        "os:admin"
            | "os:operator"
            | "os:reader"
            | "os:etcd:backup"
            | "os:image:verifier"
            | "os:meta:writer"
            | "os:impersonator"
    )
}

fn check_kubelet(kubelet: &Mapping, errors: &mut Errors) {
    let subnets = kubelet.mapping("nodeIP").map(|node_ip| node_ip.sequence("validSubnets")).unwrap_or_default();
    for subnet in subnets.iter().filter_map(Value::text) {
        let subnet = subnet.strip_prefix('!').unwrap_or(subnet);
        let invalid = format!("kubelet nodeIP subnet is not valid: {subnet:?}");
        errors.add_if(!address::is_subnet_or_address(subnet), invalid);
    }
    for field in PROTECTED_KUBELET_FIELDS {
        let is_set = kubelet.mapping("extraConfig").is_some_and(|config| config.get(field).is_some());
        errors.add_if(is_set, format!("kubelet configuration field {field:?} can't be overridden"));
    }
}

fn check_extensions(machine: &Mapping, errors: &mut Errors, warnings: &mut Vec<String>) {
    let extensions = machine.mapping("install").map(|install| install.sequence("extensions")).unwrap_or_default();
    let mut seen = Vec::new();
    for image in extensions.iter().filter_map(|extension| extension.at(&["image"])).filter_map(Value::text) {
        errors.add_if(seen.contains(&image), format!("duplicate system extension {image:?}"));
        seen.push(image);
    }
    if !seen.is_empty() {
        let advice = "please see https://docs.siderolabs.com/talos/latest/platform-specific-installations/boot-assets";
        warnings.push(format!(".machine.install.extensions is deprecated, {advice}"));
    }
}

fn is_empty(mapping: &Mapping, key: &str) -> bool {
    mapping.text(key).is_none_or(str::is_empty)
}
