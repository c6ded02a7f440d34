//! What the lab's operator can do to a cluster from outside its API: cut power, fill disks, hold locks, look.

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{Proxmox, drive, host::HostPower, lock::LockName, sim::now, vm::Run, world::World};
use crate::machine::PowerOff;

/// The whole world in a form that two moments can be compared in: nothing in it depends on time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    pub hosts: BTreeMap<String, bool>,
    pub vms: BTreeMap<u32, VmSnapshot>,
    /// Volume ids by node; those of shared storages under an empty name.
    pub volumes: BTreeMap<String, Vec<String>>,
    pub pools: BTreeMap<String, Vec<u32>>,
    pub ha: BTreeMap<u32, String>,
}

/// One VM in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmSnapshot {
    pub host: String,
    pub name: Option<String>,
    pub running: bool,
    pub tags: Vec<String>,
    pub addresses: Vec<String>,
    pub disks: BTreeMap<String, String>,
    /// The configuration as it is stored.
    pub config: BTreeMap<String, String>,
    /// Changes that take effect when the VM is switched off; a key that goes has an empty value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pending: BTreeMap<String, String>,
}

impl Proxmox {
    /// Cuts a node's power: its guests and workers are gone, calls below it answer 595.
    pub fn cut_host(&self, name: &str) -> bool {
        let gone: Vec<u32> = {
            let mut world = self.sim.world();
            let Some(host) = world.hosts.get_mut(name) else { return false };
            host.power = HostPower::Off { since: Instant::now() };
            let gone: Vec<u32> =
                world.vms.iter().filter(|(_, vm)| vm.host == name && vm.is_running()).map(|(id, _)| *id).collect();
            for vmid in &gone {
                if let Some(vm) = world.vms.get_mut(vmid) {
                    vm.run = Run::Stopped;
                }
            }
            gone
        };
        self.sim.tasks().kill_on(name, now());
        for vmid in gone {
            self.sim.machines.power_off(vmid, PowerOff::Cut);
        }
        self.sim.changed.notify_waiters();
        true
    }

    /// Boots a node; guests with `onboot=1` that HA does not manage come back by themselves.
    pub fn boot_host(&self, name: &str) -> bool {
        let onboot: Vec<u32> = {
            let mut world = self.sim.world();
            let Some(host) = world.hosts.get_mut(name) else { return false };
            if host.is_online() {
                return true;
            }
            host.power = HostPower::On { since: Instant::now() };
            let World { vms, ha, .. } = &*world;
            let starts =
                vms.iter().filter(|(id, vm)| vm.host == name && vm.config.flag("onboot") && !ha.contains_key(id));
            starts.map(|(id, _)| *id).collect()
        };
        let root = super::access::Identity::user("root@pam");
        for vmid in onboot {
            self.sim.fork(&root, name, ("qmstart", &vmid.to_string()), |worker| async move {
                super::power::start(&worker, vmid, false).await
            });
        }
        self.sim.changed.notify_waiters();
        true
    }

    /// Whether a node's status daemon broadcasts.
    pub fn set_host_reports(&self, name: &str, reports: bool) -> bool {
        self.sim.world().hosts.get_mut(name).map(|host| host.reports = reports).is_some()
    }

    /// Puts a node into the HA manager's maintenance mode, or ends it, as `ha-manager crm-command node-maintenance` does.
    pub fn set_host_maintenance(&self, name: &str, maintenance: bool) -> bool {
        self.sim.world().hosts.get_mut(name).map(|host| host.maintenance = maintenance).is_some()
    }

    /// Takes quorum away, or gives it back.
    pub fn set_quorum(&self, present: bool) {
        self.sim.world().quorum_lost = !present;
    }

    /// Cuts the power of one VM, as a crash of its QEMU process does.
    pub fn crash_vm(&self, vmid: u32) -> bool {
        let running = self.sim.world().vms.get(&vmid).is_some_and(super::vm::Vm::is_running);
        if running {
            self.sim.machines.power_off(vmid, PowerOff::Cut);
            super::power::mark_stopped(&self.sim, vmid);
        }
        running
    }

    /// Sets QEMU's run state of a running VM, such as `io-error` or `internal-error`.
    pub fn set_vm_state(&self, vmid: u32, state: &str) -> bool {
        let states = ["running", "paused", "io-error", "internal-error", "prelaunch", "suspended", "guest-panicked"];
        let Some(state) = states.into_iter().find(|known| *known == state) else { return false };
        self.sim.set_qmp(vmid, state)
    }

    /// Lets other data use this much of a storage on each node, in bytes.
    pub fn set_foreign_use(&self, storage: &str, bytes: u64) -> bool {
        self.sim.world().storages.get_mut(storage).map(|storage| storage.foreign_use = bytes).is_some()
    }

    /// Leaves no byte free on a storage.
    pub fn fill_storage(&self, storage: &str) -> bool {
        self.set_foreign_use(storage, u64::MAX)
    }

    /// Holds the configuration lock of a VM for a while of real time.
    pub fn hold_vm_lock(&self, host: &str, vmid: u32, real: Duration) {
        self.hold(LockName::guest(host, vmid), real);
    }

    /// Holds the lock of a storage on a node for a while of real time.
    pub fn hold_storage_lock(&self, host: &str, storage: &str, real: Duration) {
        let shared = self.sim.world().storages.get(storage).is_some_and(super::storage::Storage::is_shared);
        self.hold(LockName::storage(host, storage, shared), real);
    }

    fn hold(&self, name: LockName, real: Duration) {
        let sim = self.sim.clone();
        tokio::spawn(async move {
            if let Ok(_held) = sim.locks.exclusive(&name, &sim.pace).await {
                tokio::select! {
                    () = tokio::time::sleep(real) => {}
                    () = sim.shutdown.cancelled() => {}
                }
            }
        });
    }

    /// Puts or removes the `lock` key of a VM's configuration.
    pub fn set_vm_lock_key(&self, vmid: u32, lock: Option<&str>) -> bool {
        let mut world = self.sim.world();
        let Some(vm) = world.vms.get_mut(&vmid) else { return false };
        match lock {
            Some(lock) => vm.config.set("lock", lock),
            None => drop(vm.config.remove("lock")),
        }
        true
    }

    /// How long tickets are good for, in real seconds; zero expires all.
    pub fn set_ticket_lifetime(&self, seconds: i64) {
        self.sim.ticket_lifetime.store(seconds, Ordering::Relaxed);
    }

    /// The world as it is now.
    pub fn snapshot(&self) -> Snapshot {
        let world = self.sim.world();
        let mut volumes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (host, id, _) in world.volumes.all() {
            volumes.entry(host.to_owned()).or_default().push(id.to_owned());
        }
        Snapshot {
            hosts: world.hosts.iter().map(|(name, host)| (name.clone(), host.is_online())).collect(),
            vms: world.vms.iter().map(|(vmid, vm)| (*vmid, vm_snapshot(vm))).collect(),
            volumes,
            pools: world.pools.iter().map(|(name, pool)| (name.clone(), pool.vms.iter().copied().collect())).collect(),
            ha: world.ha.iter().map(|(vmid, resource)| (*vmid, resource.state.clone())).collect(),
        }
    }
}

fn vm_snapshot(vm: &super::vm::Vm) -> VmSnapshot {
    let config = &vm.config;
    let addresses = config.iter().filter(|(key, _)| key.starts_with("ipconfig"));
    let addresses = addresses.filter_map(|(_, value)| value.split(',').find_map(|part| part.strip_prefix("ip=")));
    VmSnapshot {
        host: vm.host.clone(),
        name: config.get("name").map(str::to_owned),
        running: vm.is_running(),
        tags: config
            .get("tags")
            .unwrap_or_default()
            .split(';')
            .filter(|tag| !tag.is_empty())
            .map(str::to_owned)
            .collect(),
        addresses: addresses.map(str::to_owned).collect(),
        disks: config
            .iter()
            .filter(|(key, _)| drive::is_drive(key))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
        config: config.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        pending: vm
            .pending
            .set
            .iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .chain(vm.pending.delete.iter().map(|key| (key.clone(), String::new())))
            .collect(),
    }
}
