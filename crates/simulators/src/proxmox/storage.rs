//! Storages and the volumes on them, with capacity accounting (proxmox.md 3.2, 6 and 10).

use std::collections::{BTreeMap, BTreeSet};

use super::formats;
use crate::machine::{DiskContent, ImageRef};

/// The kind of a storage, which decides names, features and when it runs full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageKind {
    /// A directory: files of every content type, qcow2 disks.
    Dir,
    /// A directory on a server, seen by all nodes.
    Nfs,
    /// Thin volumes in a volume group of the node.
    LvmThin,
    /// Volumes of their full size; runs out of space when they are made.
    Lvm,
    /// Zvols of a pool of the node.
    ZfsPool,
    /// Ceph, seen by all nodes.
    Rbd,
}

impl StorageKind {
    /// The plugin's name in the API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dir => "dir",
            Self::Nfs => "nfs",
            Self::LvmThin => "lvmthin",
            Self::Lvm => "lvm",
            Self::ZfsPool => "zfspool",
            Self::Rbd => "rbd",
        }
    }

    pub(crate) fn is_file_based(self) -> bool {
        matches!(self, Self::Dir | Self::Nfs)
    }

    fn links_by_name(self) -> bool {
        !matches!(self, Self::LvmThin | Self::Lvm)
    }

    pub(crate) fn can_link(self) -> bool {
        self != Self::Lvm
    }

    /// Whether only what is written takes room.
    pub(crate) fn is_thin(self) -> bool {
        self != Self::Lvm
    }
}

impl std::str::FromStr for StorageKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let kinds = [Self::Dir, Self::Nfs, Self::LvmThin, Self::Lvm, Self::ZfsPool, Self::Rbd];
        kinds.into_iter().find(|kind| kind.name() == text).ok_or_else(|| format!("unknown storage type {text:?}"))
    }
}

/// A storage definition of `storage.cfg`.
#[derive(Clone, Debug)]
pub struct Storage {
    pub name: String,
    pub kind: StorageKind,
    /// `images`, `rootdir`, `iso`, `vztmpl`, `import`, `snippets`, `backup`.
    pub content: BTreeSet<String>,
    /// Bytes per node, or in all when shared.
    pub size: u64,
    /// Bytes that something else than the lab's volumes uses.
    pub foreign_use: u64,
    /// Only on these nodes; empty means on all.
    pub nodes: BTreeSet<String>,
    pub disabled: bool,
}

impl Storage {
    pub fn new(name: &str, kind: StorageKind, content: &[&str], size: u64) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            content: content.iter().map(|content| (*content).to_owned()).collect(),
            size,
            foreign_use: 0,
            nodes: BTreeSet::new(),
            disabled: false,
        }
    }

    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.kind, StorageKind::Nfs | StorageKind::Rbd)
    }

    pub(crate) fn holds(&self, content: &str) -> bool {
        self.content.contains(content)
    }

    pub(crate) fn is_on(&self, host: &str) -> bool {
        self.nodes.is_empty() || self.nodes.contains(host)
    }

    /// Where files lie on the node.
    pub(crate) fn path(&self) -> String {
        match self.kind {
            StorageKind::Dir if self.name == "local" => "/var/lib/vz".to_owned(),
            StorageKind::Dir => format!("/srv/{}", self.name),
            _ => format!("/mnt/pve/{}", self.name),
        }
    }

    pub(crate) fn file_path(&self, content: &str, file: &str) -> String {
        let folder = match content {
            "iso" => "template/iso",
            "vztmpl" => "template/cache",
            other => other,
        };
        format!("{}/{folder}/{file}", self.path())
    }

    /// The volume id of a new disk of a VM.
    pub(crate) fn disk_name(&self, vmid: u32, name: &str, format: &str) -> String {
        if self.kind.is_file_based() { format!("{vmid}/{name}.{format}") } else { name.to_owned() }
    }

    /// The volume of a linked clone carries its base in its name, except on LVM-thin.
    pub(crate) fn linked_name(&self, base: &str, own: &str) -> String {
        if self.kind.links_by_name() { format!("{base}/{own}") } else { own.to_owned() }
    }

    pub(crate) fn default_format(&self) -> &'static str {
        "raw"
    }
}

/// One volume on a storage.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    /// `images`, `iso`, `import`, `vztmpl`.
    pub(crate) content_type: &'static str,
    pub(crate) format: String,
    /// Virtual size in bytes.
    pub(crate) size: u64,
    /// Bytes really written, on thin storages what counts.
    pub(crate) written: u64,
    pub(crate) vmid: Option<u32>,
    pub(crate) parent: Option<String>,
    /// Unix seconds.
    pub(crate) created: i64,
    pub(crate) content: DiskContent,
    /// What a downloaded or uploaded file holds.
    pub(crate) file: Option<StoredFile>,
}

/// A file that came over the network.
#[derive(Clone, Debug)]
pub(crate) struct StoredFile {
    pub(crate) bytes: bytes::Bytes,
    pub(crate) image: Option<ImageRef>,
    /// Virtual size of the disk inside.
    pub(crate) virtual_size: u64,
}

/// Node (empty when shared) and volume id.
type Key = (String, String);

/// All volumes of the cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volumes {
    by_key: BTreeMap<Key, Volume>,
}

impl Volumes {
    fn key(storage: &Storage, host: &str, volume: &str) -> Key {
        let place = if storage.is_shared() { String::new() } else { host.to_owned() };
        (place, format!("{}:{volume}", storage.name))
    }

    pub(crate) fn get(&self, storage: &Storage, host: &str, volume: &str) -> Option<&Volume> {
        self.by_key.get(&Self::key(storage, host, volume))
    }

    pub(crate) fn get_mut(&mut self, storage: &Storage, host: &str, volume: &str) -> Option<&mut Volume> {
        self.by_key.get_mut(&Self::key(storage, host, volume))
    }

    pub(crate) fn insert(&mut self, storage: &Storage, host: &str, name: &str, volume: Volume) {
        self.by_key.insert(Self::key(storage, host, name), volume);
    }

    pub(crate) fn remove(&mut self, storage: &Storage, host: &str, volume: &str) -> Option<Volume> {
        self.by_key.remove(&Self::key(storage, host, volume))
    }

    /// Volumes on one storage as a node sees them, by volume name.
    pub(crate) fn on<'a>(&'a self, storage: &'a Storage, host: &'a str) -> impl Iterator<Item = (&'a str, &'a Volume)> {
        let place = if storage.is_shared() { "" } else { host };
        self.by_key.iter().filter_map(move |((at, id), volume)| {
            let (name, file) = formats::parse_volume_id(id)?;
            (at == place && name == storage.name).then_some((file, volume))
        })
    }

    /// Every volume with its place and id.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &str, &Volume)> {
        self.by_key.iter().map(|((host, id), volume)| (host.as_str(), id.as_str(), volume))
    }

    /// Bytes in use on a storage as a node sees it.
    pub(crate) fn used(&self, storage: &Storage, host: &str) -> u64 {
        let counted = |volume: &Volume| if storage.kind.is_thin() { volume.written } else { volume.size };
        let own: u64 = self.on(storage, host).map(|(_, volume)| counted(volume)).sum();
        own.saturating_add(storage.foreign_use).min(storage.size)
    }

    /// The first `…-disk-N` of a VM that is free on a storage.
    pub(crate) fn free_disk(&self, storage: &Storage, host: &str, vmid: u32) -> String {
        let taken: BTreeSet<u32> = self
            .on(storage, host)
            .filter_map(|(name, _)| {
                let own = name.rsplit('/').next()?.split('.').next()?;
                let rest = own.strip_prefix("vm-").or_else(|| own.strip_prefix("base-"))?;
                rest.strip_prefix(&format!("{vmid}-disk-"))?.parse().ok()
            })
            .collect();
        let free = (0..).find(|index| !taken.contains(index)).unwrap_or_default();
        format!("vm-{vmid}-disk-{free}")
    }

    /// Volumes that were cloned from a base volume and still need it.
    pub(crate) fn has_children(&self, base: &str) -> bool {
        self.by_key.values().any(|volume| volume.parent.as_deref() == Some(base))
    }
}

/// Why a new volume of a size does not fit, in the words of the plugin; where volumes are thin it always does.
pub(crate) fn refuse_space(storage: &Storage, used: u64, size: u64) -> Option<String> {
    let free = storage.size.saturating_sub(used);
    let refused = !storage.kind.is_thin() && free < size;
    refused.then(|| format!("not enough free space ({} < {})", free >> 10, size >> 10))
}
