//! A powered-on virtual machine as its guest sees it: the seam between the hypervisor simulator and what runs inside.
//!
//! The hypervisor keeps the [`DiskContent`] handles in its volumes: content survives power cycles, is copied by a
//! clone and is gone with the volume. What the guest writes there is the guest's own business.

use std::any::Any;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

/// What runs the guests; the hypervisor calls it when a VM's power changes.
///
/// Calls return at once and must be made within a tokio runtime.
pub trait Machines: Send + Sync {
    /// Starts the guest. A machine with this VMID that is still on is cut off first.
    fn power_on(&self, machine: Machine);

    /// Takes the power away or asks the guest to end. An unknown or already stopped VMID is ignored.
    ///
    /// After [`PowerOff::Request`] the guest ends in its own time and then reports [`Power::Off`].
    fn power_off(&self, vmid: u32, how: PowerOff);

    /// The guest as the hypervisor can see it, if it is on.
    fn guest(&self, vmid: u32) -> Option<Guest>;

    /// Stops or resumes the guest's processors: QEMU paused it, or it stopped on an error. A frozen guest answers nothing.
    fn set_frozen(&self, _vmid: u32, _frozen: bool) {}

    /// Whom to tell when a guest changes its own power; replaces the listener set before.
    fn set_power_listener(&self, listener: PowerListener);
}

/// How a machine loses its power.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerOff {
    /// `qm stop`, host failure, `destroy`: at once, open connections are cut.
    Cut,
    /// `qm shutdown`: the ACPI button; Talos runs its shutdown sequence.
    Request,
}

/// What a guest did with its own power.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Power {
    /// It shut down: the hypervisor marks the VM stopped and releases what it holds.
    Off,
    /// It rebooted itself; the VM keeps running under the same VMID.
    Rebooted,
}

/// Receives VMID and what happened, in order.
pub type PowerListener = Arc<dyn Fn(u32, Power) + Send + Sync>;

/// A virtual machine at the moment it is switched on.
#[derive(Clone, Debug)]
pub struct Machine {
    pub vmid: u32,
    /// The PVE VM name; Talos learns it only through `network.hostname`.
    pub name: String,
    /// The PVE node it runs on.
    pub host: String,
    /// SMBIOS type 1 UUID, as PVE's `smbios1: uuid=…` has it.
    pub smbios_uuid: Uuid,
    /// SMBIOS serial: nocloud reads `ds=nocloud` and `h=<hostname>` from here.
    pub smbios_serial: String,
    pub cpus: u32,
    pub memory_mib: u64,
    /// In the order of the boot order; the first bootable one is booted.
    pub disks: Vec<Disk>,
    /// An ISO in the CD drive; booted when no disk is bootable.
    pub cdrom: Option<ImageRef>,
    pub nics: Vec<Nic>,
    /// The content of PVE's cloud-init drive, if the VM has one.
    pub network: Option<NocloudNetwork>,
    /// `agent: enabled=1`: the guest agent's device exists.
    pub guest_agent: bool,
    /// OVMF with enrolled keys.
    pub secure_boot: bool,
}

/// A disk attached to a machine.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The PVE slot, such as `scsi0`, `virtio1`, `sata0`.
    pub slot: String,
    pub size_bytes: u64,
    pub serial: Option<String>,
    /// SSD emulation off and a spinning storage below.
    pub rotational: bool,
    pub read_only: bool,
    pub content: DiskContent,
}

/// An image somebody put on a disk or into a CD drive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageRef {
    /// Such as `nocloud-amd64.raw` or `talos-v1.13.9-nocloud-amd64.iso`.
    pub file_name: String,
    /// Such as `v1.13.9`; `None` for what is not Talos: the machine then starts and nothing answers.
    pub talos_version: Option<String>,
    /// Image Factory schematic id; `None` is the empty schematic.
    pub schematic: Option<String>,
    /// Platform of the image: `nocloud`, `metal`.
    pub platform: String,
}

/// A network card.
#[derive(Clone, Debug)]
pub struct Nic {
    /// `aa:bb:cc:dd:ee:ff`, any case.
    pub mac: String,
    pub bridge: String,
    pub vlan: Option<u16>,
    /// `None` is 1500.
    pub mtu: Option<u16>,
    /// `link_down=1` is false.
    pub connected: bool,
    /// The lease a DHCP server on this bridge would give; `None` if there is no such server.
    pub dhcp: Option<Lease>,
}

/// An address with what belongs to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    pub address: IpAddr,
    pub prefix: u8,
    pub gateway: Option<IpAddr>,
}

/// Network configuration of a cloud-init drive (`ipconfig0`, `nameserver`, `searchdomain`, the VM's name).
#[derive(Clone, Debug, Default)]
pub struct NocloudNetwork {
    /// `local-hostname` of the meta-data.
    pub hostname: Option<String>,
    pub interfaces: Vec<NocloudInterface>,
    pub nameservers: Vec<IpAddr>,
    pub search_domains: Vec<String>,
    /// `cicustom` user data, when it is a machine configuration.
    pub user_data: Option<String>,
}

/// One interface of a cloud-init drive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NocloudInterface {
    pub mac: String,
    pub addressing: Addressing,
}

/// How an interface gets its address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Addressing {
    /// `ip=dhcp`
    Dhcp,
    /// `ip=a.b.c.d/nn[,gw=…]`
    Static(Lease),
}

/// A guest as the hypervisor sees it from outside.
#[derive(Clone, Debug)]
pub struct Guest {
    /// A guest agent answers: the image has the extension and the VM has the device.
    pub agent: bool,
    pub hostname: String,
    /// MAC and addresses of each interface.
    pub interfaces: Vec<(String, Vec<IpAddr>)>,
    /// Short word of what it does now, such as `maintenance`, `running`, `no bootable device`.
    pub state: String,
}

/// What is on a disk: a handle, all clones of which are the same disk.
#[derive(Clone, Default)]
pub struct DiskContent(Arc<Mutex<Written>>);

#[derive(Default)]
struct Written {
    image: Option<ImageRef>,
    guest: Option<Arc<dyn Any + Send + Sync>>,
}

impl DiskContent {
    /// A new, empty disk.
    pub fn blank() -> Self {
        Self::default()
    }

    /// A disk an image was imported to.
    pub fn from_image(image: ImageRef) -> Self {
        Self(Arc::new(Mutex::new(Written { image: Some(image), guest: None })))
    }

    /// An independent copy, as a full or linked clone makes it.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let (image, guest) = self.read(|written| (written.image.clone(), written.guest.clone()));
        Self(Arc::new(Mutex::new(Written { image, guest })))
    }

    /// The image the disk boots from, whoever wrote it: the import or an installer.
    pub fn image(&self) -> Option<ImageRef> {
        self.read(|written| written.image.clone())
    }

    /// Installs an image, or wipes the disk so that it does not boot any more.
    pub fn set_image(&self, image: Option<ImageRef>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).image = image;
    }

    /// What the guest wrote last, if it is of this type.
    pub fn load<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.read(|written| written.guest.clone())?.downcast().ok()
    }

    /// Replaces what the guest wrote; a copy made before by [`Self::duplicate`] keeps the old.
    pub fn save<T: Any + Send + Sync>(&self, data: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).guest = Some(Arc::new(data));
    }

    /// Empties the disk: nothing boots from it and nothing is found on it.
    pub fn wipe(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Written::default();
    }

    /// Whether both handles are the same disk.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn read<T>(&self, reader: impl FnOnce(&Written) -> T) -> T {
        reader(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for DiskContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read(|written| {
            f.debug_struct("DiskContent")
                .field("image", &written.image)
                .field("written", &written.guest.is_some())
                .finish()
        })
    }
}
