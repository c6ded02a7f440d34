//! Host network documents, which are the same in all supported lines: name, links, VIP, DNS, time, registries.

use crate::config::yaml::{Mapping, Value, mapping};

use super::{GenerateError, Inputs, Link, LinkName, RegistryMirror, kind, strings};

/// The alias given to a link that is known by its MAC address.
const ALIAS: &str = "net0";

/// A static name, or one that Talos derives from the machine's identity; the two exclude each other.
pub(super) fn hostname(inputs: &Inputs<'_>) -> Mapping {
    let mut document = kind("HostnameConfig");
    match &inputs.node.hostname {
        Some(hostname) => {
            document.set("auto", "off");
            document.set("hostname", hostname.as_str());
        }
        None => document.set("auto", "stable"),
    }
    document
}

/// DNS servers; from 1.14 on the document also switches on the host's own resolver.
pub(super) fn resolver(inputs: &Inputs<'_>) -> Option<Mapping> {
    let servers = &inputs.cluster.nameservers;
    let mut document = kind("ResolverConfig");
    if !servers.is_empty() {
        let entry = |address: &std::net::IpAddr| mapping! { "address" => address.to_string() };
        document.set("nameservers", servers.iter().map(entry).collect::<Vec<_>>());
    }
    if inputs.minor.has_kubernetes_documents() {
        document.set("hostDNS", mapping! { "enabled" => true, "forwardKubeDNSToHost" => true });
        return Some(document);
    }
    (!servers.is_empty()).then_some(document)
}

/// Documents that exist only if something was asked for.
pub(super) fn options(inputs: &Inputs<'_>) -> Result<Vec<Mapping>, GenerateError> {
    let mut documents = Vec::new();
    if let Some(link) = &inputs.node.link {
        documents.extend(link_documents(link));
    }
    if let Some(vip) = inputs.cluster.vip.filter(|_| inputs.is_control_plane()) {
        let link = inputs.node.link.as_ref().ok_or(GenerateError::VipWithoutLink)?;
        let mut document = kind("Layer2VIPConfig");
        document.set("name", vip.to_string());
        document.set("link", link_name(link));
        documents.push(document);
    }
    if !inputs.cluster.time_servers.is_empty() {
        let mut document = kind("TimeSyncConfig");
        document.set("ntp", mapping! { "servers" => inputs.cluster.time_servers.clone() });
        documents.push(document);
    }
    documents.extend(inputs.cluster.registry_mirrors.iter().map(registry_mirror));
    Ok(documents)
}

fn link_name(link: &Link) -> &str {
    match &link.name {
        LinkName::Kernel(name) => name,
        LinkName::Mac(_) => ALIAS,
    }
}

fn link_documents(link: &Link) -> Vec<Mapping> {
    let mut documents = Vec::new();
    if let LinkName::Mac(mac) = &link.name {
        let mut alias = kind("LinkAliasConfig");
        alias.set("name", ALIAS);
        let expression = format!("mac(link.permanent_addr) == {:?}", mac.to_lowercase());
        alias.set("selector", mapping! { "match" => expression });
        documents.push(alias);
    }
    if link.addresses.is_empty() && link.mtu.is_none() {
        return documents;
    }
    let mut document = kind("LinkConfig");
    document.set("name", link_name(link));
    if let Some(mtu) = link.mtu {
        document.set("mtu", i64::from(mtu));
    }
    if !link.addresses.is_empty() {
        let address = |address: String| mapping! { "address" => address };
        document.set("addresses", strings(&link.addresses).into_iter().map(address).collect::<Vec<_>>());
    }
    if let Some(gateway) = link.gateway {
        document.set("routes", vec![mapping! { "gateway" => gateway.to_string() }]);
    }
    documents.push(document);
    documents
}

fn registry_mirror(mirror: &RegistryMirror) -> Mapping {
    let endpoint = |url: &String| {
        let mut endpoint = mapping! { "url" => url.as_str() };
        if mirror.override_path {
            endpoint.set("overridePath", true);
        }
        Value::Mapping(endpoint)
    };
    let mut document = kind("RegistryMirrorConfig");
    document.set("name", mirror.registry.as_str());
    document.set("endpoints", Value::Sequence(mirror.endpoints.iter().map(endpoint).collect()));
    if mirror.skip_fallback {
        document.set("skipFallback", true);
    }
    document
}
