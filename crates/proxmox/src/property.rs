//! Property strings such as `virtio=BC:24:11:00:00:01,bridge=vmbr0`.

use std::fmt;

/// A property string in parts: an optional leading value without a key, then `key=value` pairs in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Property {
    /// The part without a key, for example `local-lvm:vm-100-disk-0`.
    pub head: Option<String>,
    /// The rest.
    pub pairs: Vec<(String, String)>,
}

impl Property {
    /// A property string that begins with a value without a key.
    pub fn new(head: impl Into<String>) -> Self {
        Self { head: Some(head.into()), pairs: Vec::new() }
    }

    /// Reads `text`; never fails, since Proxmox wrote it.
    pub fn parse(text: &str) -> Self {
        let mut property = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some((key, value)) => property.pairs.push((key.trim().to_owned(), value.to_owned())),
                None => property.head = Some(part.to_owned()),
            }
        }
        property
    }

    /// The same with one more pair.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.pairs.push((key.to_owned(), value.to_string()));
        self
    }

    /// The same with one more pair if there is a value.
    #[must_use]
    pub fn with_some(self, key: &str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(head) = &self.head {
            f.write_str(head)?;
            separator = ",";
        }
        for (key, value) in &self.pairs {
            write!(f, "{separator}{key}={value}")?;
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_string_survives_reading_and_writing() {
        let text = "local-lvm:vm-100-disk-0,discard=on,size=32G,ssd=1";
        let property = Property::parse(text);
        assert_eq!(property.head.as_deref(), Some("local-lvm:vm-100-disk-0"));
        assert_eq!(property.get("size"), Some("32G"));
        assert_eq!(property.to_string(), text);
    }
}
