//! From a decided machine to the VM that Proxmox is asked for.

use proxmox::{
    VmId,
    new_vm::{self, CloudInit, DiskContent, NewDisk, NewNic, NewVm},
};

use crate::{
    config::{Firmware, Sections},
    inventory::Machine,
    ownership,
};

/// Slot of the system disk.
pub(crate) const SYSTEM_DISK: &str = "scsi0";
/// Slot of the cloud-init drive.
const CLOUD_INIT: &str = "ide2";

/// The VM of `machine`, its system disk copied from `volume`.
pub(crate) fn vm(sections: &Sections, machine: &Machine, volume: &str) -> NewVm {
    let settings = &sections.machines;
    let disk = |slot: String, storage: &str, content| NewDisk {
        slot,
        storage: storage.to_owned(),
        content,
        ssd: true,
        io_thread: settings.scsi_controller == "virtio-scsi-single",
        cache: settings.disk_cache.clone(),
        serial: None,
    };
    let system = disk(SYSTEM_DISK.to_owned(), &machine.storage, DiskContent::Import { volume: volume.to_owned() });
    let extra = machine.extra_disks.iter().enumerate().map(|(index, extra)| {
        disk(format!("scsi{}", index + 1), &extra.storage, DiskContent::Empty { gib: extra.gib.into() })
    });
    NewVm {
        vmid: VmId(machine.vmid),
        name: machine.hostname.to_string(),
        description: ownership::description(machine),
        tags: ownership::tags(machine),
        pool: sections.proxmox.pool.clone(),
        cores: machine.shape.cpus,
        cpu: settings.cpu.clone(),
        memory_mib: machine.shape.memory_mib.into(),
        machine: settings.machine.clone(),
        firmware: match settings.firmware {
            Firmware::Ovmf => new_vm::Firmware::Ovmf { storage: machine.storage.clone() },
            Firmware::SeaBios => new_vm::Firmware::SeaBios,
        },
        scsi_controller: settings.scsi_controller.clone(),
        smbios_uuid: machine.smbios_uuid.to_string(),
        on_boot: settings.start_on_boot,
        agent: settings.guest_agent,
        disks: std::iter::once(system).chain(extra).collect(),
        nics: machine.nics.iter().map(nic).collect(),
        cloud_init: Some(cloud_init(machine)),
    }
}

fn nic(nic: &crate::inventory::MachineNic) -> NewNic {
    NewNic {
        mac: nic.mac,
        bridge: nic.bridge.clone(),
        vlan: nic.vlan,
        mtu: nic.mtu.map(u32::from),
        firewall: nic.firewall,
    }
}

/// The address travels on Proxmox's own cloud-init drive: neither DHCP nor the guest agent is needed.
fn cloud_init(machine: &Machine) -> CloudInit {
    let network = &machine.network;
    CloudInit {
        slot: CLOUD_INIT.to_owned(),
        storage: machine.storage.clone(),
        address: ipnet::IpNet::new(machine.ip, network.prefix).unwrap_or_else(|_| machine.ip.into()),
        gateway: Some(network.gateway),
        nameservers: network.dns_servers.clone(),
        search_domain: None,
    }
}
