//! Checks of single documents other than the main one, and of what their kinds say together.

mod kubernetes;
mod network;
mod services;
mod volumes;

use crate::config::yaml::{Mapping, Value};
use crate::config::{Document, MachineConfig};
use crate::version::Minor;

/// The errors of one document, in the order Talos finds them.
pub(super) fn check(document: &Document, minor: Minor) -> Vec<String> {
    let (kind, root) = (document.id().kind.as_str(), document.root());
    let mut errors = match kind {
        "HostnameConfig" => hostname(root),
        "TimeSyncConfig" => time_sync(root),
        _ => Vec::new(),
    };
    errors.extend(network::check(kind, root));
    errors.extend(services::check(kind, root));
    errors.extend(volumes::check(kind, root, minor));
    errors.extend(kubernetes::check(kind, root));
    errors
}

/// From 1.14 on: what a configuration as a whole may not hold for its type of machine.
pub(super) fn check_together(config: &MachineConfig) -> Vec<String> {
    let kinds = || config.documents().iter().map(|document| document.id().kind.as_str());
    let mut errors = Vec::new();
    if config.minor() < Minor::V1_14 {
        return errors;
    }
    let has = |kind: &str| kinds().any(|other| other == kind);
    let main = |path: &[&str]| config.main().and_then(|main| path_of(main.root(), path));
    if (has("KubeAPIServerCAConfig") || main(&["cluster", "ca"]).is_some())
        && !has("KubeClusterConfig")
        && main(&["cluster", "controlPlane", "endpoint"]).is_none()
        && main(&["cluster", "clusterName"]).is_none()
    {
        errors.push(
            "cluster name and endpoint are required when Kubernetes is configured: either \
             .cluster.clusterName/.cluster.controlPlane.endpoint or the KubeClusterConfig document"
                .to_owned(),
        );
    }
    if has("DiscoveryServiceConfig") && !has("DiscoveryIdentityConfig") {
        for (what, key) in [("ID", "id"), ("secret", "secret")] {
            if main(&["cluster", key]).and_then(Value::text).is_none_or(str::is_empty) {
                errors.push(format!(
                    "cluster {what} (.cluster.{key} or DiscoveryIdentityConfig) should be set when cluster discovery \
                     (DiscoveryServiceConfig) is enabled"
                ));
            }
        }
    }
    let is_control_plane = matches!(config.text(&["machine", "type"]), Some("controlplane" | "init"));
    let mut foreign: Vec<_> = kinds().filter(|kind| kubernetes::CONTROL_PLANE_ONLY.contains(kind)).collect();
    foreign.sort_unstable();
    foreign.dedup();
    if !foreign.is_empty() && !is_control_plane {
        let list = foreign.join(" ");
        errors.push(format!("the following document kinds are only allowed on control plane machines: [{list}]"));
    }
    errors
}

fn path_of<'a>(root: &'a Mapping, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    root.get(first)?.at(rest)
}

fn collect(checks: impl IntoIterator<Item = (bool, String)>) -> Vec<String> {
    checks.into_iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, text)| text).collect()
}

fn is_empty(mapping: &Mapping, key: &str) -> bool {
    mapping.text(key).is_none_or(str::is_empty)
}

fn named(root: &Mapping) -> Vec<String> {
    collect([(is_empty(root, "name"), "name must be specified".to_owned())])
}

/// `https` of `https://host/`; empty if there is none.
fn scheme(url: &str) -> &str {
    url.split_once(':').map_or("", |(scheme, _)| scheme)
}

/// What follows the host, except a lone slash.
fn path(url: &str) -> &str {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    path.split(['?', '#']).next().unwrap_or_default()
}

fn hostname(root: &Mapping) -> Vec<String> {
    let hostname = root.text("hostname").unwrap_or_default();
    let auto = root.text("auto");
    let label = hostname.split('.').next().unwrap_or_default();
    collect([
        (auto.is_none() && hostname.is_empty(), "either 'auto' or 'hostname' must be set".to_owned()),
        (
            auto.unwrap_or("off") != "off" && !hostname.is_empty(),
            "'auto' and 'hostname' cannot be set at the same time".to_owned(),
        ),
        (
            auto.is_some_and(|auto| !matches!(auto, "off" | "stable")),
            format!("invalid value for 'auto': {}", auto.unwrap_or_default()),
        ),
        (hostname.len() > 253, format!("fqdn is too long: {}", hostname.len())),
        (!hostname.is_empty() && (label.is_empty() || label.len() > 63), format!("invalid hostname {label:?}")),
    ])
}

fn time_sync(root: &Mapping) -> Vec<String> {
    let is_negative = root.text("bootTimeout").is_some_and(|timeout| timeout.starts_with('-'));
    let has_both = root.mapping("ntp").is_some() && root.mapping("ptp").is_some();
    collect([
        (is_negative, "bootTimeout cannot be negative".to_owned()),
        (has_both, "only one of ntp or ptp configuration can be specified".to_owned()),
    ])
}
