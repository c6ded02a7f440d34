//! What the machine is made of: SMBIOS, processors, memory, disks, volumes.

use serde_json::{Value, json};

use crate::machine::Disk;
use crate::talos::cosi::{kinds, named};
use crate::talos::disk::device_names;
use crate::talos::node::Boot;
use crate::talos::release::Line;

/// Sizes of the partitions before EPHEMERAL, in bytes: EFI, META, STATE as Talos makes them.
const EFI: u64 = 2200 << 20;
const META: u64 = 1 << 20;
const STATE: u64 = 100 << 20;

/// A disk as the block resources describe it.
pub(crate) struct DiskView {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) model: String,
    pub(crate) serial: String,
    pub(crate) transport: &'static str,
    pub(crate) rotational: bool,
    pub(crate) read_only: bool,
    pub(crate) cdrom: bool,
    pub(crate) bus_path: String,
    pub(crate) symlinks: Vec<String>,
}

impl Boot {
    /// Size of the EPHEMERAL volume; 0 without an installation.
    pub(crate) fn ephemeral_bytes(&self) -> u64 {
        let Some(name) = self.disk.device() else { return 0 };
        let index = device_names(&self.machine).iter().position(|known| *known == name);
        let size = index.map_or(0, |index| self.machine.disks[index].size_bytes);
        size.saturating_sub(EFI + META + STATE + (2 << 20))
    }

    /// Names of the system extensions in the booted image, as far as the lab knows the schematic.
    pub(crate) fn extensions(&self) -> Vec<String> {
        self.image.schematic.as_deref().map(|schematic| self.world.extensions(schematic)).unwrap_or_default()
    }
}

/// The disks of a machine, system and user disks, CD drive and the read-only loop device of the root file system.
pub(crate) fn disks(boot: &Boot) -> Vec<DiskView> {
    let names = device_names(&boot.machine);
    let mut views: Vec<DiskView> = boot.machine.disks.iter().zip(names).map(|(disk, name)| view(disk, name)).collect();
    views.push(DiskView {
        name: "loop0".to_owned(),
        size: 74 << 20,
        model: String::new(),
        serial: String::new(),
        transport: "",
        rotational: false,
        read_only: true,
        cdrom: false,
        bus_path: "/virtual".to_owned(),
        symlinks: Vec::new(),
    });
    if boot.machine.cdrom.is_some() || boot.machine.network.is_some() {
        views.push(DiskView {
            name: "sr0".to_owned(),
            size: if boot.machine.cdrom.is_some() { 300 << 20 } else { 4 << 20 },
            model: "QEMU DVD-ROM".to_owned(),
            serial: "QM00003".to_owned(),
            transport: "ata",
            rotational: true,
            read_only: false,
            cdrom: true,
            bus_path: "/pci0000:00/0000:00:01.1/ata2/host1/target1:0:0/1:0:0:0".to_owned(),
            symlinks: vec!["/dev/disk/by-id/ata-QEMU_DVD-ROM_QM00003".to_owned()],
        });
    }
    views
}

fn view(disk: &Disk, name: String) -> DiskView {
    let scsi = !disk.slot.starts_with("virtio");
    let serial = disk.serial.clone().unwrap_or_default();
    let id = match (scsi, serial.is_empty()) {
        (true, true) => format!("scsi-0QEMU_QEMU_HARDDISK_drive-{}", disk.slot),
        (true, false) => format!("scsi-0QEMU_QEMU_HARDDISK_{serial}"),
        (false, _) => format!("virtio-{serial}"),
    };
    let named = scsi || !serial.is_empty();
    DiskView {
        name,
        size: disk.size_bytes,
        model: if scsi { "QEMU HARDDISK".to_owned() } else { String::new() },
        serial,
        transport: "virtio",
        rotational: disk.rotational,
        read_only: disk.read_only,
        cdrom: false,
        bus_path: format!("/pci0000:00/0000:00:05.0/virtio2/{}", disk.slot),
        symlinks: named.then(|| format!("/dev/disk/by-id/{id}")).into_iter().collect(),
    }
}

/// Publishes what is known from the first moment of a boot.
pub(crate) fn hardware(boot: &Boot) {
    let machine = &boot.machine;
    let mut system = json!({
        "manufacturer": "QEMU",
        "productName": "Standard PC (i440FX + PIIX, 1996)",
        "version": "pc-i440fx-10.0",
        "serialnumber": machine.smbios_serial,
        "uuid": machine.smbios_uuid.to_string(),
        "wakeUpType": "Power Switch",
    });
    if boot.release.line >= Line::V1_14 {
        system["biosVersion"] = json!("rel-1.16.3-0-ga6ed6b701f0a-prebuilt.qemu.org");
    }
    boot.cosi.put(kinds::SYSTEM_INFORMATION, "systeminformation", &system);
    for index in 0..machine.cpus.min(64) {
        let spec = json!({
            "socket": format!("CPU {index}"), "manufacturer": "QEMU", "productName": "pc-i440fx-10.0",
            "maxSpeedMhz": 2000, "bootSpeedMhz": 2000, "status": 65, "coreCount": 1, "coreEnabled": 1, "threadCount": 1,
        });
        boot.cosi.put(kinds::PROCESSORS, &format!("CPU-{index}"), &spec);
    }
    let memory = json!({
        "sizeMiB": machine.memory_mib, "deviceLocator": "DIMM 0", "manufacturer": "QEMU",
    });
    boot.cosi.put(kinds::MEMORY_MODULES, "DIMM-0", &memory);
    for disk in disks(boot) {
        boot.cosi.put(kinds::DISKS, &disk.name.clone(), &disk_spec(&disk));
    }
    if let Some(device) = boot.disk.device() {
        let spec = json!({"diskID": device, "devPath": format!("/dev/{device}")});
        boot.cosi.put(kinds::SYSTEM_DISKS, "system-disk", &spec);
    }
    super::runtime::platform(boot);
}

fn disk_spec(disk: &DiskView) -> Value {
    json!({
        "dev_path": format!("/dev/{}", disk.name),
        "size": disk.size,
        "pretty_size": pretty(disk.size),
        "io_size": 512,
        "sector_size": if disk.cdrom { 2048 } else { 512 },
        "readonly": disk.read_only,
        "cdrom": disk.cdrom,
        "model": disk.model,
        "serial": disk.serial,
        "bus_path": disk.bus_path,
        "sub_system": "/sys/class/block",
        "transport": disk.transport,
        "rotational": disk.rotational,
        "symlinks": disk.symlinks,
    })
}

/// Publishes the partitions once the disk is mounted.
pub(crate) fn volumes(boot: &Boot) {
    let Some(device) = boot.disk.device() else { return };
    let ephemeral = boot.ephemeral_bytes();
    let parts = [
        ("EFI", EFI, "vfat", 2),
        ("META", META, "none", 0),
        ("STATE", STATE, "xfs", 1),
        ("EPHEMERAL", ephemeral, "xfs", 1),
    ];
    for (index, (label, size, filesystem, number)) in parts.into_iter().enumerate() {
        let partition = index + 1;
        let location = format!("/dev/{device}{partition}");
        let discovered = json!({
            "dev_path": location, "type": "partition", "device_path": format!("/sys/class/block/{device}{partition}"),
            "parent": device, "parent_dev_path": format!("/dev/{device}"), "offset": 1u64 << 20, "size": size,
            "pretty_size": pretty(size), "name": if label == "META" { "talosmeta" } else { filesystem },
            "label": label, "partition_label": label, "partition_index": partition,
        });
        boot.cosi.put(kinds::DISCOVERED_VOLUMES, &format!("{device}{partition}"), &discovered);
        if label == "EFI" {
            continue;
        }
        let status = json!({
            "phase": named("ready", 6), "type": named("partition", 0), "location": location, "mountLocation": location,
            "partitionIndex": partition, "parentLocation": format!("/dev/{device}"), "size": size,
            "prettySize": pretty(size), "filesystem": named(filesystem, number),
        });
        boot.cosi.put(kinds::VOLUME_STATUSES, label, &status);
    }
}

/// `34 GB`, as Go's humanize library writes bytes.
pub(crate) fn pretty(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit < UNITS.len() - 1 {
        value /= 1000.0;
        unit += 1;
    }
    if unit > 0 && value < 9.95 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}
