//! Journal, inventory, inbox, outbox and sealed secrets on sled, behind one `commit`.

use serde_json::Value;

/// One change of the inventory, with what must hold for it.
#[derive(Clone, Debug)]
pub struct InventoryChange {
    /// `vm/<node uid>`, `cluster/<name>`, …: `/`-separated, first part names the kind.
    pub key: String,
    /// What must hold when it commits.
    pub precondition: Precondition,
    /// The new value, or `None` to delete.
    pub value: Option<Value>,
}

/// What must hold of an inventory key at commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists at this revision.
    Revision(u64),
}

/// A secret to seal (age) and keep under a name; each put is a new generation.
#[derive(Clone)]
pub struct SecretPut {
    /// `cluster/<name>/secrets`, …
    pub name: String,
    /// The plain bytes; sealed before they touch the disk. `None` deletes all generations.
    pub plain: Option<secrecy::SecretSlice<u8>>,
}

impl std::fmt::Debug for SecretPut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretPut").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Consistent reads of inventory and secrets; a cheap clone.
#[derive(Clone)]
pub struct Reader {}
