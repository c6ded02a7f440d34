//! `/nodes`: hosts, their load and their bridges.

use serde::Deserialize;

use crate::{
    Client, Result,
    form::{self, Params},
    lenient,
};

/// A row of `/nodes`. Usage needs `Sys.Audit` on the node, otherwise it is absent.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    /// Its name.
    pub node: String,
    /// `online`, `offline` or `unknown`.
    pub status: String,
    /// Cores.
    #[serde(default, deserialize_with = "lenient::opt_u64")]
    pub maxcpu: Option<u64>,
    /// Bytes.
    #[serde(default, deserialize_with = "lenient::opt_u64")]
    pub maxmem: Option<u64>,
    /// Bytes in use.
    #[serde(default, deserialize_with = "lenient::opt_u64")]
    pub mem: Option<u64>,
    /// SHA-256 of its certificate.
    #[serde(default)]
    pub ssl_fingerprint: Option<String>,
}

impl Node {
    /// Whether it can be given work.
    pub fn is_online(&self) -> bool {
        self.status == "online"
    }
}

/// A row of `/nodes/N/network`.
#[derive(Clone, Debug, Deserialize)]
pub struct Interface {
    /// Its name.
    pub iface: String,
    /// `bridge`, `bond`, `eth`, `OVSBridge`, `vnet`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it is up.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub active: bool,
    /// Whether a Linux bridge passes VLAN tags on.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub bridge_vlan_aware: bool,
    /// Which tags, for example `2-4094`; absent means all.
    #[serde(default)]
    pub bridge_vids: Option<String>,
    /// MTU if configured.
    #[serde(default, deserialize_with = "lenient::opt_u64")]
    pub mtu: Option<u64>,
    /// Address with prefix length if it has one.
    #[serde(default)]
    pub cidr: Option<String>,
}

impl Interface {
    /// Whether VMs can be attached to it.
    pub fn is_bridge(&self) -> bool {
        matches!(self.kind.as_str(), "bridge" | "OVSBridge" | "vnet")
    }

    /// Whether a NIC with this VLAN tag works. A bridge that is not VLAN-aware still takes tags: Proxmox then makes a
    /// bridge per tag, which needs a physical port; only a restricting list of tags says no.
    pub fn carries_vlan(&self, tag: u16) -> bool {
        let Some(list) = self.bridge_vids.as_deref().filter(|_| self.bridge_vlan_aware) else { return true };
        list.split([' ', ',', ';']).filter(|part| !part.is_empty()).any(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&tag))
        })
    }
}

impl Client {
    /// All hosts of the cluster.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        self.get("/nodes", &Params::default()).await
    }

    /// Bridges that VMs of `node` can use, SDN VNets included.
    pub async fn bridges(&self, node: &str) -> Result<Vec<Interface>> {
        let params = Params::default().with("type", "any_bridge");
        self.get(&form::path(&["nodes", node, "network"]), &params).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_list_of_tags_restricts_them() {
        let bridge = |aware: u8, vids: Option<&str>| -> Interface {
            serde_json::from_value(serde_json::json!({
                "iface": "vmbr0", "type": "bridge", "active": "1", "bridge_vlan_aware": aware, "bridge_vids": vids,
            }))
            .unwrap()
        };
        assert!(bridge(1, Some("2-100 200")).carries_vlan(200));
        assert!(!bridge(1, Some("2-100 200")).carries_vlan(101));
        assert!(bridge(1, None).carries_vlan(4094));
        assert!(bridge(0, None).carries_vlan(7));
    }
}
