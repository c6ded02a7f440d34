//! A VM's configuration file: sorted keys, description as comments, digest over the text (proxmox.md 3).

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::{Map, Value};
use sha1::{Digest, Sha1};

use super::{
    drive::{self, Drive, Net},
    schema::{Call, SCHEMA},
    version::Version,
};

static CREATE: LazyLock<&'static Call> = LazyLock::new(|| {
    let found = SCHEMA.find("POST", "/nodes/n/qemu", Version::V9);
    found.map(|(call, _)| call).expect("the schema holds the create call")
});

/// Keys and values of one section of a configuration file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Config {
    values: BTreeMap<String, String>,
}

impl Config {
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    pub(crate) fn set(&mut self, key: &str, value: impl Into<String>) {
        self.values.insert(key.to_owned(), value.into());
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<String> {
        self.values.remove(key)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        self.get(key) == Some("1")
    }

    pub(crate) fn int(&self, key: &str) -> Option<u64> {
        self.get(key)?.parse().ok()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All drives, in the order of their slots.
    pub(crate) fn drives(&self) -> Vec<Drive> {
        self.iter()
            .filter(|(key, _)| drive::is_drive(key))
            .filter_map(|(key, value)| Drive::parse(key, value))
            .collect()
    }

    pub(crate) fn drive(&self, slot: &str) -> Option<Drive> {
        Drive::parse(slot, self.get(slot)?)
    }

    /// Network cards by index.
    pub(crate) fn nets(&self) -> BTreeMap<u8, Net> {
        let nets = self.iter().filter(|(key, _)| drive::is_net(key));
        nets.filter_map(|(key, value)| Some((key.strip_prefix("net")?.parse().ok()?, Net::parse(value)?))).collect()
    }

    /// Volume ids of all disks that belong to the VM, unused ones included.
    pub(crate) fn owned_volumes(&self, vmid: u32) -> Vec<String> {
        let unused = self.iter().filter(|(key, _)| drive::is_unused(key)).map(|(_, value)| value.to_owned());
        let used = self.drives().into_iter().map(|drive| drive.file);
        used.chain(unused).filter(|volume| owner(volume) == Some(vmid)).collect()
    }

    /// Keeps a detached volume under the first free `unusedN`.
    pub(crate) fn add_unused(&mut self, volume: &str) {
        let known = self.iter().any(|(key, value)| drive::is_unused(key) && value == volume);
        let free = (0..=255).map(|index| format!("unused{index}")).find(|key| !self.has(key));
        if let Some(key) = free.filter(|_| !known) {
            self.set(&key, volume);
        }
    }

    /// MiB of memory.
    pub(crate) fn memory(&self) -> u64 {
        self.get("memory").and_then(|text| text.strip_prefix("current=").unwrap_or(text).parse().ok()).unwrap_or(512)
    }

    /// Virtual CPUs.
    pub(crate) fn cpus(&self) -> u64 {
        let all = self.int("sockets").unwrap_or(1) * self.int("cores").unwrap_or(1);
        self.int("vcpus").filter(|vcpus| *vcpus > 0).unwrap_or(all)
    }

    /// The file's text: description as comment lines, then sorted `key: value` lines.
    fn text(&self) -> String {
        let mut text = String::new();
        for line in self.get("description").unwrap_or_default().lines() {
            text.push_str(&format!("#{}\n", line.replace('%', "%25").replace(':', "%3A")));
        }
        for (key, value) in self.iter().filter(|(key, _)| *key != "description") {
            text.push_str(&format!("{key}: {value}\n"));
        }
        text
    }

    /// Values as `GET config` types them: integer, number and boolean options are numbers, all else is text.
    pub(crate) fn json(&self) -> Map<String, Value> {
        self.iter().map(|(key, value)| (key.to_owned(), typed(key, value))).collect()
    }
}

/// SHA-1 over the text of all sections.
pub(crate) fn digest<'a>(sections: impl Iterator<Item = (&'a str, &'a Config)>) -> String {
    let mut hash = Sha1::new();
    for (name, section) in sections {
        if !name.is_empty() {
            hash.update(format!("\n[{name}]\n"));
        }
        hash.update(section.text());
    }
    hex::encode(hash.finalize())
}

/// One configuration value as JSON.
pub(crate) fn typed(key: &str, value: &str) -> Value {
    let property = CREATE.params(Version::V9).find(|property| property.covers(key));
    let number = match property.map(|property| property.rules.kind) {
        Some("integer" | "boolean") => value.parse::<i64>().ok().map(Value::from),
        Some("number") => value.parse::<f64>().ok().map(|number| match number.fract() == 0.0 {
            true => Value::from(number as i64),
            false => Value::from(number),
        }),
        _ => None,
    };
    number.unwrap_or_else(|| Value::from(value))
}

/// The VM a volume belongs to, from its name.
pub(crate) fn owner(volume: &str) -> Option<u32> {
    let (_, name) = super::formats::parse_volume_id(volume)?;
    let name = name.rsplit('/').next()?;
    let rest = name.strip_prefix("vm-").or_else(|| name.strip_prefix("base-"))?;
    rest.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_typed_as_the_api_types_them() {
        assert_eq!(typed("memory", "2048"), Value::from("2048"));
        assert_eq!(typed("cores", "2"), Value::from(2));
        assert_eq!(typed("onboot", "1"), Value::from(1));
        assert_eq!(typed("net0", "virtio"), Value::from("virtio"));
    }

    #[test]
    fn volumes_name_their_owner() {
        assert_eq!(owner("local-lvm:vm-100-disk-0"), Some(100));
        assert_eq!(owner("local:100/vm-100-disk-0.qcow2"), Some(100));
        assert_eq!(owner("zfs:base-9000-disk-0/vm-101-disk-0"), Some(101));
        assert_eq!(owner("local:iso/x.iso"), None);
    }

    #[test]
    fn the_digest_changes_with_any_section() {
        let mut config = Config::default();
        config.set("name", "a");
        let pending = Config::default();
        let one = digest([("", &config), ("PENDING", &pending)].into_iter());
        config.set("name", "b");
        assert_ne!(one, digest([("", &config), ("PENDING", &pending)].into_iter()));
        assert_eq!(one.len(), 40);
    }
}
