//! `[[network]]`: where nodes get their addresses.

use std::net::IpAddr;

use ipnet::IpNet;
use messages::schema::Violation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem;
use crate::addresses::Range;

/// The zone in which Proxmox VE keeps the rights on its hosts' own bridges.
fn local_network() -> String {
    "localnetwork".to_owned()
}

/// A node network and the part of it that is ours to give out.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeNetwork {
    /// Its name, for requests.
    pub name: String,
    /// The whole network.
    #[schemars(with = "String")]
    pub cidr: IpNet,
    /// Default gateway.
    pub gateway: IpAddr,
    /// Resolvers of the nodes.
    #[serde(default)]
    pub dns_servers: Vec<IpAddr>,
    /// The addresses that are ours to give out; nobody else may use them.
    #[schemars(length(min = 1))]
    pub ranges: Vec<Range>,
    /// Exceptions from `ranges`.
    #[serde(default)]
    pub exclude: Vec<Range>,
    /// Proxmox bridge or VNet of the first NIC.
    pub bridge: String,
    /// SDN zone of a VNet: the right to use it is looked for there. A bridge of the hosts is in `localnetwork`.
    #[serde(default = "local_network")]
    pub zone: String,
    /// VLAN tag of the first NIC.
    #[serde(default)]
    #[schemars(range(min = 1, max = 4094))]
    pub vlan: Option<u16>,
    /// MTU of the first NIC in bytes; 1 means the bridge's.
    #[serde(default)]
    #[schemars(range(min = 1, max = 65_520))]
    pub mtu: Option<u16>,
    /// Whether the Proxmox firewall filters the first NIC.
    #[serde(default)]
    pub firewall: bool,
    /// Whether an address is tried (TCP 50000, 6443, 22, 443) before it is given out.
    #[serde(default = "yes")]
    pub probe: bool,
}

pub(super) fn problems(networks: &[NodeNetwork], allowed_targets: &[String]) -> Vec<Violation> {
    let allowed: Vec<IpNet> = allowed_targets.iter().filter_map(|text| text.parse().ok()).collect();
    let mut problems = Vec::new();
    for (index, network) in networks.iter().enumerate() {
        let path = |field: &str| format!("/network/{index}/{field}");
        let within = format!("an address in {}", network.cidr);
        if !network.cidr.contains(&network.gateway) {
            problems.push(problem(path("gateway"), "network", &within, network.gateway.to_string()));
        }
        for (field, ranges) in [("ranges", &network.ranges), ("exclude", &network.exclude)] {
            for (number, range) in ranges.iter().enumerate().filter(|(_, range)| !range.is_within(&network.cidr)) {
                let expected = format!("addresses in {}", network.cidr);
                problems.push(problem(path(&format!("{field}/{number}")), "network", &expected, range.to_string()));
            }
        }
        if !allowed.iter().any(|target| target.contains(&network.cidr)) {
            let expected = "a network inside allowed_targets, or its nodes could not be reached";
            problems.push(problem(path("cidr"), "allowed_targets", expected, network.cidr.to_string()));
        }
        if networks[..index].iter().any(|earlier| earlier.name == network.name) {
            problems.push(problem(path("name"), "unique", "another name", network.name.clone()));
        }
    }
    problems
}

fn yes() -> bool {
    true
}
