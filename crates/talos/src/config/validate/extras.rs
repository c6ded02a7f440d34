//! Checks of the rarer sections of the main document.

use crate::config::yaml::{Mapping, Value};

use super::{Errors, address};

const KUBESPAN_MINIMUM_MTU: i64 = 1280;

fn mappings(items: &[Value]) -> impl Iterator<Item = &Mapping> {
    items.iter().filter_map(Value::as_mapping)
}

pub(super) fn check_disks(machine: &Mapping, errors: &mut Errors) {
    for disk in mappings(machine.sequence("disks")) {
        let partitions = disk.sequence("partitions");
        let earlier = &partitions[..partitions.len().saturating_sub(1)];
        for _ in mappings(earlier).filter(|partition| partition.get("size").is_none()) {
            errors.add(format!(
                "partition for disk {:?} is set to occupy full disk, but it's not the last partition in the list",
                disk.text("device").unwrap_or_default()
            ));
        }
    }
}

pub(super) fn check_encryption(machine: &Mapping, errors: &mut Errors) {
    let Some(encryption) = machine.mapping("systemDiskEncryption") else { return };
    for (key, label) in [("ephemeral", "EPHEMERAL"), ("state", "STATE")] {
        let Some(config) = encryption.mapping(key) else { continue };
        let keys = config.sequence("keys");
        errors.add_if(keys.is_empty(), format!("partition {label:?}: no encryption keys provided"));
        let mut slots = Vec::new();
        for key in mappings(keys) {
            let slot = key.text("slot").unwrap_or("0");
            let in_use = format!("partition {label:?}: encryption key slot {slot} is already in use");
            errors.add_if(slots.contains(&slot), in_use);
            slots.push(slot);
            let has_kind = ["nodeID", "static", "kms", "tpm"].iter().any(|kind| key.get(kind).is_some());
            errors.add_if(
                !has_kind,
                format!("partition {label:?}: encryption key at slot {slot} doesn't have the configuration parameters"),
            );
        }
    }
}

pub(super) fn check_kubespan(root: &Mapping, machine: &Mapping, errors: &mut Errors) {
    let kubespan = machine.mapping("network").and_then(|network| network.mapping("kubespan"));
    let Some(kubespan) = kubespan.filter(|kubespan| kubespan.boolean("enabled") == Some(true)) else { return };
    let mtu = kubespan.get("mtu").and_then(Value::as_scalar).and_then(crate::config::yaml::Scalar::integer);
    errors.add_if(
        mtu.is_some_and(|mtu| mtu < KUBESPAN_MINIMUM_MTU),
        format!("kubespan link MTU must be at least {KUBESPAN_MINIMUM_MTU}"),
    );
    let cluster = root.mapping("cluster");
    let discovery = cluster.and_then(|cluster| cluster.mapping("discovery"));
    errors.add_if(
        discovery.and_then(|discovery| discovery.boolean("enabled")) != Some(true),
        ".cluster.discovery should be enabled when .machine.network.kubespan is enabled",
    );
    for key in ["id", "secret"] {
        let is_missing = cluster.and_then(|cluster| cluster.text(key)).is_none_or(str::is_empty);
        let missing = format!(".cluster.{key} should be set when .machine.network.kubespan is enabled");
        errors.add_if(is_missing, missing);
    }
    let filters = kubespan.mapping("filters");
    for subnet in
        filters.map(|filters| filters.sequence("endpoints")).unwrap_or_default().iter().filter_map(Value::text)
    {
        let subnet = subnet.strip_prefix('!').unwrap_or(subnet);
        let invalid = format!("KubeSpan endpoint filter is not valid: {subnet:?}");
        errors.add_if(!address::is_subnet_or_address(subnet), invalid);
    }
}

pub(super) fn check_logging(machine: &Mapping, errors: &mut Errors) {
    let destinations = machine.mapping("logging").map(|logging| logging.sequence("destinations")).unwrap_or_default();
    for destination in mappings(destinations) {
        match destination.text("endpoint").filter(|endpoint| !endpoint.is_empty()) {
            None => errors.add("empty logging endpoint"),
            Some(endpoint) => {
                let (scheme, rest) = endpoint.split_once("://").unwrap_or(("", ""));
                errors.add_if(rest.split('/').next().is_none_or(str::is_empty), "empty logging endpoint's host");
                let unexpected = format!("unexpected logging endpoint scheme {scheme:?}");
                errors.add_if(!matches!(scheme, "tcp" | "udp"), unexpected);
            }
        }
        let format = destination.text("format").unwrap_or_default();
        errors.add_if(format != "json_lines", format!("unknown logging format {format:?}"));
    }
}

pub(super) fn check_registries(machine: &Mapping, errors: &mut Errors) {
    for section in ["config", "mirrors"] {
        let entries = machine.mapping("registries").and_then(|registries| registries.mapping(section));
        for (key, _) in entries.into_iter().flat_map(Mapping::iter).filter(|(_, value)| value.is_null()) {
            errors.add(format!("registries.{section}[{key:?}] is null"));
        }
    }
}

/// Checks of a control plane component's section of `cluster`; Talos stops at the first error of each.
pub(super) fn check_component(cluster: &Mapping, key: &str, name: &str, errors: &mut Errors) {
    let Some(component) = cluster.mapping(key) else { return };
    if key == "apiServer"
        && let Some(error) = check_authorizers(component)
    {
        return errors.add(error);
    }
    for section in ["requests", "limits"] {
        let resources = component.mapping("resources").and_then(|resources| resources.mapping(section));
        let unsupported = resources.into_iter().flat_map(Mapping::keys).find(|key| !matches!(*key, "cpu" | "memory"));
        if let Some(resource) = unsupported {
            return errors.add(format!("{name} resource validation failed: unsupported pod resource {resource:?}"));
        }
    }
}

fn check_authorizers(api_server: &Mapping) -> Option<String> {
    api_server.get("authorizationConfig")?;
    for argument in api_server.mapping("extraArgs").into_iter().flat_map(Mapping::keys) {
        if argument == "authorization-mode" {
            return Some(
                "authorization-mode cannot be used in conjunction with AuthorizationConfig, \
                 use eitherr AuthorizationConfig or authorization-mode"
                    .to_owned(),
            );
        }
        if argument.starts_with("authorization-webhook-") {
            return Some(
                "authorization-webhook-* flags cannot be used in conjunction with AuthorizationConfig, \
                 use either AuthorizationConfig or authorization-webhook-* flags"
                    .to_owned(),
            );
        }
    }
    let problem = mappings(api_server.sequence("authorizationConfig")).find_map(|authorizer| {
        let text = |key: &str| authorizer.text(key).unwrap_or_default();
        match (text("type"), text("name")) {
            ("", _) => Some("authorizer type must be set".to_owned()),
            (_, "") => Some("authorizer name must be set".to_owned()),
            ("Node" | "RBAC" | "Webhook", _) => None,
            (kind, _) => Some(format!("authorizer type {kind} is not allowed, allowed types are [Node RBAC Webhook]")),
        }
    })?;
    Some(format!("apiserver authorization config validation failed: {problem}"))
}
