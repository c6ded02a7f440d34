//! The hypervisors as they are now: one look, then pure decisions.

use std::collections::BTreeMap;

use futures::future::try_join_all;
use proxmox::{Client, Error, cluster::Resource, error::Kind, nodes::Interface, storage::Storage};

/// Hosts and guests at one moment.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Hosts by name.
    pub hosts: BTreeMap<String, Host>,
    /// Every guest of the cluster that we may see, by VMID.
    pub guests: BTreeMap<u32, Guest>,
}

/// A hypervisor.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Whether it can be given work.
    pub available: bool,
    /// `offline`, `in maintenance`, … for people.
    pub state: String,
    /// Cores.
    pub cores: f64,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of memory in use, by whatever.
    pub memory_used: u64,
    /// Storages that it can use, by name.
    pub storages: BTreeMap<String, Storage>,
    /// Bridges and VNets that it has, by name.
    pub bridges: BTreeMap<String, Interface>,
}

/// A guest, ours or not.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its name, if Proxmox knows it already.
    pub name: Option<String>,
    /// Its host.
    pub host: String,
    /// Whether it uses memory.
    pub on: bool,
    /// Bytes of memory that it may use.
    pub memory: u64,
    /// Virtual CPUs.
    pub cpus: f64,
    /// Whether it can be cloned and not started.
    pub template: bool,
}

impl World {
    /// Asks Proxmox about everything that placement needs. A host that stops answering meanwhile counts as unavailable.
    pub async fn look(client: &Client) -> Result<Self, Error> {
        let rows = client.resources().await?;
        let mut world = Self::default();
        for row in rows.iter() {
            match row.kind.as_str() {
                "node" => world.add_host(row),
                "qemu" | "lxc" => world.add_guest(row),
                _ => {}
            }
        }
        let available = world.hosts.iter_mut().filter(|(_, host)| host.available);
        try_join_all(available.map(|(name, host)| look_at(client, name, host))).await?;
        Ok(world)
    }

    fn add_host(&mut self, row: &Resource) {
        let Some(name) = row.node.clone() else { return };
        let status = row.status.clone().unwrap_or_else(|| "unknown".into());
        let maintenance = row.hastate.as_deref() == Some("maintenance");
        let host = Host {
            available: status == "online" && !maintenance,
            state: if maintenance { "in maintenance".into() } else { status },
            cores: row.maxcpu.unwrap_or_default(),
            memory: row.maxmem.unwrap_or_default(),
            memory_used: row.mem.unwrap_or_default(),
            ..Host::default()
        };
        self.hosts.insert(name, host);
    }

    fn add_guest(&mut self, row: &Resource) {
        let (Some(vmid), Some(host)) = (row.vmid, row.node.clone()) else { return };
        let guest = Guest {
            name: row.name.clone(),
            host,
            on: !row.template && row.status.as_deref() != Some("stopped"),
            memory: row.maxmem.unwrap_or_default(),
            cpus: row.maxcpu.unwrap_or_default(),
            template: row.template,
        };
        self.guests.insert(vmid, guest);
    }
}

async fn look_at(client: &Client, name: &str, host: &mut Host) -> Result<(), Error> {
    match tokio::try_join!(client.storages(name), client.bridges(name)) {
        Ok((storages, bridges)) => {
            host.storages = storages.into_iter().map(|storage| (storage.storage.clone(), storage)).collect();
            let bridges = bridges.into_iter().filter(Interface::is_bridge);
            host.bridges = bridges.map(|bridge| (bridge.iface.clone(), bridge)).collect();
            Ok(())
        }
        Err(error) if error.kind == Kind::NodeOffline => {
            host.available = false;
            host.state = "offline".into();
            Ok(())
        }
        Err(error) => Err(error),
    }
}
