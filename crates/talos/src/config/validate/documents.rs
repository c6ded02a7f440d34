//! Checks of single documents other than the main one: of those that this system writes and users patch most.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::Document;
use crate::config::yaml::{Mapping, Value};

use super::machine::PROTECTED_KUBELET_FIELDS;
use super::{Errors, labels};

/// The errors of one document, in the order Talos finds them.
pub(super) fn check(document: &Document) -> Vec<String> {
    let root = document.root();
    match document.id().kind.as_str() {
        "HostnameConfig" => hostname(root),
        "LinkConfig" | "DummyLinkConfig" | "VLANConfig" | "BondConfig" | "BridgeConfig" => link(root),
        "Layer2VIPConfig" => layer2_vip(root),
        "TimeSyncConfig" => time_sync(root),
        "KubeletConfig" => kubelet(root),
        "KubeAPIServerConfig" => kubernetes_image(root, "kube-apiserver"),
        "KubeControllerManagerConfig" => kubernetes_image(root, "kube-controller-manager"),
        "KubeSchedulerConfig" => kubernetes_image(root, "kube-scheduler"),
        "KubeNodeConfig" => node(root),
        "UserVolumeConfig" => user_volume(root),
        "VolumeConfig" => system_volume(root),
        _ => Vec::new(),
    }
}

fn collect(checks: impl IntoIterator<Item = (bool, String)>) -> Vec<String> {
    checks.into_iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, text)| text).collect()
}

fn named(root: &Mapping) -> Vec<String> {
    collect([(root.text("name").is_none_or(str::is_empty), "name must be specified".to_owned())])
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

fn link(root: &Mapping) -> Vec<String> {
    let mut errors = named(root);
    for (index, address) in root.sequence("addresses").iter().enumerate() {
        match address.at(&["address"]).and_then(Value::text) {
            None => errors.push(format!("address {index} must be specified")),
            Some(text) if text.parse::<IpNet>().is_err() => {
                errors.push(format!("address {index} must be a valid IP prefix"));
            }
            Some(_) => {}
        }
    }
    for (index, route) in root.sequence("routes").iter().enumerate() {
        let text = |key: &str| route.at(&[key]).and_then(Value::text);
        if text("destination").is_none() && text("gateway").is_none() {
            errors.push(format!("either destination or gateway must be specified for route {index}"));
        }
        if text("destination").is_some_and(|text| text.parse::<IpNet>().is_err()) {
            errors.push(format!("route {index} destination must be a valid IP prefix"));
        }
        if text("gateway").is_some_and(|text| text.parse::<IpAddr>().is_err()) {
            errors.push(format!("route {index} gateway must be a valid IP address"));
        }
    }
    errors
}

/// The partition that Talos makes unless `volumeType` says otherwise needs a place and a size.
fn user_volume(root: &Mapping) -> Vec<String> {
    let name = root.text("name").unwrap_or_default();
    let is_odd = |character: char| !character.is_ascii_alphanumeric() && character != '-';
    let mut errors = collect([
        (name.is_empty(), "name is required".to_owned()),
        (!(1..=34).contains(&name.len()), "name must be between 1 and 34 characters long".to_owned()),
        (
            name.contains(is_odd),
            "name can only contain lowercase and uppercase ASCII letters, digits, and hyphens".to_owned(),
        ),
    ]);
    let is_set = |key: &str| root.mapping(key).is_some_and(|section| !section.is_empty());
    let volume_type = root.text("volumeType").unwrap_or("partition");
    if volume_type == "directory" {
        let sections = ["provisioning", "encryption", "filesystem", "mount"];
        let wrong = |section: &str| (is_set(section), format!("{section} spec is invalid for volumeType directory"));
        errors.extend(collect(sections.map(wrong)));
        return errors;
    }
    let provisioning = root.mapping("provisioning");
    let has = |key: &str| provisioning.is_some_and(|spec| spec.get(key).is_some());
    errors.extend(collect([
        (!has("diskSelector"), "disk selector is required".to_owned()),
        (
            volume_type == "partition" && !has("minSize") && !has("maxSize"),
            "min size or max size is required".to_owned(),
        ),
    ]));
    errors
}

fn system_volume(root: &Mapping) -> Vec<String> {
    let name = root.text("name").unwrap_or_default();
    let is_known = matches!(name, "STATE" | "EPHEMERAL" | "IMAGECACHE");
    collect([(!is_known, r#"only ["STATE" "EPHEMERAL" "IMAGECACHE"] volumes are supported"#.to_owned())])
}

fn layer2_vip(root: &Mapping) -> Vec<String> {
    let name = root.text("name").unwrap_or_default();
    let mut errors = named(root);
    if !name.is_empty() && name.parse::<IpAddr>().is_err() {
        errors.push(format!("name must be a valid IP address: ParseAddr({name:?}): unable to parse IP"));
    }
    errors.extend(collect([(root.text("link").is_none_or(str::is_empty), "link must be specified".to_owned())]));
    errors
}

fn time_sync(root: &Mapping) -> Vec<String> {
    let is_negative = root.text("bootTimeout").is_some_and(|timeout| timeout.starts_with('-'));
    let has_both = root.mapping("ntp").is_some() && root.mapping("ptp").is_some();
    collect([
        (is_negative, "bootTimeout cannot be negative".to_owned()),
        (has_both, "only one of ntp or ptp configuration can be specified".to_owned()),
    ])
}

fn kubelet(root: &Mapping) -> Vec<String> {
    let mut errors = kubernetes_image(root, "kubelet");
    for field in PROTECTED_KUBELET_FIELDS {
        if root.mapping("config").is_some_and(|config| config.get(field).is_some()) {
            errors.push(format!("kubelet configuration field {field:?} can't be overridden"));
        }
    }
    errors
}

fn kubernetes_image(root: &Mapping, component: &str) -> Vec<String> {
    match root.text("image").filter(|image| !image.is_empty()) {
        None => vec![format!("{component} image cannot be empty")],
        Some(_) => Vec::new(),
    }
}

fn node(root: &Mapping) -> Vec<String> {
    let empty = Mapping::default();
    let map = |key: &str| root.mapping(key).unwrap_or(&empty);
    let mut errors = Errors::default();
    errors.nest("invalid node labels", &labels::check_labels(map("labels")));
    errors.nest("invalid node annotations", &labels::check_annotations(map("annotations")));
    errors.nest("invalid node taints", &labels::check_taints(map("taints")));
    errors.0
}
