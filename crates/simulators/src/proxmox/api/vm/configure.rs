//! Reading and changing a VM's configuration, pending changes included (proxmox.md 3.6).

use std::time::Duration;

use serde_json::{Value, json};

use super::options::{self, Asker};
use crate::proxmox::{
    call::{Call, Reply},
    config::typed,
    disks::{self, Made, Place},
    drive::{self, Drive},
    error::{ApiError, ApiResult},
    sim::Worker,
    vm::Vm,
};

/// Options that take effect on a running VM without any plugging.
const FAST: &[&str] = &[
    "name",
    "onboot",
    "shares",
    "startup",
    "description",
    "protection",
    "hookscript",
    "tags",
    "vmstatestorage",
    "lock",
];

pub(super) fn read(call: &Call) -> ApiResult<Reply> {
    let world = call.sim.world();
    let vm = world.vm(call.node(), call.vmid())?;
    let section = match call.params.get("snapshot") {
        Some(name) => {
            let snapshot = vm.snapshots.get(name);
            &snapshot.ok_or_else(|| ApiError::die(format!("snapshot '{name}' does not exist")))?.config
        }
        None => &vm.config,
    };
    let mut row = section.json();
    if !call.params.flag("current") && call.params.get("snapshot").is_none() {
        vm.pending.delete.iter().for_each(|key| drop(row.remove(key)));
        row.extend(vm.pending.set.json());
    }
    row.insert("digest".to_owned(), vm.digest().into());
    Ok(Value::from(row).into())
}

pub(super) fn pending(call: &Call) -> ApiResult<Reply> {
    let world = call.sim.world();
    let vm = world.vm(call.node(), call.vmid())?;
    let mut rows: Vec<Value> = vm
        .config
        .iter()
        .map(|(key, value)| {
            let mut row = json!({ "key": key, "value": typed(key, value) });
            if let Some(new) = vm.pending.set.get(key) {
                row["pending"] = typed(key, new);
            }
            if vm.pending.delete.contains(key) {
                row["delete"] = 1.into();
            }
            row
        })
        .collect();
    let new = vm.pending.set.iter().filter(|(key, _)| !vm.config.has(key));
    rows.extend(new.map(|(key, value)| json!({ "key": key, "pending": typed(key, value) })));
    rows.push(json!({ "key": "digest", "value": vm.digest() }));
    Ok(rows.into())
}

/// `PUT config`: done when it answers.
pub(super) async fn update(call: &Call) -> ApiResult<Reply> {
    let change = Change::parse(call)?;
    let worker = Worker::unlogged(&call.sim, call.node());
    apply(&worker, change).await.map_err(ApiError::die)?;
    Ok(Reply::NULL)
}

/// `POST config`: a task, or nothing when it ends within `background_delay` seconds.
pub(super) async fn update_in_task(call: &Call) -> ApiResult<Reply> {
    let change = Change::parse(call)?;
    let upid =
        call.sim.fork(&call.identity, call.node(), ("qmconfig", &call.vmid().to_string()), |worker| async move {
            apply(&worker, change).await
        });
    let Some(delay) = call.params.int("background_delay") else { return Ok(upid.into()) };
    let patience = call.sim.pace.scale(Duration::from_secs(delay.unsigned_abs())).max(Duration::from_millis(200));
    let parsed = crate::proxmox::task::Upid::parse(&upid);
    let deadline = tokio::time::Instant::now() + patience;
    while tokio::time::Instant::now() < deadline {
        let notified = call.sim.changed.notified();
        let end = parsed.as_ref().and_then(|upid| call.sim.tasks().get(upid)?.end.clone());
        match end {
            Some(end) if end.status == "OK" => return Ok(Reply::NULL),
            Some(_) => break,
            None => drop(tokio::time::timeout_at(deadline, notified).await),
        }
    }
    Ok(upid.into())
}

/// `PUT unlink`: detaches disks, or destroys them with `force`.
pub(super) async fn unlink(call: &Call) -> ApiResult<Reply> {
    let mut change = Change::empty(call);
    change.delete = call.params.list("idlist");
    change.force = call.params.flag("force");
    change.check_deletes(call)?;
    let worker = Worker::unlogged(&call.sim, call.node());
    apply(&worker, change).await.map_err(ApiError::die)?;
    Ok(Reply::NULL)
}

/// A checked change of one VM's configuration.
struct Change {
    vmid: u32,
    set: Vec<(String, String)>,
    delete: Vec<String>,
    revert: Vec<String>,
    digest: Option<String>,
    force: bool,
    skip_lock: bool,
}

impl Change {
    fn empty(call: &Call) -> Self {
        Self {
            vmid: call.vmid(),
            set: Vec::new(),
            delete: Vec::new(),
            revert: Vec::new(),
            digest: call.params.get("digest").map(str::to_owned),
            force: call.params.flag("force"),
            skip_lock: call.params.flag("skiplock"),
        }
    }

    fn parse(call: &Call) -> ApiResult<Self> {
        let params = &call.params;
        let mut change = Self::empty(call);
        if change.skip_lock && !call.is_root() {
            return Err(ApiError::param("skiplock", "Only root may use this option."));
        }
        change.delete = params.list("delete");
        change.revert = params.list("revert");
        let given = params.texts().filter(|(key, _)| !options::NOT_OPTIONS.contains(key));
        change.set = given.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        change.set.extend(params.get("cdrom").map(|value| ("ide2".to_owned(), value.to_owned())));
        if change.set.is_empty() && change.delete.is_empty() && change.revert.is_empty() {
            return Err(ApiError::die("no options specified"));
        }
        change.check_deletes(call)?;
        let mut world = call.sim.world();
        world.check_quorum()?;
        let pool = world.pool_of(change.vmid).map(str::to_owned);
        let asker = Asker { identity: &call.identity, host: call.node(), vmid: change.vmid, pool: pool.as_deref() };
        for (key, value) in &change.set {
            asker.check_option(&world, key, value)?;
            if let Some(drive) = Drive::parse(key, value).filter(|_| drive::is_drive(key)) {
                asker.check_drive(&world, &drive)?;
            }
            if drive::is_net(key) {
                asker.check_net(&world, value)?;
            }
        }
        for (key, value) in &mut change.set {
            *value = options::normalise(&mut world, key, value);
        }
        let vm = world.vm(call.node(), change.vmid)?;
        change.check_against(vm)?;
        Ok(change)
    }

    fn check_deletes(&self, call: &Call) -> ApiResult<()> {
        let world = call.sim.world();
        let pool = world.pool_of(self.vmid);
        let asker = Asker { identity: &call.identity, host: call.node(), vmid: self.vmid, pool };
        for key in &self.delete {
            if self.set.iter().any(|(set, _)| set == key) {
                let text = format!("you can't use '-{key}' and -delete {key}' at the same time");
                return Err(ApiError::param("delete", text));
            }
            let create = crate::proxmox::schema::SCHEMA.find("PUT", "/nodes/n/qemu/100/config", world.version);
            let known = create.is_some_and(|(call, _)| call.params(world.version).any(|property| property.covers(key)));
            if !known && !drive::is_unused(key) {
                return Err(ApiError::param("delete", format!("unknown option '{key}'")));
            }
            let value = world.vms.get(&self.vmid).and_then(|vm| vm.config.get(key)).unwrap_or_default();
            asker.check_option(&world, key, value)?;
        }
        Ok(())
    }

    fn check_against(&self, vm: &Vm) -> ApiResult<()> {
        if self.digest.as_ref().is_some_and(|digest| *digest != vm.digest()) {
            return Err(ApiError::die("checksum mismatch (file change by other user?)"));
        }
        if !self.skip_lock {
            vm.check_lock().map_err(ApiError::die)?;
        }
        let boot = self.set.iter().find(|(key, _)| key == "boot");
        boot.map_or(Ok(()), |(_, value)| {
            options::check_boot_order(value, |device| {
                let set = self.set.iter().any(|(key, _)| key == device);
                let kept = vm.config.has(device) || vm.pending.set.has(device);
                (set || kept) && !self.delete.iter().any(|key| key == device)
            })
        })
    }
}

async fn apply(worker: &Worker, change: Change) -> Result<(), String> {
    let sim = &worker.sim;
    let host = worker.upid.host.clone();
    let _lock = sim.lock_guest(&host, change.vmid).await?;
    {
        let world = sim.world();
        let vm = world.vm(&host, change.vmid).map_err(|error| error.message)?;
        change.check_against(vm).map_err(|error| error.message)?;
    }
    let mut made = Made::default();
    let mut ready = Vec::new();
    for (key, value) in &change.set {
        let drive = Drive::parse(key, value).filter(|_| drive::is_drive(key));
        let stored = match drive {
            Some(drive) => disks::provide(worker, Place { host: &host, vmid: change.vmid }, &drive, &mut made).await,
            None => Ok(value.clone()),
        };
        match stored {
            Ok(stored) => ready.push((key.clone(), stored)),
            Err(error) => {
                made.undo(worker, &host).await;
                return Err(error);
            }
        }
    }
    let doomed = {
        let mut world = sim.world();
        let vm = world.vm_mut(&host, change.vmid).map_err(|error| error.message)?;
        for key in &change.revert {
            vm.pending.set.remove(key);
            vm.pending.delete.remove(key);
        }
        let doomed = delete(vm, &change);
        for (key, value) in ready {
            set(vm, &key, &value);
        }
        doomed
    };
    disks::free(worker, &host, &doomed).await;
    sim.changed.notify_waiters();
    Ok(())
}

/// Removes options; the volumes to destroy are returned.
fn delete(vm: &mut Vm, change: &Change) -> Vec<String> {
    let mut doomed = Vec::new();
    for key in &change.delete {
        let volume = vm.config.drive(key).filter(|drive| drive.volume().is_some()).map(|drive| drive.file);
        let cloudinit = vm.config.drive(key).is_some_and(|drive| drive.is_cloudinit());
        let destroy = drive::is_unused(key) || change.force || cloudinit;
        match volume.filter(|_| destroy) {
            Some(volume) => {
                vm.config.remove(key);
                doomed.push(volume);
            }
            None if vm.is_running() && !can_plug(key) => {
                vm.pending.set.remove(key);
                if vm.config.has(key) {
                    vm.pending.delete.insert(key.clone());
                }
            }
            None => vm.unset(key),
        }
    }
    doomed
}

fn set(vm: &mut Vm, key: &str, value: &str) {
    if vm.is_running() && !can_plug(key) && vm.config.get(key) != Some(value) {
        vm.pending.delete.remove(key);
        vm.pending.set.set(key, value);
        return;
    }
    vm.pending.set.remove(key);
    vm.pending.delete.remove(key);
    vm.put(key, value);
}

/// Whether a change reaches a running VM, with the default hotplug features network, disk and usb.
fn can_plug(key: &str) -> bool {
    let disk = key.starts_with("scsi") && key != "scsihw" || key.starts_with("virtio") && !key.starts_with("virtiofs");
    FAST.contains(&key)
        || drive::is_net(key)
        || drive::is_unused(key)
        || (disk && drive::is_drive(key))
        || key.starts_with("usb")
}
