//! On which host each new machine goes: a pure decision over one look at the world.

use std::collections::{BTreeMap, BTreeSet};

use messages::{name::ClusterName, request::Role};

use proxmox::storage::Storage;

use crate::{
    config::Placement,
    world::{Host, World},
};

/// A machine that needs a host.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Its name, for the reasons.
    pub name: String,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Control planes of one cluster are kept apart.
    pub role: Role,
    /// Bytes of memory.
    pub memory: u64,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Bytes by storage, all disks together.
    pub disks: BTreeMap<String, u64>,
    /// What its NICs are attached to.
    pub wires: BTreeSet<Wire>,
    /// Where its system disk comes from.
    pub source: Source,
    /// Only these hosts; empty means any.
    pub hosts: Vec<String>,
}

/// What a NIC needs of a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wire {
    /// Bridge or VNet.
    pub bridge: String,
    /// VLAN tag.
    pub vlan: Option<u16>,
    /// MTU in bytes; 1 means the bridge's.
    pub mtu: Option<u16>,
}

impl Wire {
    /// Why a host does not carry it; `None` if it does.
    fn refusal(&self, host: &Host) -> Option<String> {
        let Self { bridge, vlan, mtu } = self;
        let Some(found) = host.bridges.get(bridge) else { return Some(format!("has no bridge {bridge}")) };
        if let Some(vlan) = vlan.filter(|vlan| !found.carries_vlan(*vlan)) {
            return Some(format!("does not carry VLAN {vlan} on {bridge}"));
        }
        // QEMU does not start with a larger MTU; a bridge that states none has that of its port.
        let (mtu, most) = (u64::from((*mtu)?), found.mtu?);
        (mtu > most).then(|| format!("has an MTU of {most} on {bridge}, not {mtu}"))
    }
}

/// Where a system disk comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// From wherever the host is.
    #[default]
    Anywhere,
    /// From a file on this storage, which must take content type `import` there.
    ImportFrom(String),
    /// From a template that only these hosts can clone.
    TemplateOn(BTreeSet<String>),
}

impl Source {
    fn refusal(&self, name: &str, host: &Host) -> Option<String> {
        match self {
            Self::Anywhere => None,
            Self::TemplateOn(hosts) => (!hosts.contains(name)).then(|| "has no template of the image".to_owned()),
            Self::ImportFrom(storage) => {
                let usable = |row: &Storage| row.enabled && row.active && row.takes("import");
                let found = host.storages.get(storage).is_some_and(usable);
                (!found).then(|| format!("has no storage {storage} for images"))
            }
        }
    }
}

/// A machine that has its host already, reserved or running.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its VMID: a VM that Proxmox already counts is not counted twice.
    pub vmid: u32,
    /// Its host.
    pub host: String,
    /// What it holds there.
    pub ask: Ask,
    /// Whether its disks exist and are part of what the storage reports as used.
    pub disks_exist: bool,
}

/// Why no host will do, host by host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no host has room for {machine}: {}", .reasons.join("; "))]
pub struct NoRoom {
    /// The machine that found none.
    pub machine: String,
    /// One sentence per host.
    pub reasons: Vec<String>,
}

/// What is left on a host.
#[derive(Clone, Debug)]
struct Room {
    memory: i128,
    cpus: f64,
    whole_memory: u64,
}

/// A host for each of `asks`, in their order.
///
/// Storage on several hosts is one room: a shared storage is counted once.
pub fn place(world: &World, held: &[Held], asks: &[Ask], rules: &Placement) -> Result<Vec<String>, NoRoom> {
    let mut plan = Plan::new(world, held, rules);
    asks.iter().map(|ask| plan.take(ask)).collect()
}

struct Plan<'a> {
    world: &'a World,
    rules: &'a Placement,
    rooms: BTreeMap<String, Room>,
    storages: BTreeMap<String, i128>,
    placed: Vec<(String, ClusterName, Role)>,
}

impl<'a> Plan<'a> {
    fn new(world: &'a World, held: &[Held], rules: &'a Placement) -> Self {
        let keep = |whole: u64, percent: u8| i128::from(whole) * i128::from(percent) / 100;
        let mut rooms = BTreeMap::new();
        let mut storages = BTreeMap::new();
        for (name, host) in &world.hosts {
            let guests = || world.guests.values().filter(|guest| guest.host == *name && guest.on);
            let promised: u64 = guests().map(|guest| guest.memory).sum();
            let used = i128::from(promised.max(host.memory_used));
            let memory = i128::from(host.memory) - keep(host.memory, rules.memory_headroom_percent) - used;
            let cpus = host.cores * rules.cpu_overcommit - guests().map(|guest| guest.cpus).sum::<f64>();
            rooms.insert(name.clone(), Room { memory, cpus, whole_memory: host.memory });
            for storage in host.storages.values() {
                let free = i128::from(storage.avail.unwrap_or_default());
                let free = free - keep(storage.total.unwrap_or_default(), rules.storage_headroom_percent);
                storages.insert(storage_key(name, &storage.storage, storage.shared), free);
            }
        }
        let mut plan = Self { world, rules, rooms, storages, placed: Vec::new() };
        for held in held {
            let counted = world.guests.get(&held.vmid).is_some_and(|guest| guest.on);
            plan.subtract(&held.host, &held.ask, !counted, !held.disks_exist);
        }
        plan
    }

    fn take(&mut self, ask: &Ask) -> Result<String, NoRoom> {
        let mut reasons = Vec::new();
        let mut best: Option<(Rank, String)> = None;
        let apart = self.hosts_without_control_plane(ask);
        for name in self.world.hosts.keys() {
            match self.refusal(name, ask, &apart) {
                Some(reason) => reasons.push(format!("{name} {reason}")),
                None => {
                    let rank = self.rank(name, ask);
                    if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                        best = Some((rank, name.clone()));
                    }
                }
            }
        }
        let Some((_, host)) = best else {
            if reasons.is_empty() {
                reasons.push("Proxmox shows no host".to_owned());
            }
            return Err(NoRoom { machine: ask.name.clone(), reasons });
        };
        self.subtract(&host, ask, true, true);
        Ok(host)
    }

    /// Usable hosts that hold no control plane of the cluster yet: as long as there is one, they are kept apart.
    fn hosts_without_control_plane(&self, ask: &Ask) -> BTreeSet<String> {
        if ask.role != Role::ControlPlane {
            return BTreeSet::new();
        }
        let usable = self.world.hosts.iter().filter(|(name, host)| host.available && self.admits(name, ask));
        usable.map(|(name, _)| name.clone()).filter(|name| self.count(name, ask, true) == 0).collect()
    }

    fn admits(&self, name: &str, ask: &Ask) -> bool {
        let pinned = ask.hosts.iter().any(|host| host == name);
        if ask.hosts.is_empty() { !self.rules.avoid_hosts.iter().any(|host| host == name) } else { pinned }
    }

    /// Why this host will not do; `None` if it will.
    fn refusal(&self, name: &str, ask: &Ask, apart: &BTreeSet<String>) -> Option<String> {
        let host = &self.world.hosts[name];
        let room = &self.rooms[name];
        if !self.admits(name, ask) {
            return Some(
                if ask.hosts.is_empty() { "is to be avoided" } else { "is not among the pool's hosts" }.into(),
            );
        }
        if !host.available {
            return Some(format!("is {}", host.state));
        }
        if !apart.is_empty() && !apart.contains(name) {
            return Some("holds a control plane of the cluster already".into());
        }
        let cannot = ask.wires.iter().find_map(|wire| wire.refusal(host)).or_else(|| ask.source.refusal(name, host));
        if cannot.is_some() {
            return cannot;
        }
        let lacks = i128::from(ask.memory) - room.memory;
        if lacks > 0 {
            return Some(format!("lacks {} of memory", gib(lacks)));
        }
        if f64::from(ask.cpus) > room.cpus {
            return Some(format!("lacks {:.0} virtual CPUs", f64::from(ask.cpus) - room.cpus));
        }
        for (storage, bytes) in &ask.disks {
            let Some(row) = host.storages.get(storage).filter(|row| row.enabled && row.takes("images")) else {
                return Some(format!("has no storage {storage} for disks"));
            };
            if !row.active {
                return Some(format!("cannot reach storage {storage}"));
            }
            let free = self.storages[&storage_key(name, storage, row.shared)];
            if i128::from(*bytes) > free {
                return Some(format!("lacks {} on storage {storage}", gib(i128::from(*bytes) - free)));
            }
        }
        None
    }

    /// Smaller is better: spread the cluster, then the load.
    fn rank(&self, name: &str, ask: &Ask) -> Rank {
        let room = &self.rooms[name];
        let left = room.memory - i128::from(ask.memory);
        let per_mille = left * 1000 / i128::from(room.whole_memory.max(1));
        Rank {
            same_role: self.count(name, ask, true),
            same_cluster: self.count(name, ask, false),
            fullness: -per_mille,
        }
    }

    fn count(&self, name: &str, ask: &Ask, same_role: bool) -> usize {
        let alike = |(host, cluster, role): &&(String, ClusterName, Role)| {
            host == name && *cluster == ask.cluster && (!same_role || *role == ask.role)
        };
        self.placed.iter().filter(alike).count()
    }

    fn subtract(&mut self, host: &str, ask: &Ask, load: bool, disks: bool) {
        self.placed.push((host.to_owned(), ask.cluster.clone(), ask.role));
        if let Some(room) = self.rooms.get_mut(host).filter(|_| load) {
            room.memory -= i128::from(ask.memory);
            room.cpus -= f64::from(ask.cpus);
        }
        for (storage, bytes) in ask.disks.iter().filter(|_| disks) {
            let shared =
                self.world.hosts.get(host).and_then(|host| host.storages.get(storage)).is_some_and(|s| s.shared);
            if let Some(free) = self.storages.get_mut(&storage_key(host, storage, shared)) {
                *free -= i128::from(*bytes);
            }
        }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    same_role: usize,
    same_cluster: usize,
    fullness: i128,
}

fn storage_key(host: &str, storage: &str, shared: bool) -> String {
    if shared { format!("*/{storage}") } else { format!("{host}/{storage}") }
}

fn gib(bytes: i128) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::world::Guest;

    const GIB: u64 = 1 << 30;

    fn world(hosts: &[(&str, u64)]) -> World {
        let host = |memory: u64| Host {
            available: true,
            state: "online".into(),
            cores: 16.0,
            memory: memory * GIB,
            storages: BTreeMap::from([(
                "local-lvm".to_owned(),
                serde_json::from_value(serde_json::json!({
                    "storage": "local-lvm", "type": "lvmthin", "content": "images,rootdir", "active": 1, "enabled": 1,
                    "avail": 500 * GIB, "total": 500 * GIB,
                }))
                .unwrap(),
            )]),
            bridges: BTreeMap::from([(
                "vmbr0".to_owned(),
                serde_json::from_value(serde_json::json!({"iface": "vmbr0", "type": "bridge", "active": 1})).unwrap(),
            )]),
            ..Host::default()
        };
        World {
            hosts: hosts.iter().map(|(name, memory)| ((*name).to_owned(), host(*memory))).collect(),
            guests: BTreeMap::new(),
        }
    }

    fn ask(name: &str, role: Role, gib: u64) -> Ask {
        Ask {
            name: name.to_owned(),
            cluster: "prod".parse().unwrap(),
            role,
            memory: gib * GIB,
            cpus: 2,
            disks: BTreeMap::from([("local-lvm".to_owned(), 40 * GIB)]),
            wires: BTreeSet::from([wire(None, None)]),
            source: Source::Anywhere,
            hosts: Vec::new(),
        }
    }

    fn wire(vlan: Option<u16>, mtu: Option<u16>) -> Wire {
        Wire { bridge: "vmbr0".into(), vlan, mtu }
    }

    fn check(world: &World, held: &[Held], asks: &[Ask]) -> Result<Vec<String>, String> {
        place(world, held, asks, &Placement::default()).map_err(|none| none.to_string())
    }

    #[test]
    fn control_planes_go_apart_and_workers_spread() {
        let asks: Vec<_> = [("cp-1", Role::ControlPlane), ("cp-2", Role::ControlPlane), ("cp-3", Role::ControlPlane)]
            .into_iter()
            .chain([("w-1", Role::Worker), ("w-2", Role::Worker), ("w-3", Role::Worker)])
            .map(|(name, role)| ask(name, role, 8))
            .collect();
        let hosts = check(&world(&[("pve1", 64), ("pve2", 64), ("pve3", 64)]), &[], &asks).unwrap();
        for three in hosts.chunks(3) {
            assert_eq!(three.iter().collect::<BTreeSet<_>>().len(), 3, "{hosts:?}");
        }
    }

    #[test]
    fn a_control_plane_waits_rather_than_sharing_a_host_that_could_be_avoided() {
        let asks = [ask("cp-1", Role::ControlPlane, 8), ask("cp-2", Role::ControlPlane, 8)];
        let error = check(&world(&[("pve1", 64), ("pve2", 4)]), &[], &asks).unwrap_err();
        assert_eq!(
            error,
            "no host has room for cp-2: pve1 holds a control plane of the cluster already; pve2 lacks 4.4 GiB of memory"
        );
        assert_eq!(check(&world(&[("pve1", 64)]), &[], &asks).unwrap(), ["pve1", "pve1"], "one host is all there is");
    }

    #[test]
    fn a_host_that_is_offline_avoided_or_without_the_bridge_gets_nothing() {
        let mut world = world(&[("pve1", 64), ("pve2", 64)]);
        world.hosts.get_mut("pve1").unwrap().available = false;
        world.hosts.get_mut("pve1").unwrap().state = "offline".into();
        assert_eq!(check(&world, &[], &[ask("w", Role::Worker, 8)]).unwrap(), ["pve2"]);
        world.hosts.get_mut("pve2").unwrap().bridges.clear();
        let error = check(&world, &[], &[ask("w", Role::Worker, 8)]).unwrap_err();
        assert_eq!(error, "no host has room for w: pve1 is offline; pve2 has no bridge vmbr0");
    }

    #[test]
    fn a_host_that_lacks_vlan_mtu_image_storage_or_template_gets_nothing() {
        let mut world = world(&[("pve1", 64), ("pve2", 64)]);
        let bridge = |name: &str| json!({"iface": name, "type": "bridge", "active": 1, "bridge_vlan_aware": 1, "bridge_vids": "2-100", "mtu": 1500});
        let narrow = serde_json::from_value(bridge("vmbr0")).unwrap();
        world.hosts.get_mut("pve1").unwrap().bridges.insert("vmbr0".into(), narrow);
        let only = |change: &dyn Fn(&mut Ask)| {
            let mut ask = ask("w", Role::Worker, 8);
            change(&mut ask);
            check(&world, &[], &[ask])
        };
        assert_eq!(only(&|ask| ask.wires = BTreeSet::from([wire(Some(200), None)])).unwrap(), ["pve2"]);
        assert_eq!(only(&|ask| ask.wires = BTreeSet::from([wire(None, Some(9000))])).unwrap(), ["pve2"]);
        assert_eq!(only(&|ask| ask.source = Source::TemplateOn(BTreeSet::from(["pve2".into()]))).unwrap(), ["pve2"]);
        assert_eq!(
            only(&|ask| ask.source = Source::ImportFrom("local-lvm".into())).unwrap_err(),
            "no host has room for w: pve1 has no storage local-lvm for images; pve2 has no storage local-lvm for images"
        );
        let mut both = ask("w", Role::Worker, 8);
        both.hosts = vec!["pve1".into()];
        both.wires = BTreeSet::from([wire(Some(200), None)]);
        let error = check(&world, &[], &[both]).unwrap_err();
        assert_eq!(
            error,
            "no host has room for w: pve1 does not carry VLAN 200 on vmbr0; pve2 is not among the pool's hosts"
        );
    }

    #[test]
    fn what_is_reserved_but_not_yet_running_is_counted_once() {
        let mut world = world(&[("pve1", 64)]);
        let held = Held { vmid: 100, host: "pve1".into(), ask: ask("w-1", Role::Worker, 40), disks_exist: false };
        assert!(check(&world, std::slice::from_ref(&held), &[ask("w-2", Role::Worker, 24)]).is_err());
        let guest = Guest { name: None, host: "pve1".into(), on: true, memory: 40 * GIB, cpus: 2.0, template: false };
        world.guests.insert(100, guest);
        assert!(check(&world, &[held], &[ask("w-2", Role::Worker, 16)]).is_ok());
    }

    #[test]
    fn a_pin_is_honoured_even_where_another_host_is_emptier() {
        let mut pinned = ask("w", Role::Worker, 8);
        pinned.hosts = vec!["pve1".into()];
        assert_eq!(check(&world(&[("pve1", 32), ("pve2", 512)]), &[], &[pinned]).unwrap(), ["pve1"]);
    }
}
