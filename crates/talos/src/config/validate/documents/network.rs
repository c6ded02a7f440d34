//! Checks of documents that describe the host's network.

use std::net::IpAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ipnet::IpNet;

use crate::config::yaml::{Mapping, Value};

use super::{collect, is_empty, named, scheme};

/// Rules of the kernel and of KubeSpan; a configured one may not take their place.
const RESERVED_PRIORITIES: [u32; 4] = [0, 32500, 32766, 32767];

pub(super) fn check(kind: &str, root: &Mapping) -> Vec<String> {
    match kind {
        "LinkConfig" | "DummyLinkConfig" | "BridgeConfig" => with_addresses(named(root), root),
        "VLANConfig" => vlan(root),
        "BondConfig" => bond(root),
        "VRFConfig" => vrf(root),
        "WireguardConfig" => wireguard(root),
        "Layer2VIPConfig" => shared_address(root),
        "HCloudVIPConfig" => {
            let mut errors = shared_address(root);
            errors.extend(collect([(is_empty(root, "apiToken"), "apiToken must be specified".to_owned())]));
            errors
        }
        "StaticHostConfig" => static_host(root),
        "BlackholeRouteConfig" => blackhole(root),
        "RoutingRuleConfig" => routing_rule(root),
        "NetworkRuleConfig" => rule(root),
        "LinkAliasConfig" => link_alias(root),
        "DHCPv4Config" | "DHCPv6Config" => dhcp(root),
        "TCPProbeConfig" => collect([
            (is_empty(root, "name"), "probe name is required".to_owned()),
            (is_empty(root, "endpoint"), "TCP probe endpoint is required".to_owned()),
        ]),
        "HTTPProbeConfig" => http_probe(root),
        "KubeSpanConfig" => {
            let is_small = root.number("mtu").is_some_and(|mtu| mtu < 1280);
            collect([(is_small, "kubespan link MTU must be at least 1280".to_owned())])
        }
        _ => Vec::new(),
    }
}

/// Adds what is wrong with a link's addresses and routes, whatever kind of link it is.
fn with_addresses(mut errors: Vec<String>, root: &Mapping) -> Vec<String> {
    for (index, address) in root.sequence("addresses").iter().enumerate() {
        let text = address.at(&["address"]).and_then(Value::text).unwrap_or_default();
        match text.parse::<IpNet>() {
            _ if text.is_empty() => errors.push(format!("address {index} must be specified")),
            Err(_) => errors.push(format!("address {index} must be a valid IP prefix")),
            Ok(net) if net.addr().is_unspecified() => {
                errors.push(format!("address {index} must be a valid IP address"));
            }
            Ok(_) => {}
        }
    }
    for (index, route) in root.sequence("routes").iter().enumerate() {
        let text = |key: &str| route.at(&[key]).and_then(Value::text).filter(|text| !text.is_empty());
        let is_net = |text: &str| text.parse::<IpNet>().is_ok_and(|net| !net.addr().is_unspecified());
        let is_address = |text: &str| text.parse::<IpAddr>().is_ok_and(|address| !address.is_unspecified());
        errors.extend(collect([
            (
                text("destination").is_some_and(|text| !is_net(text)),
                format!("route {index} destination must be a valid IP prefix"),
            ),
            (
                text("gateway").is_some_and(|text| !is_address(text)),
                format!("route {index} gateway must be a valid IP address"),
            ),
            (
                text("source").is_some_and(|text| !is_address(text)),
                format!("route {index} source must be a valid IP address"),
            ),
        ]));
    }
    errors
}

fn vlan(root: &Mapping) -> Vec<String> {
    let mut errors = named(root);
    let id = root.number("vlanID").unwrap_or_default();
    errors.extend(collect([
        (!(1..=4094).contains(&id), "vlanID must be specified and between 1 and 4094".to_owned()),
        (is_empty(root, "parent"), "parent must be specified".to_owned()),
    ]));
    with_addresses(errors, root)
}

fn bond(root: &Mapping) -> Vec<String> {
    let mut errors = named(root);
    errors.extend(collect([
        (root.sequence("links").is_empty(), "at least one link must be specified".to_owned()),
        (root.get("bondMode").is_none(), "bond mode must be specified".to_owned()),
    ]));
    with_addresses(errors, root)
}

fn vrf(root: &Mapping) -> Vec<String> {
    let table = root.text("table").filter(|table| !table.is_empty()).unwrap_or("unspec");
    let is_reserved = matches!(table, "unspec" | "local" | "main" | "default");
    let mut errors = named(root);
    errors.extend(collect([(is_reserved, format!("cannot create vrf with reserved table {table}"))]));
    with_addresses(errors, root)
}

fn wireguard(root: &Mapping) -> Vec<String> {
    let mut errors = named(root);
    let mut check = |what: &str, at: &str, key: &str, is_needed: bool| match wrong_key(key) {
        _ if key.is_empty() && is_needed => errors.push(format!("wireguard {what} key must be specified{at}")),
        Some(reason) if !key.is_empty() => errors.push(format!("wireguard {what} key is invalid{at}: {reason}")),
        _ => {}
    };
    check("private", "", root.text("privateKey").unwrap_or_default(), true);
    for (index, peer) in root.sequence("peers").iter().enumerate() {
        let key = |name: &str| peer.at(&[name]).and_then(Value::text).unwrap_or_default();
        let at = format!(" (peer index {index})");
        check("peer public", &at, key("publicKey"), true);
        check("peer preshared", &at, key("presharedKey"), false);
    }
    let port = root.number("listenPort").unwrap_or_default();
    let is_wrong = !(0..=65535).contains(&port);
    errors.extend(collect([(is_wrong, "wireguard listen port must be between 0 and 65535".to_owned())]));
    with_addresses(errors, root)
}

/// Does not quote the key.
fn wrong_key(key: &str) -> Option<&'static str> {
    match STANDARD.decode(key) {
        Err(_) => Some("illegal base64 data"),
        Ok(bytes) if bytes.len() != 32 => Some("invalid wireguard key length"),
        Ok(_) => None,
    }
}

fn shared_address(root: &Mapping) -> Vec<String> {
    let name = root.text("name").unwrap_or_default();
    let mut errors = named(root);
    if !name.is_empty() && name.parse::<IpAddr>().is_err() {
        errors.push(format!("name must be a valid IP address: ParseAddr({name:?}): unable to parse IP"));
    }
    errors.extend(collect([(is_empty(root, "link"), "link must be specified".to_owned())]));
    errors
}

fn static_host(root: &Mapping) -> Vec<String> {
    let name = root.text("name").unwrap_or_default();
    collect([
        (name.is_empty(), "name is required".to_owned()),
        (name.parse::<IpAddr>().is_err(), "name must be a valid IP address".to_owned()),
        (root.sequence("hostnames").is_empty(), "at least one hostname is required".to_owned()),
    ])
}

fn blackhole(root: &Mapping) -> Vec<String> {
    let name = root.text("name").unwrap_or_default();
    let reason = if name.contains('/') { "bad prefix" } else { "no '/'" };
    let mut errors = named(root);
    errors.extend(collect([(
        name.parse::<IpNet>().is_err(),
        format!("name must be a valid address prefix: netip.ParsePrefix({name:?}): {reason}"),
    )]));
    errors
}

fn routing_rule(root: &Mapping) -> Vec<String> {
    let name = root.text("name").unwrap_or_default();
    let mut errors = named(root);
    let priority = name.parse::<u32>();
    if priority.is_err() {
        let reason = format!("strconv.ParseUint: parsing {name:?}: invalid syntax");
        errors.push(format!("invalid name: must be priority parsable unsigned integer: {reason}"));
    }
    let table = root.text("table").unwrap_or_default();
    let action = root.text("action").unwrap_or_default();
    let goes_nowhere = matches!(table, "" | "unspec") && matches!(action, "" | "unspec" | "unicast");
    let set = |key: &str| root.number(key).is_some_and(|value| value != 0);
    errors.extend(collect([
        (
            RESERVED_PRIORITIES.contains(&priority.unwrap_or_default()),
            format!("priority must be between 1 and 32765 (excluding reserved priorities {})", {
                let list: Vec<_> = RESERVED_PRIORITIES.iter().map(ToString::to_string).collect();
                format!("[{}]", list.join(" "))
            }),
        ),
        (goes_nowhere, "either table or a non-unicast action must be specified".to_owned()),
        (set("fwMask") && !set("fwMark"), "fwMask requires fwMark to be set".to_owned()),
    ]));
    errors
}

/// Only the first thing that is wrong is told.
fn rule(root: &Mapping) -> Vec<String> {
    let ports = root.mapping("portSelector").map(|selector| selector.sequence("ports")).unwrap_or_default();
    let mut errors = collect([
        (is_empty(root, "name"), "name is required".to_owned()),
        (ports.is_empty(), "portSelector.ports is required".to_owned()),
    ]);
    errors.truncate(1);
    errors
}

fn link_alias(root: &Mapping) -> Vec<String> {
    let name = root.text("name").unwrap_or_default();
    let mut errors = named(root);
    let is_odd = name.split_once('%').is_some_and(|(prefix, suffix)| prefix.is_empty() || suffix != "d");
    let has_selector = root.mapping("selector").is_some_and(|selector| !is_empty(selector, "match"));
    errors.extend(collect([
        (is_odd, format!("name {name:?} contains an invalid format verb, use %d suffix")),
        (!has_selector, "link selector is required".to_owned()),
    ]));
    errors
}

fn dhcp(root: &Mapping) -> Vec<String> {
    let by_duid = root.text("clientIdentifier") == Some("duid");
    let has_duid = !is_empty(root, "duidRaw");
    let mut errors = named(root);
    errors.extend(collect([
        (has_duid && !by_duid, "duidRaw can only be set if clientIdentifier is 'duid'".to_owned()),
        (by_duid && !has_duid, "duidRaw must be set if clientIdentifier is 'duid'".to_owned()),
    ]));
    errors
}

fn http_probe(root: &Mapping) -> Vec<String> {
    let url = root.text("url").unwrap_or_default();
    let mut errors = collect([
        (is_empty(root, "name"), "probe name is required".to_owned()),
        (url.is_empty(), "HTTP probe URL is required".to_owned()),
    ]);
    let found = scheme(url);
    if !url.is_empty() && !matches!(found, "http" | "https") {
        errors.push(format!("HTTP probe URL scheme must be http or https, got {found:?}"));
    }
    errors
}
