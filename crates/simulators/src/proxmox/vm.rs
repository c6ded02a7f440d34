//! One VM as the cluster knows it: configuration, snapshots, run state and what was last broadcast.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::{
    config::{self, Config},
    drive,
};

#[derive(Clone, Debug)]
pub(crate) struct Vm {
    /// The node that owns the configuration file.
    pub(crate) host: String,
    pub(crate) config: Config,
    pub(crate) pending: Pending,
    pub(crate) snapshots: BTreeMap<String, Snapshot>,
    pub(crate) run: Run,
    pub(crate) broadcast: Option<Broadcast>,
}

/// Changes that wait for the VM to be stopped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    pub(crate) set: Config,
    pub(crate) delete: BTreeSet<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) config: Config,
    pub(crate) description: Option<String>,
    pub(crate) parent: Option<String>,
    /// Unix seconds.
    pub(crate) taken: i64,
}

/// Whether a QEMU process exists, and its state.
#[derive(Clone, Debug)]
pub(crate) enum Run {
    Stopped,
    Running { pid: u32, since: Instant, qmp: &'static str },
}

/// What the node's status daemon said about a VM last.
#[derive(Clone, Debug)]
pub(crate) struct Broadcast {
    pub(crate) at: Instant,
    pub(crate) status: String,
    pub(crate) name: String,
    pub(crate) cpus: u64,
    pub(crate) max_memory: u64,
    pub(crate) memory: u64,
    pub(crate) max_disk: u64,
    pub(crate) uptime: u64,
    pub(crate) template: bool,
}

impl Vm {
    pub(crate) fn new(host: &str, config: Config) -> Self {
        Self {
            host: host.to_owned(),
            config,
            pending: Pending::default(),
            snapshots: BTreeMap::new(),
            run: Run::Stopped,
            broadcast: None,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.run, Run::Running { .. })
    }

    pub(crate) fn is_template(&self) -> bool {
        self.config.flag("template")
    }

    pub(crate) fn name(&self, vmid: u32) -> String {
        self.config.get("name").map_or_else(|| format!("VM {vmid}"), str::to_owned)
    }

    /// `running` or `stopped`.
    pub(crate) fn status(&self) -> &'static str {
        if self.is_running() { "running" } else { "stopped" }
    }

    /// QEMU's own word for its state.
    pub(crate) fn qmp_status(&self) -> &'static str {
        match self.run {
            Run::Running { qmp, .. } => qmp,
            Run::Stopped => "stopped",
        }
    }

    pub(crate) fn uptime(&self) -> u64 {
        match self.run {
            Run::Running { since, .. } => since.elapsed().as_secs() + 1,
            Run::Stopped => 0,
        }
    }

    /// Size of the first boot disk, which is what `maxdisk` means.
    pub(crate) fn max_disk(&self) -> u64 {
        let slot =
            self.boot_order().into_iter().find(|slot| self.config.drive(slot).is_some_and(|drive| !drive.is_cdrom()));
        slot.and_then(|slot| self.config.drive(&slot)?.size()).unwrap_or_default()
    }

    /// Device names in boot order.
    pub(crate) fn boot_order(&self) -> Vec<String> {
        let order =
            self.config.get("boot").and_then(|boot| boot.split(',').find_map(|part| part.strip_prefix("order=")));
        match order {
            Some(order) => order.split(';').filter(|device| !device.is_empty()).map(str::to_owned).collect(),
            None => self.config.get("bootdisk").map(str::to_owned).into_iter().collect(),
        }
    }

    pub(crate) fn digest(&self) -> String {
        let snapshots = self.snapshots.iter().map(|(name, snapshot)| (name.as_str(), &snapshot.config));
        let mut waiting = self.pending.set.clone();
        if !self.pending.delete.is_empty() {
            waiting.set("delete", self.pending.delete.iter().cloned().collect::<Vec<_>>().join(","));
        }
        let pending = (!waiting.is_empty()).then_some(("PENDING", &waiting));
        config::digest([("", &self.config)].into_iter().chain(pending).chain(snapshots))
    }

    /// The error of an operation while the configuration carries a lock.
    pub(crate) fn check_lock(&self) -> Result<(), String> {
        self.config.get("lock").map_or(Ok(()), |lock| Err(format!("VM is locked ({lock})")))
    }

    /// Merges the pending changes, as a stop or start does; detached disks become unused.
    pub(crate) fn apply_pending(&mut self) {
        for key in std::mem::take(&mut self.pending.delete) {
            self.unset(&key);
        }
        let pending = std::mem::take(&mut self.pending.set);
        for (key, value) in pending.iter() {
            self.put(key, value);
        }
    }

    /// Removes an option; the volume of a disk stays under `unusedN`.
    pub(crate) fn unset(&mut self, key: &str) {
        let drive = self.config.drive(key).filter(|drive| !drive.is_cdrom() && !drive::is_unused(key));
        self.config.remove(key);
        if let Some(drive) = drive.filter(|drive| drive.volume().is_some()) {
            self.config.add_unused(&drive.file);
        }
    }

    /// Sets an option; a disk that loses its slot to another volume stays under `unusedN`.
    pub(crate) fn put(&mut self, key: &str, value: &str) {
        let old = self.config.drive(key).filter(|old| !old.is_cdrom() && old.volume().is_some());
        let new = drive::Drive::parse(key, value);
        self.config.set(key, value);
        if let (Some(old), Some(new)) = (old, new)
            && old.file != new.file
        {
            self.config.add_unused(&old.file);
        }
    }

    /// What the status daemon would send now.
    pub(crate) fn report(&self, vmid: u32) -> Broadcast {
        let max_memory = self.config.memory() << 20;
        Broadcast {
            at: Instant::now(),
            status: self.qmp_status().to_owned(),
            name: self.name(vmid),
            cpus: self.config.cpus(),
            max_memory,
            memory: if self.is_running() { max_memory / 2 } else { 0 },
            max_disk: self.max_disk(),
            uptime: self.uptime(),
            template: self.is_template(),
        }
    }
}
