//! Creating a VM: the id is taken at once, the rest happens in a worker (proxmox.md 3.1).

use std::collections::BTreeMap;

use super::options::{self, Asker};
use crate::proxmox::{
    call::{Call, Reply},
    config::Config,
    disks::{self, Made, Place},
    drive::{self, Drive},
    error::{ApiError, ApiResult},
    lock::LockName,
    power,
    sim::{Worker, now},
    vm::Vm,
    world::World,
};

/// What the worker of a create needs.
struct Order {
    vmid: u32,
    options: BTreeMap<String, String>,
    pool: Option<String>,
    start: bool,
    ha: bool,
}

pub(super) fn create(call: &Call) -> ApiResult<Reply> {
    let mut params = call.params.clone();
    if let Some(cdrom) = params.get("cdrom").map(str::to_owned) {
        if params.get("ide2").is_some() {
            return Err(ApiError::param("cdrom", "option conflicts with option 'ide2'"));
        }
        params.set("ide2", cdrom);
    }
    if params.get("archive").is_some() {
        return Err(ApiError::die("the lab does not restore backups"));
    }
    let (host, vmid) = (call.node().to_owned(), call.vmid());
    let pool = params.get("pool").map(str::to_owned);
    let mut world = call.sim.world();
    world.check_quorum()?;
    let asker = Asker { identity: &call.identity, host: &host, vmid, pool: pool.as_deref() };
    check_rights(&world, call, &asker)?;
    let given: Vec<(String, String)> = params
        .texts()
        .filter(|(key, _)| !options::NOT_OPTIONS.contains(key))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    for (key, value) in &given {
        asker.check_option(&world, key, value)?;
    }
    let drives: Vec<Drive> =
        given.iter().filter(|(key, _)| drive::is_drive(key)).filter_map(|(k, v)| Drive::parse(k, v)).collect();
    for drive in &drives {
        asker.check_drive(&world, drive)?;
    }
    let mut options = BTreeMap::new();
    for (key, value) in &given {
        if drive::is_net(key) {
            asker.check_net(&world, value)?;
        }
        options.insert(key.clone(), options::normalise(&mut world, key, value));
    }
    if let Some(taken) = world.taken(vmid) {
        return Err(ApiError::die(format!("unable to create VM {vmid} - {taken}")));
    }
    let mut reserved = Config::default();
    reserved.set("lock", "create");
    world.vms.insert(vmid, Vm::new(&host, reserved));
    drop(world);
    let order = Order { vmid, options, pool, start: params.flag("start"), ha: params.flag("ha-managed") };
    let upid = call.sim.fork(&call.identity, &host, ("qmcreate", &vmid.to_string()), |worker| run(worker, order));
    Ok(upid.into())
}

fn check_rights(world: &World, call: &Call, asker: &Asker<'_>) -> ApiResult<()> {
    let params = &call.params;
    if let Some(pool) = asker.pool.filter(|pool| !world.pools.contains_key(*pool)) {
        return Err(ApiError::permission(Some(&format!("pool '{pool}' does not exist"))));
    }
    if asker.check(world, "VM.Allocate").is_err() {
        return Err(ApiError::permission(None));
    }
    if params.flag("start") {
        asker.check(world, "VM.PowerMgmt")?;
    }
    if params.flag("ha-managed") {
        world.check(&call.identity, "/", &["Sys.Console"])?;
    }
    if let Some(storage) = params.get("storage") {
        world.storage(storage, asker.host).map_err(ApiError::die)?;
        world.check(&call.identity, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    }
    Ok(())
}

async fn run(worker: Worker, order: Order) -> Result<(), String> {
    let host = worker.upid.host.clone();
    let vmid = order.vmid;
    let mut made = Made::default();
    let built = build(&worker, &order, &mut made).await;
    let config = match built {
        Ok(config) => config,
        Err(reason) => {
            made.undo(&worker, &host).await;
            let mut world = worker.sim.world();
            if world.vms.get(&vmid).is_some_and(|vm| vm.config.get("lock") == Some("create")) {
                world.vms.remove(&vmid);
            }
            return Err(format!("unable to create VM {vmid} - {reason}"));
        }
    };
    {
        let mut world = worker.sim.world();
        if let Some(vm) = world.vms.get_mut(&vmid) {
            vm.config = config;
        }
        if let Some(pool) = order.pool.as_ref().and_then(|pool| world.pools.get_mut(pool)) {
            pool.vms.insert(vmid);
        }
        if order.ha {
            world.ha.insert(vmid, crate::proxmox::world::HaResource::started());
        }
    }
    worker.sim.changed.notify_waiters();
    if order.start
        && let Err(error) = power::start(&worker, vmid, false).await
    {
        worker.log(error);
    }
    Ok(())
}

/// Makes the disks and the configuration, under the lock of the new id.
async fn build(worker: &Worker, order: &Order, made: &mut Made) -> Result<Config, String> {
    let sim = &worker.sim;
    let (host, vmid) = (worker.upid.host.as_str(), order.vmid);
    let _lock = sim.locks.exclusive(&LockName::guest(host, vmid).waiting(1), &sim.pace).await?;
    worker.work(0.3).await?;
    let mut config = Config::default();
    for (key, value) in &order.options {
        let stored = match Drive::parse(key, value).filter(|_| drive::is_drive(key)) {
            Some(drive) => disks::provide(worker, Place { host, vmid }, &drive, made).await?,
            None => value.clone(),
        };
        config.set(key, stored);
    }
    if !config.has("boot") {
        let order = default_boot_order(&config);
        if !order.is_empty() {
            config.set("boot", format!("order={}", order.join(";")));
        }
    }
    let mut world = sim.world();
    complete_identity(&mut world, &mut config);
    let version = world.version;
    config.set("meta", format!("creation-qemu={},ctime={}", version.qemu(), now()));
    Ok(config)
}

/// A uuid in `smbios1` and a generation id, unless they were given.
pub(super) fn complete_identity(world: &mut World, config: &mut Config) {
    let smbios = config.get("smbios1").unwrap_or_default().to_owned();
    if !smbios.split(',').any(|part| part.starts_with("uuid=")) {
        let uuid = world.random_uuid();
        let rest = if smbios.is_empty() { String::new() } else { format!(",{smbios}") };
        config.set("smbios1", format!("uuid={uuid}{rest}"));
    }
    match config.get("vmgenid") {
        Some("0") => {
            config.remove("vmgenid");
        }
        None | Some("1") if config.get("arch") != Some("aarch64") => {
            config.set("vmgenid", world.random_uuid().to_string())
        }
        _ => {}
    }
}

/// First disk, then CD-ROM, then network.
fn default_boot_order(config: &Config) -> Vec<String> {
    let drives = config.drives();
    let bootable = |drive: &&Drive| !matches!(drive.slot.as_str(), "efidisk0" | "tpmstate0");
    let disk = drives.iter().filter(bootable).find(|drive| !drive.is_cdrom());
    let cdrom = drives.iter().find(|drive| drive.is_cdrom() && !drive.is_cloudinit());
    let net = config.nets().keys().next().map(|index| format!("net{index}"));
    disk.map(|drive| drive.slot.clone()).into_iter().chain(cdrom.map(|drive| drive.slot.clone())).chain(net).collect()
}
