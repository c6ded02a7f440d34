//! Checks of the main document's cluster section.

use crate::config::yaml::{Mapping, Value};
use crate::version::Minor;

use super::{Errors, address, extras};

const PUBLIC_DISCOVERY: &str = "https://discovery.talos.dev/";

pub(super) fn check(cluster: Option<&Mapping>, minor: Minor, is_control_plane: bool) -> Errors {
    let mut errors = Errors::default();
    let Some(cluster) = cluster else {
        errors.add("cluster instructions are required");
        return errors;
    };
    let control_plane = cluster.mapping("controlPlane");
    let is_endpoint_needed = control_plane.is_some() || !minor.has_kubernetes_documents();
    match control_plane.and_then(|control_plane| control_plane.text("endpoint")) {
        None if is_endpoint_needed => {
            errors.add("cluster controlplane endpoint is required");
            return errors;
        }
        None => {}
        Some(endpoint) => {
            if let Err(error) = address::check_endpoint(endpoint) {
                errors.add(format!("invalid controlplane endpoint: {error}"));
            }
        }
    }
    let domain = cluster.mapping("network").and_then(|network| network.text("dnsDomain")).unwrap_or_default();
    errors.add_if(!domain.is_empty() && !address::is_dns_name(domain), format!("{domain:?} is not a valid DNS name"));
    if let Some(provider) = cluster.mapping("externalCloudProvider") {
        check_cloud_provider(provider, &mut errors);
    }
    if let Some(etcd) = cluster.mapping("etcd") {
        check_etcd(etcd, is_control_plane, &mut errors);
    }
    let has_key = cluster.mapping("ca").and_then(|ca| ca.text("key")).is_some_and(|key| !key.is_empty());
    errors
        .add_if(has_key && !is_control_plane, "cluster CA key is not allowed on non-controlplane nodes (.cluster.ca)");
    check_inline_manifests(cluster, &mut errors);
    check_discovery(cluster, &mut errors);
    for (key, name) in
        [("apiServer", "apiserver"), ("controllerManager", "controller-manager"), ("scheduler", "scheduler")]
    {
        extras::check_component(cluster, key, name, &mut errors);
    }
    errors
}

/// The CNI is checked on control planes only.
pub(super) fn check_cni(cni: Option<&Mapping>, errors: &mut Errors, warnings: &mut Vec<String>) {
    let empty = Mapping::default();
    let cni = cni.unwrap_or(&empty);
    let name = cni.text("name").unwrap_or("flannel");
    let urls = cni.sequence("urls");
    if !matches!(name, "flannel" | "custom" | "none") {
        return errors.add(r#"cni name should be one of ["flannel", "custom", "none"]"#);
    }
    errors.add_if(name != "custom" && !urls.is_empty(), format!(r#""urls" field should be empty for {name:?} CNI"#));
    if name == "custom" && urls.is_empty() {
        warnings.push(format!(r#""urls" field should not be empty for {name:?} CNI"#));
    }
    if let Some(flannel) = cni.mapping("flannel").filter(|_| name != "flannel") {
        errors.add_if(
            !flannel.sequence("extraArgs").is_empty(),
            format!(r#""flanneldExtraArgs" field should be empty for {name:?} CNI"#),
        );
        errors.add_if(
            flannel.boolean("kubeNetworkPoliciesEnabled") == Some(true),
            format!(r#""flannelKubeNetworkPoliciesEnabled" should not be enabled for {name:?} CNI"#),
        );
    }
    if name == "custom" {
        urls.iter()
            .filter_map(Value::text)
            .filter_map(|url| address::check_endpoint(url).err())
            .for_each(|error| errors.add(error));
    }
}

fn check_cloud_provider(provider: &Mapping, errors: &mut Errors) {
    let manifests = provider.sequence("manifests");
    if provider.boolean("enabled") != Some(true) {
        return errors.add_if(!manifests.is_empty(), "external cloud provider is disabled, but manifests are provided");
    }
    for url in manifests.iter().filter_map(Value::text) {
        if let Err(error) = address::check_endpoint(url) {
            errors.add(format!("invalid external cloud provider manifest url {url:?}: {error}"));
        }
    }
}

fn check_etcd(etcd: &Mapping, is_control_plane: bool, errors: &mut Errors) {
    if !is_control_plane {
        return errors.add("etcd config is only allowed on control plane machines");
    }
    errors.add_if(etcd.mapping("ca").is_none(), "key/cert combination should not be empty");
    errors.add_if(
        etcd.text("subnet").is_some_and(|subnet| !subnet.is_empty()) && !etcd.sequence("advertisedSubnets").is_empty(),
        "etcd subnet can't be set when advertised subnets are set",
    );
    for (key, what) in [("advertisedSubnets", "advertised"), ("listenSubnets", "listen")] {
        for subnet in etcd.sequence(key).iter().filter_map(Value::text) {
            let subnet = subnet.strip_prefix('!').unwrap_or(subnet);
            let invalid = format!("etcd {what} subnet is not valid: {subnet:?}");
            errors.add_if(!address::is_subnet_or_address(subnet), invalid);
        }
    }
}

fn check_inline_manifests(cluster: &Mapping, errors: &mut Errors) {
    let mut seen = Vec::new();
    for manifest in cluster.sequence("inlineManifests") {
        let name = manifest.at(&["name"]).and_then(Value::text).unwrap_or_default();
        errors.add_if(name.trim().is_empty(), "inline manifest name can't be empty");
        errors.add_if(seen.contains(&name), format!("inline manifest name {name:?} is duplicate"));
        seen.push(name);
    }
}

fn check_discovery(cluster: &Mapping, errors: &mut Errors) {
    let Some(discovery) = cluster.mapping("discovery").filter(|discovery| discovery.boolean("enabled") == Some(true))
    else {
        return;
    };
    let service = discovery.mapping("registries").and_then(|registries| registries.mapping("service"));
    if service.and_then(|service| service.boolean("disabled")) == Some(true) {
        return;
    }
    let endpoint = service.and_then(|service| service.text("endpoint")).unwrap_or(PUBLIC_DISCOVERY);
    match endpoint.split_once("://") {
        None => errors.add(format!(
            "cluster discovery service registry endpoint is invalid: parse {endpoint:?}: invalid URI for request"
        )),
        Some((_, rest)) => errors.add_if(
            rest.split_once('/').is_some_and(|(_, path)| !path.split('?').next().unwrap_or_default().is_empty()),
            "cluster discovery service path should be empty",
        ),
    }
    for key in ["id", "secret"] {
        errors.add_if(
            cluster.text(key).is_none_or(str::is_empty),
            format!("cluster discovery service requires .cluster.{key}"),
        );
    }
}
