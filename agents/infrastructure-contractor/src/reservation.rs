//! Choosing names, VMIDs, MACs, UUIDs, addresses and hosts for new machines, so that two flows never share one.
//!
//! Choosing is a look at the inventory and the hypervisors, one flow at a time; the choice is claimed until it is committed
//! with the step's result, under "absent" preconditions: what two flows chose all the same, the second chooses again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use contractor::action::StepError;
use futures::future::try_join_all;
use jiff::Timestamp;
use messages::{
    name::{ClusterName, NodeName, PoolName},
    request::{Pool, ProvisionCluster},
};
use proxmox::{VmId, config::Mac};
use store::{InventoryChange, Reader};
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use crate::{
    Deps, addresses,
    claims::{Choice, Claim},
    config::{Images, Method, NodeNetwork},
    failure,
    inventory::{
        ClusterNetwork, Image, Lease, Machine, MachineDisk, MachineNic, TakenVmid, Vm, VmState, address_key, vm_key,
        vmid_key,
    },
    placement::{self, Ask, Held, Source, Wire},
    probe,
    world::World,
};

/// What is taken, here and at the hypervisors. Until its choice is claimed, nobody else chooses.
pub(crate) struct Ground {
    world: Arc<World>,
    vms: Vec<Arc<Vm>>,
    /// What machines need that are in nobody's inventory yet.
    claimed: Vec<Held>,
    addresses: BTreeSet<IpAddr>,
    vmids: BTreeSet<u32>,
    choice: Choice,
    turn: Option<OwnedMutexGuard<()>>,
    claim: Option<Claim>,
}

/// The machines to choose for.
pub(crate) struct Wanted<'a> {
    pub(crate) cluster: &'a ClusterName,
    pub(crate) cluster_uid: Uuid,
    pub(crate) network: &'a ClusterNetwork,
    pub(crate) image: &'a Image,
    pub(crate) flow: Uuid,
    /// Pools with the numbers of the nodes to make.
    pub(crate) pools: Vec<(&'a Pool, Vec<u32>)>,
}

impl Ground {
    /// Looks at the inventory and the hypervisors. What plans of other clusters have shown counts as taken.
    pub(crate) async fn survey(deps: &Deps, reader: &Reader, cluster: &ClusterName) -> Result<Self, StepError> {
        let world = deps.world().await.map_err(|error| failure::of(&error))?;
        let turn = Some(deps.claims.turn().await);
        let choices = deps.claims.choices();
        let vms = deps.machines(reader).map_err(failure::read)?;
        let known: BTreeSet<u32> = vms.iter().map(|vm| vm.machine.vmid).collect();
        let claimed = choices.iter().flat_map(|choice| &choice.machines);
        let claimed = claimed.filter(|held| !known.contains(&held.vmid)).cloned().collect();
        let (proposed_vmids, proposed_addresses) = deps.proposals.of_others(cluster);
        let mut vmids: BTreeSet<u32> = world.guests.keys().copied().chain(proposed_vmids).collect();
        vmids.extend(choices.iter().flat_map(|choice| &choice.vmids));
        vmids.extend(tails::<u32>(reader, "vmid/")?);
        vmids.extend(tails::<u32>(reader, "quarantine/vmid/")?);
        let mut addresses: BTreeSet<IpAddr> = proposed_addresses.into_iter().collect();
        addresses.extend(choices.iter().flat_map(|choice| &choice.addresses));
        addresses.extend(tails::<IpAddr>(reader, "address/")?);
        addresses.extend(tails::<IpAddr>(reader, "quarantine/address/")?);
        for network in &deps.sections.network {
            addresses.insert(network.gateway);
            addresses.extend(&network.dns_servers);
            addresses.extend(addresses::edges(&network.cidr));
        }
        Ok(Self { world, vms, claimed, addresses, vmids, choice: Choice::default(), turn, claim: None })
    }

    /// What keeps others from what was chosen; to be held until that is in the inventory.
    pub(crate) fn into_claim(self) -> Option<Claim> {
        self.claim
    }

    /// The machines of a pool, by number.
    pub(crate) fn numbers(&self, cluster: &ClusterName, pool: &Pool) -> BTreeSet<u32> {
        let prefix = node_prefix(cluster, &pool.name);
        let own = self.vms.iter().filter(|vm| vm.machine.cluster == *cluster && vm.machine.pool == pool.name);
        own.filter_map(|vm| vm.machine.hostname.as_str().strip_prefix(&prefix)?.parse().ok()).collect()
    }

    /// The numbers under which guests of others carry names of the pool.
    pub(crate) fn foreign_numbers(&self, cluster: &ClusterName, pool: &Pool) -> BTreeSet<u32> {
        let prefix = node_prefix(cluster, &pool.name);
        self.foreign_guests().filter_map(|(_, name)| name.strip_prefix(&prefix)?.parse().ok()).collect()
    }

    /// VMID and name of the guests that the inventory knows nothing of.
    fn foreign_guests(&self) -> impl Iterator<Item = (u32, &str)> {
        let ours: BTreeSet<u32> = self.vms.iter().map(|vm| vm.machine.vmid).collect();
        let foreign = self.world.guests.iter().filter(move |(vmid, _)| !ours.contains(vmid));
        foreign.filter_map(|(vmid, guest)| Some((*vmid, guest.name.as_deref()?)))
    }

    /// A guest of somebody else that has a machine's name already.
    fn refuse_namesakes(&self, names: &[&NodeName]) -> Result<(), StepError> {
        let Some((vmid, name)) = self.foreign_guests().find(|(_, name)| names.iter().any(|own| own.as_str() == *name))
        else {
            return Ok(());
        };
        let host = self.world.guests.get(&vmid).map(|guest| guest.host.as_str()).unwrap_or_default();
        let message = format!("VM {vmid} on {host} is called {name} already and is not ours");
        Err(StepError::fail(message).with_hint("rename or remove that VM, or give the cluster another name"))
    }

    /// `count` free addresses of `network`, not tried yet. They count as taken from now on.
    pub(crate) fn pick_addresses(
        &mut self,
        deps: &Deps,
        network: &NodeNetwork,
        count: usize,
    ) -> Result<Vec<IpAddr>, StepError> {
        let free = addresses::free(&network.ranges, &network.exclude, &self.addresses);
        let picked: Vec<IpAddr> = free.take(count).collect();
        if picked.len() < count {
            let reason =
                format!("network {} has {} free addresses of {count} that are needed", network.name, picked.len());
            return Err(StepError::no_capacity(reason, look_again(deps)));
        }
        self.note(&[], &picked);
        Ok(picked)
    }

    /// An address that was asked for by name, not tried yet. It counts as taken from now on.
    pub(crate) fn pick_this_address(&mut self, address: IpAddr) -> Result<IpAddr, StepError> {
        if self.addresses.contains(&address) {
            return Err(taken(address));
        }
        self.note(&[], &[address]);
        Ok(address)
    }

    /// Addresses at which nobody answers: those of `picked`, or others in their place.
    pub(crate) async fn confirm_addresses(
        &mut self,
        deps: &Deps,
        network: &NodeNetwork,
        mut picked: Vec<IpAddr>,
    ) -> Result<Vec<IpAddr>, StepError> {
        let count = picked.len();
        let mut confirmed = Vec::new();
        loop {
            let busy = if network.probe { probe::in_use(&picked).await } else { Vec::new() };
            confirmed.extend(picked.into_iter().filter(|address| !busy.contains(address)));
            if confirmed.len() == count {
                return Ok(confirmed);
            }
            let _turn = self.turn_again(deps).await;
            picked = self.pick_addresses(deps, network, count - confirmed.len())?;
        }
    }

    /// The address that was asked for by name, if nobody answers there.
    pub(crate) async fn confirm_this_address(&self, network: &NodeNetwork, address: IpAddr) -> Result<(), StepError> {
        let busy = network.probe && !probe::in_use(&[address]).await.is_empty();
        if busy { Err(taken(address)) } else { Ok(()) }
    }

    /// A free VMID, confirmed by Proxmox.
    pub(crate) async fn take_vmid(&mut self, deps: &Deps) -> Result<Option<u32>, StepError> {
        let picked = self.pick_vmids(deps, 1)?;
        self.claim(deps);
        Ok(self.confirm_vmids(deps, picked).await?.pop())
    }

    fn pick_vmids(&mut self, deps: &Deps, count: usize) -> Result<Vec<u32>, StepError> {
        let machines = &deps.sections.machines;
        let free = (machines.first_vmid..=machines.last_vmid).filter(|id| !self.vmids.contains(id));
        let picked: Vec<u32> = free.take(count).collect();
        if picked.len() < count {
            let reason = format!(
                "of the VMIDs {}-{} {} are free, {count} are needed",
                machines.first_vmid,
                machines.last_vmid,
                picked.len()
            );
            return Err(StepError::no_capacity(reason, look_again(deps)));
        }
        self.note(&picked, &[]);
        Ok(picked)
    }

    /// VMIDs that Proxmox has no guest under: those of `picked`, or others in their place.
    async fn confirm_vmids(&mut self, deps: &Deps, mut picked: Vec<u32>) -> Result<Vec<u32>, StepError> {
        let count = picked.len();
        let mut confirmed = Vec::new();
        loop {
            let answers = try_join_all(picked.iter().map(|id| deps.proxmox.is_free(VmId(*id)))).await;
            let answers = answers.map_err(|error| failure::of(&error))?;
            confirmed.extend(picked.into_iter().zip(answers).filter(|(_, free)| *free).map(|(id, _)| id));
            if confirmed.len() == count {
                return Ok(confirmed);
            }
            let _turn = self.turn_again(deps).await;
            picked = self.pick_vmids(deps, count - confirmed.len())?;
        }
    }

    /// What was picked counts as taken from now on, here and, once there is a claim, for others.
    fn note(&mut self, vmids: &[u32], addresses: &[IpAddr]) {
        self.vmids.extend(vmids);
        self.addresses.extend(addresses);
        match &self.claim {
            Some(claim) => claim.add(vmids, addresses),
            None => {
                self.choice.vmids.extend(vmids);
                self.choice.addresses.extend(addresses);
            }
        }
    }

    /// Claims what was picked; others may choose from now on.
    fn claim(&mut self, deps: &Deps) {
        self.claim = Some(deps.claims.claim(std::mem::take(&mut self.choice)));
        self.turn = None;
    }

    /// To pick once more after the claim; what others claimed meanwhile counts as taken.
    async fn turn_again(&mut self, deps: &Deps) -> OwnedMutexGuard<()> {
        let turn = deps.claims.turn().await;
        for choice in deps.claims.choices() {
            self.vmids.extend(choice.vmids);
            self.addresses.extend(choice.addresses);
        }
        turn
    }

    /// Decides everything about the machines of `wanted`, and claims it.
    pub(crate) async fn choose(
        &mut self,
        deps: &Deps,
        network: &NodeNetwork,
        wanted: &Wanted<'_>,
        uid: &(dyn Fn(&str) -> Uuid + Sync),
    ) -> Result<Vec<Machine>, StepError> {
        let mut drafts = Vec::new();
        for (pool, numbers) in &wanted.pools {
            for number in numbers {
                let name = node_name(wanted.cluster, &pool.name, *number);
                let hostname: NodeName = name.parse().map_err(|error| StepError::fail(format!("{name}: {error}")))?;
                drafts.push((*pool, hostname));
            }
        }
        self.refuse_namesakes(&drafts.iter().map(|(_, name)| name).collect::<Vec<_>>())?;
        let asks: Vec<Ask> = drafts.iter().map(|(pool, name)| ask(deps, wanted, pool, name)).collect();
        let held: Vec<Held> = self.vms.iter().map(|vm| hold(vm)).chain(self.claimed.iter().cloned()).collect();
        let hosts = placement::place(&self.world, &held, &asks, &deps.sections.placement)
            .map_err(|none| StepError::no_capacity(none.to_string(), look_again(deps)))?;
        let vmids = self.pick_vmids(deps, drafts.len())?;
        let addresses = self.pick_addresses(deps, network, drafts.len())?;
        let placed = asks.into_iter().zip(&hosts).zip(&vmids);
        self.choice.machines = placed
            .map(|((ask, host), vmid)| Held { vmid: *vmid, host: host.clone(), ask, disks_exist: false })
            .collect();
        self.claim(deps);
        let vmids = self.confirm_vmids(deps, vmids).await?;
        let addresses = self.confirm_addresses(deps, network, addresses).await?;
        let mut macs: BTreeSet<Mac> =
            self.vms.iter().flat_map(|vm| vm.machine.nics.iter().map(|nic| nic.mac)).collect();
        let chosen = drafts.into_iter().zip(hosts).zip(vmids).zip(addresses);
        Ok(chosen
            .map(|((((pool, hostname), host), vmid), ip)| {
                let node_uid = uid(&format!("node {hostname}"));
                let storage = system_storage(deps, pool);
                let row = self.world.hosts.get(&host).and_then(|host| host.storages.get(&storage));
                Machine {
                    shared_storage: row.is_some_and(|row| row.shared),
                    node_uid,
                    cluster: wanted.cluster.clone(),
                    cluster_uid: wanted.cluster_uid,
                    pool: pool.name.clone(),
                    role: pool.role,
                    vmid,
                    host,
                    smbios_uuid: uid(&format!("smbios {hostname}")),
                    ip,
                    network: wanted.network.clone(),
                    nics: nics(wanted.network, pool, node_uid, &mut macs),
                    shape: pool.effective_shape(),
                    storage,
                    extra_disks: extra_disks(deps, pool),
                    image: wanted.image.clone(),
                    flow: wanted.flow,
                    hostname,
                }
            })
            .collect())
    }
}

fn taken(address: IpAddr) -> StepError {
    StepError::fail(format!("address {address} is in use or held already"))
}

/// How often room is looked for while there is none.
fn look_again(deps: &Deps) -> Duration {
    Duration::from_secs(deps.sections.placement.look_again_seconds)
}

/// The node network of a request: the configured one, with what the request says otherwise.
pub(crate) fn cluster_network(deps: &Deps, request: &ProvisionCluster) -> Result<ClusterNetwork, StepError> {
    let asked = request.network.clone().unwrap_or_default();
    let own = deps.sections.network(asked.name.as_deref());
    let own = own.ok_or_else(|| StepError::fail("the request names a network that is not configured"))?;
    Ok(ClusterNetwork {
        name: own.name.clone(),
        prefix: own.cidr.prefix_len(),
        gateway: own.gateway,
        dns_servers: if asked.dns_servers.is_empty() { own.dns_servers.clone() } else { asked.dns_servers },
        bridge: asked.bridge.unwrap_or_else(|| own.bridge.clone()),
        vlan: asked.vlan.or(own.vlan),
        mtu: asked.mtu.or(own.mtu),
        firewall: own.firewall,
    })
}

/// The configured network that a cluster's addresses come from.
pub(crate) fn node_network<'d>(deps: &'d Deps, name: &str) -> Result<&'d NodeNetwork, StepError> {
    let gone = || StepError::fail(format!("network {name} is not configured any more"));
    deps.sections.network(Some(name)).ok_or_else(gone)
}

/// The inventory changes that take what `machines` were given; each fails if another flow was faster.
pub(crate) fn claims(machines: &[Machine]) -> Vec<InventoryChange> {
    let mut changes = Vec::new();
    for machine in machines {
        let vm = Vm { machine: machine.clone(), state: VmState::Reserved, created: Timestamp::now() };
        let lease = Lease { cluster: machine.cluster.clone(), node_uid: Some(machine.node_uid), flow: machine.flow };
        let taken = TakenVmid { node_uid: machine.node_uid, flow: machine.flow };
        changes.push(InventoryChange::create(vm_key(machine.node_uid), json(&vm)));
        changes.push(InventoryChange::create(address_key(machine.ip), json(&lease)));
        changes.push(InventoryChange::create(vmid_key(machine.vmid), json(&taken)));
    }
    changes
}

/// The ids' rows when a machine that has none yet goes to another one.
pub(crate) fn moved(machine: &Machine, vmid: u32) -> Vec<InventoryChange> {
    let taken = TakenVmid { node_uid: machine.node_uid, flow: machine.flow };
    let mut changes = vec![InventoryChange::put(vmid_key(vmid), json(&taken))];
    if vmid != machine.vmid {
        changes.push(InventoryChange::delete(vmid_key(machine.vmid)));
    }
    changes
}

/// The inventory changes that give back what a machine held.
pub(crate) fn releases(machine: &Machine) -> Vec<InventoryChange> {
    vec![
        InventoryChange::delete(vm_key(machine.node_uid)),
        InventoryChange::delete(address_key(machine.ip)),
        InventoryChange::delete(vmid_key(machine.vmid)),
    ]
}

/// Name of a pool's node; VM name, hostname and Kubernetes Node name.
pub(crate) fn node_name(cluster: &ClusterName, pool: &PoolName, number: u32) -> String {
    format!("{}{number}", node_prefix(cluster, pool))
}

fn node_prefix(cluster: &ClusterName, pool: &PoolName) -> String {
    format!("{cluster}-{pool}-")
}

/// A record as the inventory takes it.
pub(crate) fn json<T: serde::Serialize>(record: &T) -> serde_json::Value {
    serde_json::to_value(record).expect("an inventory record has string keys only")
}

fn ask(deps: &Deps, wanted: &Wanted<'_>, pool: &Pool, name: &NodeName) -> Ask {
    let shape = pool.effective_shape();
    let system = system_storage(deps, pool);
    let extra = extra_disks(deps, pool);
    let own = Wire { bridge: wanted.network.bridge.clone(), vlan: wanted.network.vlan, mtu: wanted.network.mtu };
    let others = pool.extra_nics.iter();
    let others = others.map(|nic| Wire { bridge: nic.bridge.clone(), vlan: nic.vlan, mtu: nic.mtu });
    Ask {
        name: name.to_string(),
        cluster: wanted.cluster.clone(),
        role: pool.role,
        memory: u64::from(shape.memory_mib) << 20,
        cpus: shape.cpus,
        disks: disks(&system, shape.disk_gib, &extra),
        wires: std::iter::once(own).chain(others).collect(),
        source: source(&deps.sections.images, wanted.image),
        hosts: pool.hosts.clone(),
    }
}

/// Where the image comes from. That there is no template at all, only the image step can say with its hint.
fn source(images: &Images, image: &Image) -> Source {
    if images.method == Method::Import {
        return Source::ImportFrom(images.storage.clone());
    }
    let fitting: Vec<_> = images.templates.iter().filter(|template| template.holds(image)).collect();
    let hosts: Option<BTreeSet<String>> = fitting.iter().map(|template| template.host.clone()).collect();
    hosts.filter(|hosts| !hosts.is_empty()).map_or(Source::Anywhere, Source::TemplateOn)
}

fn hold(vm: &Vm) -> Held {
    let machine = &vm.machine;
    let ask = Ask {
        name: machine.hostname.to_string(),
        cluster: machine.cluster.clone(),
        role: machine.role,
        memory: u64::from(machine.shape.memory_mib) << 20,
        cpus: machine.shape.cpus,
        disks: disks(&machine.storage, machine.shape.disk_gib, &machine.extra_disks),
        wires: BTreeSet::new(),
        source: Source::Anywhere,
        hosts: Vec::new(),
    };
    Held { vmid: machine.vmid, host: machine.host.clone(), ask, disks_exist: vm.state != VmState::Reserved }
}

fn disks(system: &str, system_gib: u32, extra: &[MachineDisk]) -> BTreeMap<String, u64> {
    let mut disks = BTreeMap::from([(system.to_owned(), u64::from(system_gib) << 30)]);
    for disk in extra {
        *disks.entry(disk.storage.clone()).or_default() += u64::from(disk.gib) << 30;
    }
    disks
}

fn system_storage(deps: &Deps, pool: &Pool) -> String {
    pool.storage.clone().unwrap_or_else(|| deps.sections.machines.storage.clone())
}

fn extra_disks(deps: &Deps, pool: &Pool) -> Vec<MachineDisk> {
    let storage = |own: &Option<String>| own.clone().unwrap_or_else(|| system_storage(deps, pool));
    pool.extra_disks.iter().map(|disk| MachineDisk { gib: disk.size_gib, storage: storage(&disk.storage) }).collect()
}

/// NICs with MACs under Proxmox's prefix, made from the node's uid so that choosing again gives the same.
fn nics(network: &ClusterNetwork, pool: &Pool, node_uid: Uuid, taken: &mut BTreeSet<Mac>) -> Vec<MachineNic> {
    let mut mac = |index: usize| {
        let fresh = (0_u32..).map(|salt| {
            let seed = Uuid::new_v5(&node_uid, format!("nic {index} {salt}").as_bytes());
            let [a, b, c, ..] = *seed.as_bytes();
            Mac::proxmox([a, b, c])
        });
        let mac = fresh.into_iter().find(|mac| !taken.contains(mac)).expect("24 bits hold more MACs than we have");
        taken.insert(mac);
        mac
    };
    let first = MachineNic {
        mac: mac(0),
        bridge: network.bridge.clone(),
        vlan: network.vlan,
        mtu: network.mtu,
        firewall: network.firewall,
    };
    let extra = pool.extra_nics.iter().enumerate().map(|(index, nic)| MachineNic {
        mac: mac(index + 1),
        bridge: nic.bridge.clone(),
        vlan: nic.vlan,
        mtu: nic.mtu,
        firewall: false,
    });
    std::iter::once(first).chain(extra).collect()
}

/// What stands behind `prefix` in the keys.
fn tails<T: std::str::FromStr>(reader: &Reader, prefix: &str) -> Result<Vec<T>, StepError> {
    let keys = reader.keys(prefix).map_err(failure::read)?;
    Ok(keys.iter().filter_map(|(key, _)| key.strip_prefix(prefix)?.parse().ok()).collect())
}
