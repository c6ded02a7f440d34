//! The description of a VM to create, and the parameters it becomes.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{VmId, config::Mac, form::Params, property::Property};

/// Everything that `POST /nodes/N/qemu` is told (proxmox.md 3.2, 3.3).
#[derive(Clone, Debug)]
pub struct NewVm {
    /// Chosen by us, never by `nextid`.
    pub vmid: VmId,
    /// DNS name; also the hostname that cloud-init hands to the guest.
    pub name: String,
    /// Free text of at most 8 KiB.
    pub description: String,
    /// Tags; Proxmox lower-cases and sorts them.
    pub tags: Vec<String>,
    /// Resource pool: where a least-privilege token has its rights.
    pub pool: Option<String>,
    /// CPU cores of one socket.
    pub cores: u32,
    /// CPU model, for example `x86-64-v2-AES` or `host`.
    pub cpu: String,
    /// Fixed memory; ballooning is off, Talos would not see it.
    pub memory_mib: u64,
    /// `q35` or a versioned name.
    pub machine: String,
    /// Firmware.
    pub firmware: Firmware,
    /// `virtio-scsi-pci` or `virtio-scsi-single`.
    pub scsi_controller: String,
    /// What the guest reports as the machine's UUID.
    pub smbios_uuid: String,
    /// Start with the host.
    pub on_boot: bool,
    /// Whether the guest runs the QEMU agent.
    pub agent: bool,
    /// Disks; the first is booted.
    pub disks: Vec<NewDisk>,
    /// NICs; the first carries the static address.
    pub nics: Vec<NewNic>,
    /// The drive that hands hostname and address to the guest.
    pub cloud_init: Option<CloudInit>,
}

/// BIOS or UEFI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// Legacy BIOS.
    SeaBios,
    /// UEFI with its variables on this storage, without Microsoft's keys.
    Ovmf {
        /// Storage of the EFI variables.
        storage: String,
    },
}

/// A disk to allocate or import.
#[derive(Clone, Debug)]
pub struct NewDisk {
    /// `scsi0`, …
    pub slot: String,
    /// Where it goes.
    pub storage: String,
    /// What is on it.
    pub content: DiskContent,
    /// Tell the guest it is an SSD, and pass TRIM on.
    pub ssd: bool,
    /// A thread of its own; only useful with `virtio-scsi-single`.
    pub io_thread: bool,
    /// For example `writethrough`.
    pub cache: Option<String>,
    /// Shown to the guest, for a disk selector.
    pub serial: Option<String>,
}

/// What a new disk holds.
#[derive(Clone, Debug)]
pub enum DiskContent {
    /// Nothing, with this size.
    Empty {
        /// Size.
        gib: u64,
    },
    /// A copy of this volume, for example `local:import/talos.qcow2`; grown later by a resize.
    Import {
        /// The source, of content type `import` or `images`.
        volume: String,
    },
}

/// A NIC.
#[derive(Clone, Debug)]
pub struct NewNic {
    /// Its address.
    pub mac: Mac,
    /// Bridge or VNet.
    pub bridge: String,
    /// VLAN tag, 1 to 4094.
    pub vlan: Option<u16>,
    /// MTU; 1 means "take the bridge's".
    pub mtu: Option<u32>,
    /// Whether the Proxmox firewall filters it.
    pub firewall: bool,
}

/// A cloud-init drive whose network configuration Talos's `nocloud` platform reads (proxmox.md 3.5).
#[derive(Clone, Debug)]
pub struct CloudInit {
    /// `ide2`, …
    pub slot: String,
    /// Storage of the drive.
    pub storage: String,
    /// Address with prefix length of `net0`.
    pub address: IpNet,
    /// Its gateway.
    pub gateway: Option<IpAddr>,
    /// Resolvers.
    pub nameservers: Vec<IpAddr>,
    /// Search domain.
    pub search_domain: Option<String>,
}

impl NewVm {
    /// The parameters of the create call.
    pub fn params(&self) -> Params {
        let mut params = Params::default().with("vmid", self.vmid);
        for (name, value) in self.options().iter() {
            params.push(name, value);
        }
        for disk in &self.disks {
            params.push(disk.slot.clone(), disk.property());
        }
        if let Firmware::Ovmf { storage } = &self.firmware {
            params.push("efidisk0", format!("{storage}:1,efitype=4m,pre-enrolled-keys=0"));
        }
        if let Some(drive) = &self.cloud_init {
            params.push(drive.slot.clone(), format!("{}:cloudinit", drive.storage));
        }
        params.with_some("pool", self.pool.as_ref())
    }

    /// What `PUT config` can set as well: everything but VMID, pool and volumes. Used after a clone.
    pub fn options(&self) -> Params {
        let firmware = if self.firmware == Firmware::SeaBios { "seabios" } else { "ovmf" };
        let mut params = Params::default()
            .with("name", &self.name)
            .with("description", &self.description)
            .with("tags", self.tags.join(";"))
            .with("ostype", "l26")
            .with("machine", &self.machine)
            .with("bios", firmware)
            .with("cpu", &self.cpu)
            .with("sockets", 1)
            .with("cores", self.cores)
            .with("memory", self.memory_mib)
            .with("balloon", 0)
            .with("scsihw", &self.scsi_controller)
            .with("smbios1", format!("uuid={}", self.smbios_uuid))
            .with("serial0", "socket")
            .with_flag("onboot", self.on_boot)
            .with("agent", Property::default().with("enabled", u8::from(self.agent)));
        for (index, nic) in self.nics.iter().enumerate() {
            params.push(format!("net{index}"), nic.property());
        }
        if let Some(disk) = self.disks.first() {
            params.push("boot", format!("order={}", disk.slot));
        }
        if let Some(drive) = &self.cloud_init {
            let family = if drive.address.addr().is_ipv4() { ("ip", "gw") } else { ("ip6", "gw6") };
            let address = Property::default().with(family.0, drive.address).with_some(family.1, drive.gateway);
            params.push("citype", "nocloud");
            params.push("ipconfig0", address);
            if !drive.nameservers.is_empty() {
                let servers: Vec<_> = drive.nameservers.iter().map(ToString::to_string).collect();
                params.push("nameserver", servers.join(" "));
            }
            params = params.with_some("searchdomain", drive.search_domain.as_ref());
        }
        params
    }
}

impl NewDisk {
    /// `local-lvm:32,discard=on,ssd=1`.
    pub fn property(&self) -> Property {
        let property = match &self.content {
            DiskContent::Empty { gib } => Property::new(format!("{}:{gib}", self.storage)),
            DiskContent::Import { volume } => Property::new(format!("{}:0", self.storage)).with("import-from", volume),
        };
        let property = if self.ssd { property.with("discard", "on").with("ssd", 1) } else { property };
        let property = if self.io_thread { property.with("iothread", 1) } else { property };
        property.with_some("cache", self.cache.as_ref()).with_some("serial", self.serial.as_ref())
    }
}

impl NewNic {
    /// `virtio=BC:24:11:…,bridge=vmbr0,tag=20`.
    pub fn property(&self) -> Property {
        let property = Property::default().with("virtio", self.mac).with("bridge", &self.bridge);
        let property = property.with_some("tag", self.vlan).with_some("mtu", self.mtu);
        if self.firewall { property.with("firewall", 1) } else { property }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_talos_vm_becomes_the_parameters_that_proxmox_wants() {
        let vm = NewVm {
            vmid: VmId(101),
            name: "prod-k8s-cp-1".into(),
            description: "cortex".into(),
            tags: vec!["cortex".into(), "cluster-prod-k8s".into()],
            pool: Some("talos".into()),
            cores: 4,
            cpu: "x86-64-v2-AES".into(),
            memory_mib: 8192,
            machine: "q35".into(),
            firmware: Firmware::Ovmf { storage: "local-lvm".into() },
            scsi_controller: "virtio-scsi-pci".into(),
            smbios_uuid: "1b4e28ba-2fa1-11d2-883f-0016d3cca427".into(),
            on_boot: true,
            agent: false,
            disks: vec![NewDisk {
                slot: "scsi0".into(),
                storage: "local-lvm".into(),
                content: DiskContent::Import { volume: "local:import/talos.qcow2".into() },
                ssd: true,
                io_thread: false,
                cache: None,
                serial: None,
            }],
            nics: vec![NewNic {
                mac: Mac::proxmox([0, 0, 1]),
                bridge: "vmbr0".into(),
                vlan: Some(20),
                mtu: Some(9000),
                firewall: false,
            }],
            cloud_init: Some(CloudInit {
                slot: "ide2".into(),
                storage: "local-lvm".into(),
                address: "10.0.0.5/24".parse().unwrap(),
                gateway: Some("10.0.0.1".parse().unwrap()),
                nameservers: vec!["1.1.1.1".parse().unwrap(), "8.8.8.8".parse().unwrap()],
                search_domain: None,
            }),
        };
        let params = vm.params();
        for (name, value) in [
            ("vmid", "101"),
            ("tags", "cortex;cluster-prod-k8s"),
            ("scsi0", "local-lvm:0,import-from=local:import/talos.qcow2,discard=on,ssd=1"),
            ("efidisk0", "local-lvm:1,efitype=4m,pre-enrolled-keys=0"),
            ("ide2", "local-lvm:cloudinit"),
            ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0,tag=20,mtu=9000"),
            ("ipconfig0", "ip=10.0.0.5/24,gw=10.0.0.1"),
            ("nameserver", "1.1.1.1 8.8.8.8"),
            ("smbios1", "uuid=1b4e28ba-2fa1-11d2-883f-0016d3cca427"),
            ("boot", "order=scsi0"),
            ("pool", "talos"),
        ] {
            assert_eq!(params.get(name), Some(value), "{name}");
        }
    }
}
