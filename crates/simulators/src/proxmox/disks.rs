//! Making, copying and freeing the volumes of VMs (proxmox.md 3.1, 3.2 and 6).

use std::collections::BTreeMap;

use super::{
    drive::Drive,
    formats,
    sim::{Sim, Worker, now},
    storage::{self, Storage, Volume},
    world::World,
};
use crate::machine::DiskContent;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// What a cloud-init drive and a TPM state take.
const SMALL_DISK: u64 = 4 * MIB;
/// How fast a simulated storage copies, in bytes per second.
const COPY_RATE: f64 = 800.0 * MIB as f64;

/// Where volumes are made, and for whom.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) host: &'a str,
    pub(crate) vmid: u32,
}

/// Volumes that a worker made, to be freed if it fails.
#[derive(Debug, Default)]
pub(crate) struct Made(Vec<String>);

/// A volume to be made.
struct Order<'a> {
    storage: &'a str,
    /// The name without folder and suffix; none takes the next free disk number.
    name: Option<&'a str>,
    format: Option<&'a str>,
    size: u64,
    written: u64,
    content: DiskContent,
}

/// Makes what a drive asks for and returns it as it is stored in the configuration.
pub(crate) async fn provide(
    worker: &Worker,
    place: Place<'_>,
    drive: &Drive,
    made: &mut Made,
) -> Result<String, String> {
    let sim = &worker.sim;
    let mut drive = drive.clone();
    let format = drive.options.shift_remove("format");
    let format = format.as_deref();
    if matches!(drive.file.as_str(), "none" | "cdrom") {
        drive.options.shift_remove("size");
        return Ok(drive.print());
    }
    if drive.is_cloudinit() && drive.volume().is_some_and(|(_, volume)| volume == "cloudinit") {
        let storage = drive.volume().map(|(storage, _)| storage.to_owned()).unwrap_or_default();
        let name = format!("vm-{}-cloudinit", place.vmid);
        let content = DiskContent::blank();
        // Only a directory has a choice.
        let format = format.or(Some("qcow2"));
        let order =
            Order { storage: &storage, name: Some(&name), format, size: SMALL_DISK, written: SMALL_DISK, content };
        drive.file = allocate(worker, place, order, made).await?;
        drive.options.shift_remove("size");
        drive.set("media", "cdrom");
        worker.log(format!("{}: successfully created disk '{}'", drive.slot, drive.print()));
        return Ok(drive.print());
    }
    if let Some(source) = drive.options.shift_remove("import-from") {
        let storage = drive.volume().map(|(storage, _)| storage.to_owned()).unwrap_or_default();
        let (volume, size) = import(worker, place, (&storage, &source, format), made).await?;
        drive.file = volume;
        drive.set("size", &formats::format_size(size));
        worker.log(format!("{}: successfully created disk '{}'", drive.slot, drive.print()));
        return Ok(drive.print());
    }
    let new = drive.wants_new().map(|(storage, gib)| (storage.to_owned(), gib));
    if let Some((storage, gib)) = new.filter(|_| !drive.is_cdrom()) {
        let size = new_size(sim, &storage, &drive.slot, gib);
        let written = if size <= SMALL_DISK { size } else { 0 };
        let order = Order { storage: &storage, name: None, format, size, written, content: DiskContent::blank() };
        drive.file = allocate(worker, place, order, made).await?;
        drive.set("size", &formats::format_size(size));
        worker.log(format!("{}: successfully created disk '{}'", drive.slot, drive.print()));
        return Ok(drive.print());
    }
    if drive.file.starts_with('/') {
        return Ok(drive.print());
    }
    let size = sim.world().volume_size(place.host, &drive.file);
    let size = size.ok_or_else(|| format!("volume '{}' does not exist", drive.file))?;
    drive.set("size", &formats::format_size(size));
    Ok(drive.print())
}

fn new_size(sim: &Sim, storage: &str, slot: &str, gib: f64) -> u64 {
    let file_based = sim.world().storages.get(storage).is_some_and(|storage| storage.kind.is_file_based());
    match slot {
        "efidisk0" if file_based => 528 << 10,
        "efidisk0" | "tpmstate0" => SMALL_DISK,
        _ => (gib * GIB as f64) as u64,
    }
}

/// Copies an image of an `import` storage, or another VM's disk, into a new volume.
async fn import(
    worker: &Worker,
    place: Place<'_>,
    (storage, source, format): (&str, &str, Option<&str>),
    made: &mut Made,
) -> Result<(String, u64), String> {
    let found = {
        let world = worker.sim.world();
        find(&world, place.host, source).map(|volume| match &volume.file {
            Some(file) => {
                let content = file.image.clone().map_or_else(DiskContent::blank, DiskContent::from_image);
                (file.virtual_size, file.virtual_size.min(volume.size.max(GIB)), content)
            }
            None => (volume.size, volume.written, volume.content.duplicate()),
        })
    };
    let (size, written, content) = found.ok_or_else(|| format!("volume '{source}' does not exist"))?;
    worker.log(format!("importing disk '{source}' to storage '{storage}'"));
    let order = Order { storage, name: None, format, size, written, content };
    let volume = allocate(worker, place, order, made).await?;
    let human = size as f64 / GIB as f64;
    worker.log(format!("transferred 0.0 B of {human:.1} GiB (0.00%)"));
    worker.work(written as f64 / COPY_RATE).await?;
    worker.log(format!("transferred {human:.1} GiB of {human:.1} GiB (100.00%)"));
    Ok((volume, size))
}

async fn allocate(worker: &Worker, place: Place<'_>, order: Order<'_>, made: &mut Made) -> Result<String, String> {
    let sim = &worker.sim;
    sim.world().storage(order.storage, place.host)?;
    let _lock = sim.lock_storage(place.host, order.storage).await?;
    worker.work(0.2).await?;
    let mut world = sim.world();
    let storage = world.storage(order.storage, place.host)?.clone();
    let free_name = || world.volumes.free_disk(&storage, place.host, place.vmid);
    let name = order.name.map_or_else(free_name, str::to_owned);
    let used = world.volumes.used(&storage, place.host);
    if let Some(refused) = storage::refuse_space(&storage, used, order.size.max(order.written)) {
        return Err(refused);
    }
    if storage.size.saturating_sub(used) < order.written {
        return Err("copy failed: command 'qemu-img convert' failed: exit code 1 - No space left on device".to_owned());
    }
    let format = order.format.filter(|_| storage.kind.is_file_based()).unwrap_or_else(|| storage.default_format());
    let volume = Volume {
        content_type: "images",
        format: format.to_owned(),
        size: order.size,
        written: order.written,
        vmid: Some(place.vmid),
        parent: None,
        created: now(),
        content: order.content,
        file: None,
    };
    let file = storage.disk_name(place.vmid, &name, format);
    world.volumes.insert(&storage, place.host, &file, volume);
    let id = format!("{}:{file}", storage.name);
    made.0.push(id.clone());
    Ok(id)
}

/// How a clone copies a disk.
#[derive(Clone, Copy)]
pub(crate) enum Copy<'a> {
    Linked,
    Full { storage: Option<&'a str>, format: Option<&'a str> },
}

/// Copies one disk of another VM; the new volume id.
pub(crate) async fn clone(
    worker: &Worker,
    place: Place<'_>,
    (source_host, source, how): (&str, &str, Copy<'_>),
    made: &mut Made,
) -> Result<String, String> {
    let (size, written, content, format) = {
        let world = worker.sim.world();
        let volume = find(&world, source_host, source).ok_or_else(|| format!("volume '{source}' does not exist"))?;
        (volume.size, volume.written, volume.content.duplicate(), volume.format.clone())
    };
    let (from_storage, from_name) = formats::parse_volume_id(source).unwrap_or_default();
    match how {
        Copy::Full { storage, format: wanted } => {
            worker.log(format!("create full clone of drive ({source})"));
            let order = Order {
                storage: storage.unwrap_or(from_storage),
                name: None,
                format: wanted.or(Some(&format)),
                size,
                written,
                content,
            };
            let volume = allocate(worker, place, order, made).await?;
            worker.work(written as f64 / COPY_RATE).await?;
            Ok(volume)
        }
        Copy::Linked => {
            worker.log(format!("create linked clone of drive ({source})"));
            let _lock = worker.sim.lock_storage(place.host, from_storage).await?;
            worker.work(0.4).await?;
            let mut world = worker.sim.world();
            let storage = world.storage(from_storage, place.host)?.clone();
            let own = world.volumes.free_disk(&storage, place.host, place.vmid);
            let own = storage.disk_name(place.vmid, &own, &format);
            let name = storage.linked_name(from_name, &own);
            let parent = Some(source.to_owned());
            let volume = Volume {
                content_type: "images",
                format,
                size,
                written: 0,
                vmid: Some(place.vmid),
                parent,
                created: now(),
                content,
                file: None,
            };
            world.volumes.insert(&storage, place.host, &name, volume);
            let id = format!("{from_storage}:{name}");
            made.0.push(id.clone());
            Ok(id)
        }
    }
}

/// Frees volumes; what could not be freed is only worth a warning.
pub(crate) async fn free(worker: &Worker, host: &str, volumes: &[String]) {
    for id in volumes {
        let Some((storage, volume)) = formats::parse_volume_id(id) else { continue };
        match worker.sim.lock_storage(host, storage).await {
            Err(error) => worker.warn(error),
            Ok(_lock) => {
                let mut world = worker.sim.world();
                if let Some(storage) = world.storages.get(storage).cloned() {
                    world.volumes.remove(&storage, host, volume);
                }
            }
        }
    }
}

impl Made {
    /// Frees everything made so far.
    pub(crate) async fn undo(self, worker: &Worker, host: &str) {
        free(worker, host, &self.0).await;
    }
}

/// A volume by its id, as a node sees it.
pub(crate) fn find<'a>(world: &'a World, host: &str, id: &str) -> Option<&'a Volume> {
    let (storage, volume) = formats::parse_volume_id(id)?;
    world.volumes.get(world.storages.get(storage)?, host, volume)
}

/// Renames the disks of a VM to `base-…` when it becomes a template; old ids to new ones.
pub(crate) fn make_base(world: &mut World, host: &str, volumes: &[String]) -> BTreeMap<String, String> {
    let mut renamed = BTreeMap::new();
    for id in volumes {
        let Some((name, volume)) = formats::parse_volume_id(id) else { continue };
        let Some(storage) = world.storages.get(name).cloned() else { continue };
        let base = base_name(&storage, volume);
        if let Some(found) = world.volumes.remove(&storage, host, volume) {
            world.volumes.insert(&storage, host, &base, found);
            renamed.insert(id.clone(), format!("{name}:{base}"));
        }
    }
    renamed
}

/// `vm-` becomes `base-` in the last part of the name.
fn base_name(storage: &Storage, volume: &str) -> String {
    let folder = volume.rsplit_once('/').filter(|_| storage.kind.is_file_based());
    match folder {
        Some((folder, file)) => format!("{folder}/{}", file.replacen("vm-", "base-", 1)),
        None => volume.rsplit('/').next().unwrap_or(volume).replacen("vm-", "base-", 1),
    }
}
