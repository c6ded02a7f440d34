//! Cloning: linked from a template, full from anything; the new id is taken late (proxmox.md 3.4, 5).

use super::{
    create,
    options::{self, Asker},
};
use crate::proxmox::{
    call::{Call, Reply},
    config::Config,
    disks::{self, Copy, Made, Place},
    drive::Drive,
    error::{ApiError, ApiResult},
    lock::{Held, LockName},
    sim::Worker,
    vm::Vm,
    world::{World, missing_config},
};

/// What the worker of a clone needs.
struct Order {
    source: u32,
    target: u32,
    target_host: String,
    full: bool,
    storage: Option<String>,
    format: Option<String>,
    pool: Option<String>,
    name: Option<String>,
    description: Option<String>,
}

pub(super) fn clone(call: &Call) -> ApiResult<Reply> {
    let params = &call.params;
    let host = call.node().to_owned();
    let target = params.int("newid").and_then(|id| u32::try_from(id).ok()).unwrap_or_default();
    let text = |key: &str| params.get(key).map(str::to_owned);
    let order = {
        let world = call.sim.world();
        world.check_quorum()?;
        let target_host = text("target").filter(|target| *target != host).unwrap_or_else(|| host.clone());
        world.host(&target_host)?;
        let source = world.vm(&host, call.vmid())?;
        let full = params.get("full").map_or(!source.is_template(), |flag| flag == "1");
        let order = Order {
            source: call.vmid(),
            target,
            target_host,
            full,
            storage: text("storage"),
            format: text("format"),
            pool: text("pool"),
            name: text("name"),
            description: text("description"),
        };
        check(&world, call, &order)?;
        order
    };
    let upid = call.sim.fork(&call.identity, &host, ("qmclone", &call.vmid().to_string()), |worker| async move {
        run(&worker, &order)
            .await
            .map_err(|reason| if reason.contains("got timeout") { reason } else { format!("clone failed: {reason}") })
    });
    Ok(upid.into())
}

fn check(world: &World, call: &Call, order: &Order) -> ApiResult<()> {
    let host = call.node();
    let source = world.vm(host, order.source)?;
    if let Some(pool) = order.pool.as_ref().filter(|pool| !world.pools.contains_key(*pool)) {
        return Err(ApiError::permission(Some(&format!("pool '{pool}' does not exist"))));
    }
    if let Some(storage) = &order.storage {
        let known = world.storage(storage, host).map_err(ApiError::die)?;
        if !known.holds("images") {
            return Err(ApiError::param("storage", format!("storage '{storage}' does not support vm images")));
        }
        if order.target_host != host && !known.is_shared() {
            return Err(ApiError::die(format!("can't clone to non-shared storage '{storage}'")));
        }
    }
    source.check_lock().map_err(ApiError::die)?;
    let drives: Vec<Drive> =
        source.config.drives().into_iter().filter(|drive| !drive.is_cdrom() || drive.is_cloudinit()).collect();
    let local = |drive: &&Drive| {
        drive.volume().and_then(|(name, _)| world.storages.get(name)).is_some_and(|storage| !storage.is_shared())
    };
    if order.target_host != host && drives.iter().find(local).is_some() {
        return Err(ApiError::die(format!("can't clone VM to node '{}' (VM uses local storage)", order.target_host)));
    }
    if !order.full {
        if order.storage.is_some() {
            return Err(ApiError::die("parameter 'storage' not allowed for linked clones"));
        }
        if order.format.is_some() {
            return Err(ApiError::die("parameter 'format' not allowed for linked clones"));
        }
    }
    // Only this node's view: an id on another node is found when the worker writes the file.
    if world.vms.get(&order.target).is_some_and(|vm| vm.host == host) {
        return Err(ApiError::die(format!("unable to create VM {}: config file already exists", order.target)));
    }
    let asker = Asker { identity: &call.identity, host, vmid: order.target, pool: order.pool.as_deref() };
    for drive in drives.iter().filter(|drive| !drive.is_cloudinit()) {
        let Some((name, _)) = drive.volume() else { continue };
        let target = order.storage.as_deref().unwrap_or(name);
        world.check(&call.identity, &format!("/storage/{target}"), &["Datastore.AllocateSpace"])?;
        let can_link = world.storages.get(name).is_some_and(|storage| storage.kind.can_link());
        if !(order.full || can_link && source.is_template()) {
            return Err(ApiError::die(format!(
                "Linked clone feature is not supported for '{}' ({})",
                drive.file, drive.slot
            )));
        }
    }
    source
        .config
        .iter()
        .filter(|(key, _)| key.starts_with("net"))
        .try_for_each(|(_, value)| asker.check_net(world, value))
}

/// A stopped template may be cloned by several at once, anything else only alone.
async fn lock_source(worker: &Worker, source: u32) -> Result<Held, String> {
    let (sim, host) = (&worker.sim, &worker.upid.host);
    let shared = sim.world().vms.get(&source).is_some_and(|vm| vm.is_template() && !vm.is_running());
    let name = LockName::guest(host, source).waiting(1);
    if shared { sim.locks.shared(&name, &sim.pace).await } else { sim.locks.exclusive(&name, &sim.pace).await }
}

async fn run(worker: &Worker, order: &Order) -> Result<(), String> {
    let sim = &worker.sim;
    let host = worker.upid.host.clone();
    let _source_lock = lock_source(worker, order.source).await?;
    let _target_lock = sim.locks.exclusive(&LockName::guest(&host, order.target).waiting(1), &sim.pace).await?;
    worker.work(0.3).await?;
    let source = reserve(worker, order)?;
    let mut made = Made::default();
    let copied = copy(worker, order, &source, &mut made).await;
    let config = match copied {
        Ok(config) => config,
        Err(error) => {
            made.undo(worker, &host).await;
            sim.world().vms.remove(&order.target);
            return Err(error);
        }
    };
    let mut world = sim.world();
    if let Some(vm) = world.vms.get_mut(&order.target) {
        vm.config = config;
        vm.host.clone_from(&order.target_host);
    }
    if let Some(pool) = order.pool.as_ref().and_then(|pool| world.pools.get_mut(pool)) {
        pool.vms.insert(order.target);
    }
    drop(world);
    sim.changed.notify_waiters();
    Ok(())
}

/// Writes the temporary configuration; from here on the id is taken.
fn reserve(worker: &Worker, order: &Order) -> Result<Vm, String> {
    let host = &worker.upid.host;
    let mut world = worker.sim.world();
    let source = world.vms.get(&order.source).filter(|vm| vm.host == *host).cloned();
    let source = source.ok_or_else(|| missing_config(host, order.source))?;
    source.check_lock()?;
    if world.vms.contains_key(&order.target) {
        return Err(format!(
            "unable to open file '/etc/pve/nodes/{host}/qemu-server/{}.conf.tmp' - File exists",
            order.target
        ));
    }
    let mut reserved = Config::default();
    // A comment in the file that the worker writes first: Proxmox reads comments as the description.
    reserved.set("description", " qmclone temporary file");
    reserved.set("lock", "clone");
    world.vms.insert(order.target, Vm::new(host, reserved));
    Ok(source)
}

async fn copy(worker: &Worker, order: &Order, source: &Vm, made: &mut Made) -> Result<Config, String> {
    let place = Place { host: &worker.upid.host, vmid: order.target };
    let mut config = begin(worker, order, source);
    for mut drive in source.config.drives().into_iter().filter(is_copied) {
        let stored = if drive.is_cloudinit() {
            let storage =
                order.storage.clone().or_else(|| drive.volume().map(|(name, _)| name.to_owned())).unwrap_or_default();
            drive.file = format!("{storage}:cloudinit");
            disks::provide(worker, place, &drive, made).await?
        } else {
            let how = match order.full {
                true => Copy::Full { storage: order.storage.as_deref(), format: order.format.as_deref() },
                false => Copy::Linked,
            };
            drive.file = disks::clone(worker, place, (&source.host, &drive.file, how), made).await?;
            drive.print()
        };
        config.set(&drive.slot, stored);
        // From its first disk on the clone shows what it will be.
        if let Some(vm) = worker.sim.world().vms.get_mut(&order.target) {
            vm.config = config.clone();
            vm.config.set("lock", "clone");
        }
    }
    Ok(config)
}

/// The clone's configuration before it has disks.
fn begin(worker: &Worker, order: &Order, source: &Vm) -> Config {
    let mut config = Config::default();
    let copied: Vec<String> = source.config.drives().into_iter().filter(is_copied).map(|drive| drive.slot).collect();
    for (key, value) in source.config.iter() {
        if !dropped(key) && !copied.iter().any(|slot| slot == key) {
            config.set(key, value);
        }
    }
    let mut world = worker.sim.world();
    renew_identity(&mut world, &mut config);
    let old_name = source.config.get("name").map_or_else(|| order.source.to_string(), str::to_owned);
    config.set("name", order.name.clone().unwrap_or_else(|| format!("Copy-of-VM-{old_name}")));
    if let Some(description) = &order.description {
        config.set("description", options::normalise(&mut world, "description", description));
    }
    config
}

/// Whether the clone gets a volume of its own for it.
fn is_copied(drive: &Drive) -> bool {
    drive.is_cloudinit() || (!drive.is_cdrom() && drive.volume().is_some())
}

/// What a clone does not take over.
fn dropped(key: &str) -> bool {
    matches!(key, "template" | "lock" | "name" | "description" | "snaptime" | "parent") || key.starts_with("unused")
}

/// MACs, SMBIOS uuid and generation id are always new.
fn renew_identity(world: &mut World, config: &mut Config) {
    for (index, mut net) in config.nets() {
        net.mac = Some(world.random_mac());
        config.set(&format!("net{index}"), net.print());
    }
    let smbios = config.get("smbios1").unwrap_or_default().to_owned();
    let rest: Vec<&str> = smbios.split(',').filter(|part| !part.is_empty() && !part.starts_with("uuid=")).collect();
    config.set("smbios1", rest.join(","));
    if config.has("vmgenid") {
        config.set("vmgenid", "1");
    }
    create::complete_identity(world, config);
}
