//! What a node keeps on its system disk, by partition: what survives a power cycle and what a reset wipes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rand::RngCore as _;

use super::etcd;
use crate::machine::{Disk, DiskContent, ImageRef, Machine};

/// Everything Talos writes.
#[derive(Clone, Default)]
pub(crate) struct Saved {
    /// STATE: the configuration for the next boot.
    pub(crate) config: Option<String>,
    /// STATE: who the node is for discovery.
    pub(crate) identity: Option<[u8; 32]>,
    /// META, by key.
    pub(crate) meta: BTreeMap<u8, String>,
    /// EPHEMERAL: `/var/lib/etcd`.
    pub(crate) etcd: Option<etcd::Data>,
    /// EPHEMERAL: `/var/lib/etcd.snapshot`.
    pub(crate) snapshot: Option<Vec<u8>>,
    /// EPHEMERAL: pulled images by namespace and reference.
    pub(crate) images: BTreeMap<(i32, String), String>,
    /// The other boot entry, which a rollback goes back to.
    pub(crate) previous: Option<ImageRef>,
}

/// A partition label that a reset may name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Partition {
    State,
    Ephemeral,
    Meta,
    Boot,
}

impl Partition {
    pub(crate) fn parse(label: &str) -> Option<Self> {
        match label {
            "STATE" => Some(Self::State),
            "EPHEMERAL" => Some(Self::Ephemeral),
            "META" => Some(Self::Meta),
            "EFI" | "BIOS" | "BOOT" => Some(Self::Boot),
            _ => None,
        }
    }
}

/// The disk Talos lives on, or memory as long as it runs from an ISO and is not installed.
#[derive(Clone)]
pub(crate) struct SystemDisk {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    device: Option<(String, DiskContent)>,
    saved: Saved,
}

impl SystemDisk {
    /// The disk the machine booted from; `None` for an ISO.
    pub(crate) fn new(device: Option<(String, DiskContent)>) -> Self {
        let loaded = device.as_ref().and_then(|(_, content)| content.load::<Saved>());
        let saved = loaded.map(|saved| Saved::clone(&saved)).unwrap_or_default();
        Self { inner: Arc::new(Mutex::new(Inner { device, saved })) }
    }

    pub(crate) fn is_installed(&self) -> bool {
        self.lock(|inner| inner.device.is_some())
    }

    /// Device name such as `sda`.
    pub(crate) fn device(&self) -> Option<String> {
        self.lock(|inner| inner.device.as_ref().map(|(name, _)| name.clone()))
    }

    pub(crate) fn read<T>(&self, reader: impl FnOnce(&Saved) -> T) -> T {
        self.lock(|inner| reader(&inner.saved))
    }

    /// Changes what is kept and writes it to the disk, if there is one.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut Saved) -> T) -> T {
        self.lock(|inner| {
            let result = change(&mut inner.saved);
            inner.flush();
            result
        })
    }

    /// Who this node is; made on first use.
    pub(crate) fn identity(&self) -> [u8; 32] {
        if let Some(identity) = self.read(|saved| saved.identity) {
            return identity;
        }
        let mut fresh = [0; 32];
        rand::rng().fill_bytes(&mut fresh);
        self.write(|saved| *saved.identity.get_or_insert(fresh))
    }

    /// Writes Talos to a disk, with what was kept in memory until now.
    pub(crate) fn install(&self, name: &str, content: &DiskContent, image: ImageRef) {
        self.lock(|inner| {
            content.wipe();
            content.set_image(Some(image));
            inner.device = Some((name.to_owned(), content.clone()));
            inner.flush();
        });
    }

    /// Installs another image beside the running one.
    pub(crate) fn upgrade(&self, image: ImageRef) {
        self.lock(|inner| {
            let Some((_, content)) = &inner.device else { return };
            inner.saved.previous = content.image();
            content.set_image(Some(image));
            inner.flush();
        });
    }

    /// Boots the other entry next time; false when there is none.
    pub(crate) fn rollback(&self) -> bool {
        self.lock(|inner| {
            let Some((_, content)) = &inner.device else { return false };
            let Some(previous) = inner.saved.previous.take() else { return false };
            inner.saved.previous = content.image();
            content.set_image(Some(previous));
            inner.flush();
            true
        })
    }

    /// Wipes single partitions; the node still boots from the disk unless the boot partition goes.
    pub(crate) fn wipe_partitions(&self, partitions: &[Partition]) {
        self.lock(|inner| {
            for partition in partitions {
                match partition {
                    Partition::State => {
                        inner.saved.config = None;
                        inner.saved.identity = None;
                    }
                    Partition::Ephemeral => {
                        inner.saved.etcd = None;
                        inner.saved.snapshot = None;
                        inner.saved.images.clear();
                    }
                    Partition::Meta => inner.saved.meta.clear(),
                    Partition::Boot => {
                        if let Some((_, content)) = &inner.device {
                            content.set_image(None);
                        }
                    }
                }
            }
            inner.flush();
        });
    }

    /// Wipes the whole disk: nothing boots from it afterwards.
    pub(crate) fn wipe(&self) {
        self.lock(|inner| {
            inner.saved = Saved::default();
            if let Some((_, content)) = inner.device.take() {
                content.wipe();
            }
        });
    }

    fn lock<T>(&self, action: impl FnOnce(&mut Inner) -> T) -> T {
        action(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    fn flush(&self) {
        if let Some((_, content)) = &self.device {
            content.save(self.saved.clone());
        }
    }
}

/// The kernel's names of a machine's disks, in its order: `sda`, `vda`, `nvme0n1`.
pub(crate) fn device_names(machine: &Machine) -> Vec<String> {
    let (mut scsi, mut virtio) = (b'a', b'a');
    let next = |counter: &mut u8, prefix: &str| {
        let name = format!("{prefix}{}", char::from(*counter));
        *counter += 1;
        name
    };
    machine
        .disks
        .iter()
        .map(|disk| if disk.slot.starts_with("virtio") { next(&mut virtio, "vd") } else { next(&mut scsi, "sd") })
        .collect()
}

/// The disk a machine boots from, with its device name.
pub(crate) fn boot_disk(machine: &Machine) -> Option<(String, &Disk, ImageRef)> {
    let names = device_names(machine);
    machine.disks.iter().zip(names).find_map(|(disk, name)| Some((name, disk, disk.content.image()?)))
}
