//! Checks of the deprecated `machine.network.interfaces`.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::yaml::{Mapping, Value};

use super::Errors;
use super::address::check_address;

pub(super) fn check(network: &Mapping, errors: &mut Errors, warnings: &mut Vec<String>) {
    let devices: Vec<&Mapping> = network.sequence("interfaces").iter().filter_map(Value::as_mapping).collect();
    let enslaved = enslaved_links(&devices, errors);
    for device in devices.iter().filter(|device| device.boolean("ignore") != Some(true)) {
        check_selection(device, errors);
        check_bond(device, errors);
        check_vlans(device, errors);
        check_addressing(device, &enslaved, errors, warnings);
        check_routes(device, errors);
    }
}

fn name(device: &Mapping) -> &str {
    device.text("interface").unwrap_or_default()
}

/// Links that are part of a bond or a bridge, with that bond or bridge.
fn enslaved_links<'a>(devices: &[&'a Mapping], errors: &mut Errors) -> HashMap<&'a str, &'a str> {
    let mut owners: HashMap<&str, &str> = HashMap::new();
    for device in devices {
        let (bond, bridge) = (device.mapping("bond"), device.mapping("bridge"));
        errors.add_if(
            bond.is_some() && bridge.is_some(),
            format!(
                "interface has both bridge and bond sections set {:?}: config sections are mutually exclusive",
                name(device)
            ),
        );
        let both =
            |bond: &Mapping| !bond.sequence("interfaces").is_empty() && !bond.sequence("deviceSelectors").is_empty();
        errors.add_if(
            bond.is_some_and(both),
            format!(
                "interface {:?} has both interfaces and selectors set: config sections are mutually exclusive",
                name(device)
            ),
        );
        let links = bridge.or(bond).map(|parent| parent.sequence("interfaces")).unwrap_or_default();
        for link in links.iter().filter_map(Value::text) {
            if let Some(other) = owners.insert(link, name(device)).filter(|other| *other != name(device)) {
                errors.add(format!(
                    "interface {link:?} is declared as part of two separate links: {other:?} and {:?}",
                    name(device)
                ));
            }
        }
    }
    owners
}

fn check_selection(device: &Mapping, errors: &mut Errors) {
    const BOTH: &str = "[networking.os.device.interface], [networking.os.device.deviceSelector]";
    let selector = device.mapping("deviceSelector");
    match (name(device), selector) {
        ("", None) => errors.add(format!("{BOTH}: required either config section to be set")),
        (interface, Some(_)) if !interface.is_empty() => {
            errors.add(format!("{BOTH}: config sections are mutually exclusive"));
        }
        _ => {}
    }
    errors.add_if(
        selector.is_some_and(Mapping::is_empty),
        "[networking.os.device.deviceSelector]: config section should contain at least one field",
    );
}

/// Modes only: the kernel checks the rest.
fn check_bond(device: &Mapping, errors: &mut Errors) {
    let Some(mode) = device.mapping("bond").map(|bond| bond.text("mode").unwrap_or_default()) else { return };
    let is_known = matches!(
        mode,
        "" | "balance-rr" | "active-backup" | "balance-xor" | "broadcast" | "802.3ad" | "balance-tlb" | "balance-alb"
    );
    errors.add_if(!is_known, format!("invalid bond type {mode}"));
}

fn check_vlans(device: &Mapping, errors: &mut Errors) {
    for vlan in device.sequence("vlans").iter().filter_map(Value::as_mapping) {
        let label = format!("{}.{}", name(device), vlan.text("vlanId").unwrap_or("0"));
        for address in vlan.sequence("addresses").iter().filter_map(Value::text) {
            if let Err(error) = check_address(address) {
                errors.add(format!("[networking.os.device.vlan.addresses] {label}: {error}"));
            }
        }
    }
}

fn check_addressing(device: &Mapping, enslaved: &HashMap<&str, &str>, errors: &mut Errors, warnings: &mut Vec<String>) {
    let (interface, cidr) = (name(device), device.text("cidr").unwrap_or_default());
    let addresses = device.sequence("addresses");
    let vip = device.mapping("vip");
    let has_addressing =
        device.boolean("dhcp") == Some(true) || !cidr.is_empty() || !addresses.is_empty() || vip.is_some();
    errors.add_if(
        enslaved.contains_key(interface) && has_addressing,
        format!(
            "[networking.os.device] {interface:?}: bonded/bridged interface shouldn't have any addressing methods configured"
        ),
    );
    errors.add_if(
        !addresses.is_empty() && !cidr.is_empty(),
        format!("[networking.os.device] {interface:?}: interface can't have both .cidr and .addresses set"),
    );
    if !cidr.is_empty() {
        if let Err(error) = check_address(cidr) {
            errors.add(format!("[networking.os.device.CIDR] {interface:?}: {error}"));
        }
        warnings.push(format!(
            "{interface:?}: machine.network.interface.cidr is deprecated, please use machine.network.interface.addresses"
        ));
    }
    for address in addresses.iter().filter_map(Value::text) {
        if let Err(error) = check_address(address) {
            errors.add(format!("[networking.os.device.addresses] {interface:?}: {error}"));
        }
    }
    let vip = vip.map(|vip| vip.text("ip").unwrap_or_default()).filter(|ip| ip.parse::<IpAddr>().is_err());
    if let Some(ip) = vip {
        errors.add(format!("[networking.os.device.vip] failed to parse {ip:?} as IP address"));
    }
}

fn check_routes(device: &Mapping, errors: &mut Errors) {
    for (index, route) in device.sequence("routes").iter().filter_map(Value::as_mapping).enumerate() {
        let text = |key: &str| route.text(key).unwrap_or_default();
        let label = format!("networking.os.device.route[{index}]");
        let mut check = |key: &str, fits: bool| {
            let wrong = format!("[{label}.{key}] {:?}: invalid network address", text(key));
            errors.add_if(!text(key).is_empty() && !fits, wrong);
        };
        check("network", text("network").parse::<IpNet>().is_ok());
        check("gateway", text("gateway").parse::<IpAddr>().is_ok());
        check("source", text("source").parse::<IpAddr>().is_ok());
        let is_nowhere = text("network").is_empty() && text("gateway").is_empty();
        errors.add_if(is_nowhere, format!("[{label}]: either network or gateway should be set"));
    }
}
