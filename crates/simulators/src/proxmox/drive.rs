//! Drive and network strings of a VM's configuration: parsed, and printed in their canonical order (proxmox.md 3.2).

use super::{
    formats,
    schema::{Property, SCHEMA},
    validate::{self, Parts},
    version::Version,
};

const CREATE: (&str, &str) = ("POST", "/nodes/{node}/qemu");

/// A disk, CD-ROM, EFI variable store or TPM state of a VM.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Drive {
    /// Such as `scsi0`.
    pub(crate) slot: String,
    /// A volume id, an absolute path, `none` or `cdrom`.
    pub(crate) file: String,
    /// Everything but the file.
    pub(crate) options: Parts,
}

/// Whether a configuration key names a drive.
pub(crate) fn is_drive(key: &str) -> bool {
    slot_group(key).is_some() && !key.starts_with("unused")
}

pub(crate) fn is_unused(key: &str) -> bool {
    key.strip_prefix("unused").is_some_and(|index| index.parse::<u8>().is_ok())
}

pub(crate) fn is_net(key: &str) -> bool {
    key.strip_prefix("net").is_some_and(|index| index.parse::<u8>().is_ok_and(|index| index < 32))
}

fn slot_group(key: &str) -> Option<&'static [Property]> {
    let names =
        [("ide", 3), ("sata", 5), ("scsi", 30), ("virtio", 15), ("efidisk", 0), ("tpmstate", 0), ("unused", 255)];
    let (name, _) = names.into_iter().find(|(name, max)| {
        key.strip_prefix(name).is_some_and(|index| index.parse::<u16>().is_ok_and(|index| index <= *max))
    })?;
    let param = match name {
        "efidisk" => "efidisk0",
        "tpmstate" => "tpmstate0",
        other => other,
    };
    Some(SCHEMA.group_of(CREATE.0, CREATE.1, param))
}

impl Drive {
    /// Parses what the schema already accepted.
    pub(crate) fn parse(slot: &str, text: &str) -> Option<Self> {
        let group = slot_group(slot)?;
        let mut options = validate::property_string(group, text, (slot, Version::V9))
            .or_else(|_| validate::property_string(group, text, (slot, Version::V8)))
            .ok()?;
        let file = options.shift_remove("file")?;
        Some(Self { slot: slot.to_owned(), file, options })
    }

    /// The file first, everything else in alphabetical order.
    pub(crate) fn print(&self) -> String {
        let mut options: Vec<_> = self.options.iter().collect();
        options.sort();
        options.iter().fold(self.file.clone(), |text, (key, value)| format!("{text},{key}={value}"))
    }

    pub(crate) fn is_cdrom(&self) -> bool {
        self.options.get("media").is_some_and(|media| media == "cdrom") || self.is_cloudinit()
    }

    /// The drive that PVE itself writes with the cloud-init configuration.
    pub(crate) fn is_cloudinit(&self) -> bool {
        let volume = formats::parse_volume_id(&self.file).map_or("", |(_, volume)| volume);
        let name = volume.rsplit('/').next().unwrap_or_default();
        volume == "cloudinit"
            || (name.starts_with("vm-") && name.split('.').next().unwrap_or_default().ends_with("-cloudinit"))
    }

    /// Storage and size of a disk that is still to be allocated: `STORAGE:SIZE_GIB`.
    pub(crate) fn wants_new(&self) -> Option<(&str, f64)> {
        let (storage, size) = formats::parse_volume_id(&self.file)?;
        let plain = !size.is_empty() && size.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        Some((storage, size.parse().ok().filter(|_| plain)?))
    }

    /// The storage and volume of an existing volume.
    pub(crate) fn volume(&self) -> Option<(&str, &str)> {
        formats::parse_volume_id(&self.file)
    }

    pub(crate) fn size(&self) -> Option<u64> {
        formats::parse_size(self.options.get("size")?)
    }

    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.options.insert(key.to_owned(), value.to_owned());
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        self.options.get(key).is_some_and(|value| value == "1")
    }
}

/// A network card of a VM.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Net {
    pub(crate) model: String,
    pub(crate) mac: Option<String>,
    pub(crate) options: Parts,
}

impl Net {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let group = SCHEMA.group_of(CREATE.0, CREATE.1, "net");
        let mut options = validate::property_string(group, text, ("net", Version::V9)).ok()?;
        let model = options.shift_remove("model")?;
        let mac = options.shift_remove("macaddr").map(|mac| mac.to_uppercase());
        Some(Self { model, mac, options })
    }

    /// `virtio=BC:24:11:…,bridge=vmbr0,…`
    pub(crate) fn print(&self) -> String {
        let first = self.mac.as_ref().map_or_else(|| self.model.clone(), |mac| format!("{}={mac}", self.model));
        let mut options: Vec<_> = self.options.iter().collect();
        options.sort();
        options.iter().fold(first, |text, (key, value)| format!("{text},{key}={value}"))
    }

    pub(crate) fn bridge(&self) -> Option<&str> {
        self.options.get("bridge").map(String::as_str)
    }

    pub(crate) fn tag(&self) -> Option<u16> {
        self.options.get("tag")?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives_print_their_volume_first_and_the_rest_alphabetically() {
        let mut drive = Drive::parse("scsi0", "ssd=yes,file=local-lvm:vm-100-disk-0,discard=on").unwrap();
        drive.set("size", "32G");
        assert_eq!(drive.print(), "local-lvm:vm-100-disk-0,discard=on,size=32G,ssd=1");
        assert_eq!(drive.wants_new(), None);
        assert_eq!(Drive::parse("scsi0", "local-lvm:32").unwrap().wants_new(), Some(("local-lvm", 32.0)));
        assert!(Drive::parse("ide2", "local-lvm:cloudinit").unwrap().is_cloudinit());
    }

    #[test]
    fn nets_print_the_model_with_its_mac_first() {
        let net = Net::parse("tag=20,bridge=vmbr0,virtio=bc:24:11:aa:bb:cc,firewall=yes").unwrap();
        assert_eq!(net.print(), "virtio=BC:24:11:AA:BB:CC,bridge=vmbr0,firewall=1,tag=20");
        let same = Net::parse("model=virtio,macaddr=BC:24:11:AA:BB:CC,bridge=vmbr0,firewall=1,tag=20").unwrap();
        assert_eq!(same, net);
    }
}
