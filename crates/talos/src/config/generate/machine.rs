//! The main document, and from 1.14 on the documents that took over its parts about the machine.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::ExposeSecret;

use crate::config::yaml::{Mapping, mapping};
use crate::pki::CertificateAndKey;
use crate::version::Minor;

use super::{Cni, Discovery, DiskSelector, Inputs, InstallDisk, SizeMatch, kind, kubernetes, strings, texts};

const PUBLIC_DISCOVERY: &str = "https://discovery.talos.dev/";

pub(super) fn main_document(inputs: &Inputs<'_>) -> Mapping {
    mapping! {
        "version" => "v1alpha1",
        "debug" => false,
        "persist" => true,
        "machine" => machine(inputs),
        "cluster" => cluster(inputs),
    }
}

/// The documents of 1.14 before the hostname, in the generator's order.
pub(super) fn system_documents(inputs: &Inputs<'_>) -> Vec<Mapping> {
    let mut documents = Vec::new();
    let endpoint = match &inputs.cluster.discovery {
        Discovery::Public => Some(PUBLIC_DISCOVERY),
        Discovery::Service(url) => Some(url.as_str()),
        Discovery::Disabled => None,
    };
    if let Some(endpoint) = endpoint {
        let mut document = kind("DiscoveryServiceConfig");
        document.set("name", "default");
        document.set("endpoint", endpoint);
        documents.push(document);
    }
    let mut identity = kind("DiscoveryIdentityConfig");
    identity.set("clusterID", inputs.secrets.cluster_id.as_str());
    identity.set("clusterSecret", inputs.secrets.cluster_secret.expose_secret());
    documents.push(identity);
    documents.push(unattended_install(inputs));
    documents.extend(super::network::resolver(inputs));
    let mut ephemeral = kind("VolumeConfig");
    ephemeral.set("name", "EPHEMERAL");
    ephemeral.set("mount", mapping! { "secure" => true });
    documents.push(ephemeral);
    let mut trim = kind("FilesystemTrimConfig");
    trim.set("interval", "168h0m0s");
    documents.push(trim);
    let mut profile = kind("SecurityProfileConfig");
    profile.set("workloadIsolation", true);
    documents.push(profile);
    documents
}

/// 1.14 has no mounts into the kubelet any more; a directory volume takes their place for Longhorn.
pub(super) fn longhorn_volume(inputs: &Inputs<'_>) -> Option<Mapping> {
    (inputs.cluster.longhorn && inputs.minor.has_kubernetes_documents()).then(|| {
        let mut volume = kind("UserVolumeConfig");
        volume.set("name", "longhorn");
        volume.set("volumeType", "directory");
        volume
    })
}

fn machine(inputs: &Inputs<'_>) -> Mapping {
    let mut machine = mapping! {
        "type" => inputs.node.role.to_string(),
        "token" => inputs.secrets.trustd_token.expose_secret(),
        "ca" => authority(inputs, &inputs.secrets.os),
        "certSANs" => inputs.cluster.additional_sans.clone(),
    };
    if inputs.minor.has_kubernetes_documents() {
        machine.set("features", mapping! { "diskQuotaSupport" => true });
        return machine;
    }
    machine.set("kubelet", kubelet(inputs));
    if inputs.minor == Minor::V1_12 {
        machine.set("network", Mapping::default());
    }
    machine.set("install", install(inputs));
    machine.set(
        "features",
        mapping! {
            "diskQuotaSupport" => true,
            "kubePrism" => mapping! { "enabled" => true, "port" => i64::from(inputs.cluster.kube_prism_port) },
            "hostDNS" => mapping! { "enabled" => true, "forwardKubeDNSToHost" => true },
        },
    );
    let node = inputs.node;
    for (key, map) in
        [("nodeLabels", &inputs.node_labels()), ("nodeAnnotations", &node.annotations), ("nodeTaints", &node.taints)]
    {
        if !map.is_empty() {
            machine.set(key, texts(map));
        }
    }
    machine
}

fn kubelet(inputs: &Inputs<'_>) -> Mapping {
    let mut kubelet = mapping! { "image" => inputs.kubelet_image() };
    let args = inputs.kubelet_args();
    if !args.is_empty() {
        kubelet.set("extraArgs", texts(&args));
    }
    if inputs.cluster.longhorn {
        let path = super::longhorn_data_path(inputs.minor);
        let mount = mapping! {
            "destination" => path,
            "type" => "bind",
            "source" => path,
            "options" => vec!["bind", "rshared", "rw"],
        };
        kubelet.set("extraMounts", vec![mount]);
    }
    kubelet.set("defaultRuntimeSeccompProfileEnabled", true);
    if !inputs.cluster.kubelet.node_ip_subnets.is_empty() {
        kubelet.set("nodeIP", mapping! { "validSubnets" => inputs.cluster.kubelet.node_ip_subnets.clone() });
    }
    kubelet.set("disableManifestsDirectory", true);
    kubelet
}

fn install(inputs: &Inputs<'_>) -> Mapping {
    let wanted = &inputs.node.install;
    let mut install = Mapping::default();
    match &wanted.disk {
        InstallDisk::Path(path) => install.set("disk", path.as_str()),
        InstallDisk::Selector(selector) => install.set("diskSelector", disk_selector(selector)),
    }
    install.set("image", wanted.image.as_str());
    install.set("wipe", wanted.wipe);
    install.set("grubUseUKICmdline", true);
    install
}

fn disk_selector(selector: &DiskSelector) -> Mapping {
    let mut tree = Mapping::default();
    if let Some(size) = selector.size {
        tree.set(
            "size",
            match size {
                SizeMatch::AtLeast(bytes) => format!(">= {bytes}"),
                SizeMatch::AtMost(bytes) => format!("<= {bytes}"),
            },
        );
    }
    for (key, text) in [
        ("model", &selector.model),
        ("serial", &selector.serial),
        ("wwid", &selector.wwid),
        ("busPath", &selector.bus_path),
    ] {
        if let Some(text) = text {
            tree.set(key, text.as_str());
        }
    }
    tree
}

fn unattended_install(inputs: &Inputs<'_>) -> Mapping {
    let wanted = &inputs.node.install;
    let expression = match &wanted.disk {
        InstallDisk::Path(path) => format!("disk.dev_path == {path:?}"),
        InstallDisk::Selector(selector) => disk_expression(selector),
    };
    let mut document = kind("UnattendedInstallConfig");
    document.set("installer", mapping! { "image" => wanted.image.as_str() });
    document
        .set("provisioning", mapping! { "diskSelector" => mapping! { "match" => expression }, "wipe" => wanted.wipe });
    document
}

/// The selector in the expression language of 1.14.
fn disk_expression(selector: &DiskSelector) -> String {
    let mut terms = Vec::new();
    if let Some(size) = selector.size {
        terms.push(match size {
            SizeMatch::AtLeast(bytes) => format!("disk.size >= {bytes}u"),
            SizeMatch::AtMost(bytes) => format!("disk.size <= {bytes}u"),
        });
    }
    for (field, text) in [
        ("disk.model", &selector.model),
        ("disk.serial", &selector.serial),
        ("disk.wwid", &selector.wwid),
        ("disk.bus_path", &selector.bus_path),
    ] {
        match text {
            Some(pattern) if pattern.contains(['*', '?', '[']) => terms.push(format!("glob({pattern:?}, {field})")),
            Some(text) => terms.push(format!("{field} == {text:?}")),
            None => {}
        }
    }
    if terms.is_empty() { "!disk.readonly && !disk.cdrom".to_owned() } else { terms.join(" && ") }
}

fn cluster(inputs: &Inputs<'_>) -> Mapping {
    let (cluster, secrets) = (inputs.cluster, inputs.secrets);
    let etcd = || mapping! { "ca" => authority(inputs, &secrets.etcd) };
    if inputs.minor.has_kubernetes_documents() {
        let mut tree = mapping! { "token" => secrets.bootstrap_token.expose_secret() };
        if inputs.is_control_plane() {
            tree.set("etcd", etcd());
        }
        return tree;
    }
    let mut tree = mapping! {
        "id" => secrets.cluster_id.as_str(),
        "secret" => secrets.cluster_secret.expose_secret(),
        "controlPlane" => mapping! { "endpoint" => cluster.endpoint.as_str() },
        "clusterName" => cluster.name.as_str(),
        "network" => network(inputs),
        "token" => secrets.bootstrap_token.expose_secret(),
    };
    if inputs.is_control_plane() {
        encryption_secrets(inputs, &mut tree);
    }
    tree.set("ca", authority(inputs, &secrets.kubernetes));
    if inputs.is_control_plane() {
        kubernetes::control_plane_section(inputs, &mut tree);
    }
    tree.set("discovery", discovery(inputs));
    if inputs.is_control_plane() {
        tree.set("etcd", etcd());
        if cluster.schedule_on_control_planes {
            tree.set("allowSchedulingOnControlPlanes", true);
        }
    }
    tree
}

fn encryption_secrets(inputs: &Inputs<'_>, tree: &mut Mapping) {
    for (key, secret) in [
        ("aescbcEncryptionSecret", &inputs.secrets.aescbc_encryption_secret),
        ("secretboxEncryptionSecret", &inputs.secrets.secretbox_encryption_secret),
    ] {
        if let Some(secret) = secret {
            tree.set(key, secret.expose_secret());
        }
    }
}

fn network(inputs: &Inputs<'_>) -> Mapping {
    let mut network = Mapping::default();
    if inputs.cluster.cni == Cni::None {
        network.set("cni", mapping! { "name" => "none" });
    }
    network.set("dnsDomain", inputs.cluster.dns_domain.as_str());
    network.set("podSubnets", strings(&inputs.cluster.pod_subnets));
    network.set("serviceSubnets", strings(&inputs.cluster.service_subnets));
    network
}

fn discovery(inputs: &Inputs<'_>) -> Mapping {
    let service = match &inputs.cluster.discovery {
        Discovery::Service(url) => mapping! { "endpoint" => url.as_str() },
        Discovery::Public | Discovery::Disabled => Mapping::default(),
    };
    mapping! {
        "enabled" => inputs.cluster.discovery != Discovery::Disabled,
        "registries" => mapping! { "kubernetes" => mapping! { "disabled" => true }, "service" => service },
    }
}

/// An authority as base64 of PEM; workers get no private key.
pub(super) fn authority(inputs: &Inputs<'_>, authority: &CertificateAndKey) -> Mapping {
    let key = if inputs.is_control_plane() { STANDARD.encode(authority.key.expose_secret()) } else { String::new() };
    mapping! { "crt" => STANDARD.encode(&authority.crt), "key" => key }
}
