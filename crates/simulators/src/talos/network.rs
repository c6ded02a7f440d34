//! Links, addresses and names of a node, from its cards, the cloud-init drive and its configuration.

use std::net::IpAddr;

use ipnet::IpNet;

use super::config::Config;
use crate::machine::{Addressing, Lease, Machine};

/// A network link.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) mac: String,
    pub(crate) mtu: u16,
    pub(crate) up: bool,
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) gateway: Option<IpAddr>,
}

/// The network of a node at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Network {
    pub(crate) hostname: String,
    pub(crate) links: Vec<Link>,
    pub(crate) resolvers: Vec<IpAddr>,
    pub(crate) search_domains: Vec<String>,
    /// Shared addresses the node holds now.
    pub(crate) virtual_addresses: Vec<IpAddr>,
    /// Addresses of others that somebody gave it.
    pub(crate) given: Vec<IpAddr>,
}

impl Network {
    /// Works out the network; `config` is absent in maintenance.
    pub(crate) fn of(machine: &Machine, config: Option<&Config>, identity: &[u8; 32]) -> Self {
        let mut links: Vec<Link> = machine.nics.iter().enumerate().map(|(index, _)| link(machine, index)).collect();
        if let (Some(config), Some(first)) = (config, links.iter_mut().find(|link| link.up)) {
            for address in config.addresses() {
                if !first.addresses.contains(&address) {
                    first.addresses.push(address);
                }
            }
        }
        let nocloud = machine.network.as_ref();
        Self {
            hostname: hostname(machine, config, identity),
            links,
            resolvers: nocloud.map(|network| network.nameservers.clone()).unwrap_or_default(),
            search_domains: nocloud.map(|network| network.search_domains.clone()).unwrap_or_default(),
            virtual_addresses: Vec::new(),
            given: Vec::new(),
        }
    }

    /// The node's own addresses, without shared ones.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let of = |link: &Link| link.addresses.iter().map(IpNet::addr).collect::<Vec<_>>();
        self.links.iter().filter(|link| link.up).flat_map(of).collect()
    }

    /// The address the node is known by.
    pub(crate) fn primary(&self) -> Option<IpAddr> {
        self.addresses().into_iter().next()
    }

    /// Name without domain.
    pub(crate) fn short_name(&self) -> &str {
        self.hostname.split('.').next().unwrap_or(&self.hostname)
    }
}

fn link(machine: &Machine, index: usize) -> Link {
    let nic = &machine.nics[index];
    let nocloud = machine
        .network
        .as_ref()
        .and_then(|network| network.interfaces.iter().find(|interface| interface.mac.eq_ignore_ascii_case(&nic.mac)));
    let lease: Option<&Lease> = match nocloud.map(|interface| &interface.addressing) {
        Some(Addressing::Static(lease)) => Some(lease),
        // Without instructions Talos asks by DHCP on every link.
        Some(Addressing::Dhcp) | None => nic.dhcp.as_ref(),
    };
    let address = lease.and_then(|lease| IpNet::new(lease.address, lease.prefix).ok());
    Link {
        name: format!("ens{}", 18 + index),
        index: 7 + u32::try_from(index).unwrap_or(0),
        mac: nic.mac.to_lowercase(),
        mtu: nic.mtu.unwrap_or(1500),
        up: nic.connected,
        addresses: address.filter(|_| nic.connected).into_iter().collect(),
        gateway: lease.and_then(|lease| lease.gateway),
    }
}

/// Configuration first, then the platform, then a name derived from the address or the identity.
fn hostname(machine: &Machine, config: Option<&Config>, identity: &[u8; 32]) -> String {
    if let Some(name) = config.and_then(Config::hostname) {
        return name;
    }
    let platform = machine.network.as_ref().and_then(|network| network.hostname.clone());
    let serial = machine.smbios_serial.split(';').find_map(|part| part.strip_prefix("h=")).map(str::to_owned);
    if let Some(name) = platform.or(serial).filter(|name| !name.is_empty()) {
        return name;
    }
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let digit = |index: usize| char::from(DIGITS[usize::from(identity[index]) % 36]);
    let part = |from: usize| (from..from + 3).map(digit).collect::<String>();
    format!("talos-{}-{}", part(0), part(3))
}
