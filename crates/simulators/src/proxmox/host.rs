//! One Proxmox VE node: its hardware, its bridges, and whether it has power.

use std::time::Instant;

/// A node of the simulated cluster.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) id: u32,
    pub(crate) ip: String,
    pub(crate) cpus: u32,
    pub(crate) memory: u64,
    pub(crate) bridges: Vec<Bridge>,
    pub(crate) power: HostPower,
    /// Whether the status daemon still broadcasts.
    pub(crate) reports: bool,
    /// When the status daemon was heard last.
    pub(crate) broadcast: Option<Instant>,
    /// Whether the HA manager has it in maintenance.
    pub(crate) maintenance: bool,
}

/// Whether a node runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum HostPower {
    On { since: Instant },
    Off { since: Instant },
}

/// A Linux bridge of a node.
#[derive(Clone, Debug)]
pub struct Bridge {
    pub name: String,
    pub ports: String,
    pub vlan_aware: bool,
    pub mtu: Option<u32>,
}

impl Bridge {
    /// A VLAN-aware bridge with the default MTU.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ports: "eno1".to_owned(), vlan_aware: true, mtu: None }
    }
}

impl Host {
    pub(crate) fn is_online(&self) -> bool {
        matches!(self.power, HostPower::On { .. })
    }

    /// Seconds since the node booted; zero while it is off.
    pub(crate) fn uptime(&self) -> u64 {
        match self.power {
            HostPower::On { since } => since.elapsed().as_secs() + 86_400,
            HostPower::Off { .. } => 0,
        }
    }
}
