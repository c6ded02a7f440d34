//! `/access/permissions`: what we may do, asked before we try.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::{Client, Result, form::Params};

/// Privileges by ACL path, as Proxmox computed them for our user or token.
#[derive(Clone, Debug, Default)]
pub struct Permissions(BTreeMap<String, BTreeMap<String, bool>>);

impl<'de> Deserialize<'de> for Permissions {
    fn deserialize<D: Deserializer<'de>>(de: D) -> std::result::Result<Self, D::Error> {
        let rows = BTreeMap::<String, BTreeMap<String, Value>>::deserialize(de)?;
        let propagates = |value: &Value| crate::lenient::text(value).is_some_and(|text| text == "1");
        let rows = rows.into_iter().map(|(path, privileges)| {
            (path, privileges.into_iter().map(|(name, value)| (name, propagates(&value))).collect())
        });
        Ok(Self(rows.collect()))
    }
}

impl Permissions {
    /// Whether `privilege` is held at `path`: by the nearest path at or above it that is listed, where an inherited
    /// one must propagate (proxmox.md 8: the most specific path replaces what is above).
    pub fn holds(&self, path: &str, privilege: &str) -> bool {
        let mut at = path;
        loop {
            if let Some(privileges) = self.0.get(at) {
                return privileges.get(privilege).is_some_and(|propagates| at == path || *propagates);
            }
            match at.rfind('/') {
                _ if at == "/" => return false,
                Some(0) | None => at = "/",
                Some(cut) => at = &at[..cut],
            }
        }
    }

    /// Which of `wanted` are not held at `path`.
    pub fn missing<'a>(&self, path: &str, wanted: &[&'a str]) -> BTreeSet<&'a str> {
        wanted.iter().copied().filter(|privilege| !self.holds(path, privilege)).collect()
    }
}

/// A row of `/access/roles`.
#[derive(Clone, Debug, Deserialize)]
pub struct Role {
    /// Its name.
    pub roleid: String,
}

impl Client {
    /// All roles, built-in ones too.
    pub async fn roles(&self) -> Result<Vec<Role>> {
        self.get("/access/roles", &Params::default()).await
    }

    /// Our own permissions. With `path`, computed for exactly that path.
    pub async fn permissions(&self, path: Option<&str>) -> Result<Permissions> {
        self.get("/access/permissions", &Params::default().with_some("path", path)).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_nearest_listed_path_decides() {
        let permissions: Permissions = serde_json::from_value(json!({
            "/": {"Sys.Audit": 1, "VM.Audit": 0},
            "/storage/local": {"Datastore.Audit": 1},
        }))
        .unwrap();
        assert!(permissions.holds("/nodes/pve1", "Sys.Audit"));
        assert!(permissions.holds("/", "VM.Audit"));
        assert!(!permissions.holds("/vms/100", "VM.Audit"), "it does not propagate");
        assert!(!permissions.holds("/storage/local", "Sys.Audit"), "the nearer path replaces");
        assert_eq!(permissions.missing("/storage/local", &["Datastore.Audit", "Datastore.Allocate"]).len(), 1);
    }
}
