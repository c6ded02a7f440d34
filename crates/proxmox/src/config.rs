//! A VM's configuration as Proxmox holds it.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::{lenient, property::Property};

/// Options by name, all as text: Proxmox sends some as numbers, others as strings, and not always the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmConfig(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for VmConfig {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let values = BTreeMap::<String, Value>::deserialize(de)?;
        Ok(Self(values.iter().filter_map(|(name, value)| Some((name.clone(), lenient::text(value)?))).collect()))
    }
}

impl VmConfig {
    /// The option called `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Options in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// SHA-1 of the config file: give it back with a change to notice somebody else's.
    pub fn digest(&self) -> Option<&str> {
        self.get("digest")
    }

    /// `clone`, `create`, `backup`, … while an operation holds the VM.
    pub fn lock(&self) -> Option<&str> {
        self.get("lock")
    }

    /// Whether it cannot be started because it is a template.
    pub fn is_template(&self) -> bool {
        self.flag("template")
    }

    /// Whether it may not be destroyed.
    pub fn is_protected(&self) -> bool {
        self.flag("protection")
    }

    /// Its tags, sorted and lower-cased by Proxmox unless the datacenter says otherwise.
    pub fn tags(&self) -> Vec<&str> {
        self.get("tags")
            .into_iter()
            .flat_map(|tags| tags.split([';', ',', ' ']))
            .filter(|tag| !tag.is_empty())
            .collect()
    }

    /// The UUID in `smbios1`, as it is written there: what Talos reports as the machine's UUID.
    pub fn smbios_uuid(&self) -> Option<String> {
        Property::parse(self.get("smbios1")?).get("uuid").map(str::to_owned)
    }

    /// MAC address by NIC, `net0` first.
    pub fn macs(&self) -> BTreeMap<String, Mac> {
        self.0
            .iter()
            .filter(|(name, _)| index_of(name, "net").is_some())
            .filter_map(|(name, value)| Some((name.clone(), mac_of_nic(value)?)))
            .collect()
    }

    /// Disks and drives by slot, `unusedN` included.
    pub fn volumes(&self) -> BTreeMap<&str, Property> {
        let buses = ["scsi", "virtio", "sata", "ide", "unused", "efidisk", "tpmstate"];
        self.iter()
            .filter(|(name, _)| buses.iter().any(|bus| index_of(name, bus).is_some()))
            .map(|(name, value)| (name, Property::parse(value)))
            .collect()
    }

    fn flag(&self, name: &str) -> bool {
        self.get(name) == Some("1")
    }
}

fn index_of(name: &str, prefix: &str) -> Option<u32> {
    name.strip_prefix(prefix)?.parse().ok()
}

/// `virtio=BC:24:11:…,bridge=…`: the MAC is the value of the model.
fn mac_of_nic(value: &str) -> Option<Mac> {
    let property = Property::parse(value);
    let model = ["virtio", "e1000", "e1000e", "vmxnet3", "rtl8139"];
    let written = model.iter().find_map(|model| property.get(model)).or_else(|| property.get("macaddr"));
    let (_, first) = property.pairs.first()?;
    written.unwrap_or(first).parse().ok()
}

/// A MAC address; compares by its bytes, prints in upper case as the config does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// An address under Proxmox's own prefix `BC:24:11` (proxmox.md 3.2).
    pub fn proxmox(rest: [u8; 3]) -> Self {
        let [a, b, c] = rest;
        Self([0xBC, 0x24, 0x11, a, b, c])
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no = || format!("{text:?} is not a MAC address");
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(no)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| no())?;
        }
        if parts.next().is_some() {
            return Err(no());
        }
        if bytes[0] & 1 == 1 {
            return Err(format!("{text:?} is a multicast address"));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02X}:{b:02X}:{c:02X}:{d:02X}:{e:02X}:{g:02X}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_config_is_read_whether_values_are_numbers_or_strings() {
        let config: VmConfig = serde_json::from_value(json!({
            "name": "prod-k8s-cp-1", "memory": "4096", "cores": 2, "onboot": 1, "template": "1",
            "tags": "cortex;prod-k8s", "digest": "abc", "smbios1": "uuid=1b4e28ba-2fa1-11d2-883f-0016d3cca427",
            "net0": "virtio=bc:24:11:00:00:01,bridge=vmbr0,tag=20", "net1": "e1000=BC:24:11:00:00:02,bridge=vmbr1",
            "scsi0": "local-lvm:vm-100-disk-0,discard=on,size=32G,ssd=1", "scsihw": "virtio-scsi-pci",
            "ide2": "local-lvm:vm-100-cloudinit,media=cdrom,size=4M",
        }))
        .unwrap();
        assert_eq!(config.get("cores"), Some("2"));
        assert!(config.is_template() && !config.is_protected());
        assert_eq!(config.tags(), ["cortex", "prod-k8s"]);
        assert_eq!(config.smbios_uuid().as_deref(), Some("1b4e28ba-2fa1-11d2-883f-0016d3cca427"));
        let macs: Vec<_> = config.macs().into_values().map(|mac| mac.to_string()).collect();
        assert_eq!(macs, ["BC:24:11:00:00:01", "BC:24:11:00:00:02"]);
        assert_eq!(config.volumes().keys().copied().collect::<Vec<_>>(), ["ide2", "scsi0"]);
    }

    #[test]
    fn a_multicast_mac_is_refused() {
        assert!("01:00:5E:00:00:01".parse::<Mac>().is_err());
        assert_eq!("bc-24-11-0a-0b-0c".parse::<Mac>().unwrap(), Mac::proxmox([10, 11, 12]));
    }
}
