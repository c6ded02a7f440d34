//! What somebody does with root at a node's console, past the API: VMs made, edited, moved, switched and removed.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use http::Method;

use super::{
    Proxmox,
    access::Identity,
    disks,
    drive::Drive,
    formats,
    sim::{Sim, now},
    storage::Volume,
    vm::{Run, Vm},
    world::World,
};
use crate::machine::{DiskContent, PowerOff};

/// A VM as somebody makes it by hand. Nothing boots in it, on or off.
#[derive(Clone, Debug)]
pub struct HandMade {
    pub host: String,
    /// Its configuration; disks that it names are made, 8 GiB each, unless they are there.
    pub config: BTreeMap<String, String>,
    pub running: bool,
    pub pool: Option<String>,
}

/// A call of the API that is about to be carried out.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    /// `user@realm!token`
    pub user: &'a str,
    pub method: &'a str,
    /// `/nodes/pve1/qemu/100/config`
    pub path: &'a str,
}

/// Told of every call just before it is carried out.
pub(crate) type Listener = Arc<dyn Fn(&Heard<'_>) + Send + Sync>;

const SIZE: u64 = 8 << 30;

impl Proxmox {
    /// Tells `listener` of every call just before it is carried out; it may use the knobs. Replaces the one before.
    pub fn listen(&self, listener: impl Fn(&Heard<'_>) + Send + Sync + 'static) {
        *self.sim.listener() = Some(Arc::new(listener));
    }

    /// Nobody is told of calls any more.
    pub fn listen_no_more(&self) {
        *self.sim.listener() = None;
    }

    /// Makes a VM; false if the id or the host is not to be had.
    pub fn place_vm(&self, vmid: u32, made: &HandMade) -> bool {
        let mut world = self.sim.world();
        if world.vms.contains_key(&vmid) || !world.hosts.contains_key(&made.host) {
            return false;
        }
        let mut vm = Vm::new(&made.host, super::config::Config::default());
        for (key, value) in &made.config {
            vm.config.set(key, value);
        }
        for drive in vm.config.drives() {
            provide(&mut world, &made.host, vmid, &drive);
        }
        if made.running {
            vm.run = Run::Running { pid: self.sim.new_pid(), since: Instant::now(), qmp: "running" };
        }
        world.vms.insert(vmid, vm);
        if let Some(pool) = made.pool.as_ref().and_then(|pool| world.pools.get_mut(pool)) {
            pool.vms.insert(vmid);
        }
        true
    }

    /// Edits a configuration; a key without a value goes. False if there is no such VM or a task works on it.
    pub fn edit_vm(&self, vmid: u32, changes: &[(&str, Option<&str>)]) -> bool {
        if is_busy(&self.sim, vmid) {
            return false;
        }
        let mut world = self.sim.world();
        let Some(vm) = world.vms.get_mut(&vmid) else { return false };
        for (key, value) in changes {
            match value {
                Some(value) => vm.config.set(key, *value),
                None => drop(vm.config.remove(key)),
            }
        }
        true
    }

    /// Moves a VM with its disks to another host, running or not. False if there is no such VM or host, or a task works on it.
    pub fn move_vm(&self, vmid: u32, host: &str) -> bool {
        if is_busy(&self.sim, vmid) {
            return false;
        }
        let mut world = self.sim.world();
        if !world.hosts.contains_key(host) {
            return false;
        }
        let Some(vm) = world.vms.get_mut(&vmid) else { return false };
        let from = std::mem::replace(&mut vm.host, host.to_owned());
        for drive in vm.config.drives() {
            let Some((storage, volume)) = formats::parse_volume_id(&drive.file) else { continue };
            let Some(storage) = world.storages.get(storage).cloned() else { continue };
            if let Some(moved) = world.volumes.remove(&storage, &from, volume) {
                world.volumes.insert(&storage, host, volume, moved);
            }
        }
        true
    }

    /// Stops and destroys a VM with its disks. False if there is no such VM or a task works on it.
    pub fn remove_vm(&self, vmid: u32) -> bool {
        if is_busy(&self.sim, vmid) {
            return false;
        }
        let mut world = self.sim.world();
        let Some(vm) = world.vms.remove(&vmid) else { return false };
        for volume in vm.config.owned_volumes(vmid) {
            let Some((storage, name)) = formats::parse_volume_id(&volume) else { continue };
            if let Some(storage) = world.storages.get(storage).cloned() {
                world.volumes.remove(&storage, &vm.host, name);
            }
        }
        for pool in world.pools.values_mut() {
            pool.vms.remove(&vmid);
        }
        drop(world);
        self.sim.machines.power_off(vmid, PowerOff::Cut);
        self.sim.changed.notify_waiters();
        true
    }

    /// Removes a volume, wherever it is, whoever uses it. False if there is none.
    pub fn remove_volume(&self, id: &str) -> bool {
        let mut world = self.sim.world();
        let Some((storage, name)) = formats::parse_volume_id(id) else { return false };
        let Some(storage) = world.storages.get(storage).cloned() else { return false };
        let hosts: Vec<String> = world.hosts.keys().cloned().collect();
        hosts.iter().filter_map(|host| world.volumes.remove(&storage, host, name)).count() > 0
    }

    /// Whether a task runs, on whatever host.
    pub fn is_at_work(&self) -> bool {
        self.sim.tasks().newest().any(|task| task.end.is_none())
    }

    /// Whether a task runs that is about this VM.
    pub fn works_on(&self, vmid: u32) -> bool {
        let id = vmid.to_string();
        self.sim.tasks().newest().any(|task| task.end.is_none() && task.upid.id == id)
    }

    /// Forgets every task that has ended, as the rotation of the task index does.
    pub fn forget_tasks(&self) {
        self.sim.tasks().forget_ended();
    }

    /// The id of a running VM's process: another one means that it was switched off and on.
    pub fn vm_process(&self, vmid: u32) -> Option<u32> {
        match self.sim.world().vms.get(&vmid)?.run {
            Run::Running { pid, .. } => Some(pid),
            Run::Stopped => None,
        }
    }
}

/// Tells whoever listens of a call that is about to be carried out.
pub(super) fn tell(sim: &Sim, identity: Option<&Identity>, method: &Method, path: &str) {
    let Some(listener) = sim.listener().clone() else { return };
    let user = identity.map(Identity::full).unwrap_or_default();
    listener(&Heard { user: &user, method: method.as_str(), path });
}

/// Whether a task works on the VM: the console would wait for its lock.
fn is_busy(sim: &Sim, vmid: u32) -> bool {
    if sim.world().vms.get(&vmid).is_some_and(|vm| vm.config.has("lock")) {
        return true;
    }
    let id = vmid.to_string();
    sim.tasks().newest().take(200).any(|task| task.end.is_none() && task.upid.id == id)
}

fn provide(world: &mut World, host: &str, vmid: u32, drive: &Drive) {
    if disks::find(world, host, &drive.file).is_some() {
        return;
    }
    let Some((storage, name)) = formats::parse_volume_id(&drive.file) else { return };
    let Some(storage) = world.storages.get(storage).cloned() else { return };
    let volume = Volume {
        content_type: "images",
        format: storage.default_format().to_owned(),
        size: SIZE,
        written: 0,
        vmid: super::config::owner(&drive.file).or(Some(vmid)),
        parent: None,
        created: now(),
        content: DiskContent::blank(),
        file: None,
    };
    world.volumes.insert(&storage, host, name, volume);
}
