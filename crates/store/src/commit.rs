//! What one transaction holds: journal, inventory, secrets, outgoing messages, inbox row.

use std::{collections::BTreeMap, fmt};

use secrecy::SecretSlice;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    audit::Deed,
    rows::{InboxRow, RunState},
};

/// Names a run: UUIDv5 of source, message id and playbook.
pub type RunId = Uuid;

/// One transaction: all of it becomes durable together, or none.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Events to append to one run's journal.
    pub run: Option<RunAppend>,
    /// Playbook texts that runs pin by content hash; put once, kept.
    pub definitions: Vec<Definition>,
    /// Changes of the inventory, checked against their preconditions.
    pub inventory: Vec<InventoryChange>,
    /// Secrets to seal and keep.
    pub secrets: Vec<SecretPut>,
    /// Messages to publish once this is durable.
    pub outgoing: Vec<Outgoing>,
    /// The message that caused this; a second commit with the same key is refused as [`CommitError::Duplicate`], unless the
    /// first had something `said` instead of doing what the message asks for.
    pub inbox: Option<InboxKey>,
    /// What is said of that message where it starts no run; at most 60 KiB as JSON, and kept as long as its inbox row.
    pub said: Option<Value>,
    /// Runs of an ended flow: their journals become one compressed row each. Their last state must be terminal.
    pub archive: Vec<RunId>,
    /// What the audit log keeps of this, in order.
    pub audit: Vec<Deed>,
}

impl Commit {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.run.is_none()
            && self.definitions.is_empty()
            && self.inventory.is_empty()
            && self.secrets.is_empty()
            && self.outgoing.is_empty()
            && self.inbox.is_none()
            && self.archive.is_empty()
            && self.audit.is_empty()
    }
}

/// Events for one run's journal.
#[derive(Clone, Debug)]
pub struct RunAppend {
    /// The run.
    pub run: RunId,
    /// How many events its journal holds before this: 0 starts a new run. Another count is [`CommitError::Sequence`].
    pub expected_seq: u64,
    /// The events, at most 60 KiB each as JSON.
    pub events: Vec<Value>,
    /// What the run index says from now on; required when `expected_seq` is 0, otherwise `None` keeps it.
    pub summary: Option<RunSummary>,
}

/// What lists show of a run without reading its journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// Correlation id.
    pub flow: Uuid,
    /// Playbook name.
    pub playbook: String,
    /// The cluster it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Where it stands.
    pub state: RunState,
    /// Whatever else a list shows (wait reason, step counts, failure), at most a few KiB.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

/// A playbook's text under its content hash.
#[derive(Clone, Debug)]
pub struct Definition {
    /// SHA-256 of the text, hexadecimal.
    pub hash: String,
    /// The text.
    pub text: String,
}

/// One change of the inventory, with what must hold for it.
#[derive(Clone, Debug)]
pub struct InventoryChange {
    /// `vm/<node uid>`, `cluster/<name>`, …: `/`-separated, first part names the kind.
    pub key: String,
    /// What must hold when it commits.
    pub precondition: Precondition,
    /// The new value (at most 60 KiB as JSON), or `None` to delete.
    pub value: Option<Value>,
}

impl InventoryChange {
    /// Writes `value` whatever was there.
    pub fn put(key: impl Into<String>, value: Value) -> Self {
        Self { key: key.into(), precondition: Precondition::Any, value: Some(value) }
    }

    /// Writes `value` where nothing is.
    pub fn create(key: impl Into<String>, value: Value) -> Self {
        Self { key: key.into(), precondition: Precondition::Absent, value: Some(value) }
    }

    /// Writes `value` over the revision that was read.
    pub fn update(key: impl Into<String>, revision: u64, value: Value) -> Self {
        Self { key: key.into(), precondition: Precondition::Revision(revision), value: Some(value) }
    }

    /// Deletes whatever is there; nothing there is fine.
    pub fn delete(key: impl Into<String>) -> Self {
        Self { key: key.into(), precondition: Precondition::Any, value: None }
    }

    /// Deletes the revision that was read.
    pub fn delete_at(key: impl Into<String>, revision: u64) -> Self {
        Self { key: key.into(), precondition: Precondition::Revision(revision), value: None }
    }
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
    pub plain: Option<SecretSlice<u8>>,
}

impl fmt::Debug for SecretPut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretPut").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A message for the outbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// `ce-id`; the publisher makes `Nats-Msg-Id` of source and id, so publishing twice stores it once.
    pub id: String,
    /// Which queue it waits in.
    pub lane: Lane,
    /// Where it goes.
    pub subject: String,
    /// Headers as they go out, sorted by name.
    pub headers: BTreeMap<String, String>,
    /// The body, JSON text.
    pub body: String,
}

/// The queues of the outbox: what waits in one holds up nothing in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Requests and handoffs: kept until published, one after the other.
    Handoff,
    /// Events: the oldest fall out when the bus is away for very long.
    Event,
    /// Messages that could not be taken: kept until published.
    DeadLetter,
}

impl Lane {
    /// Every lane.
    pub const ALL: [Self; 3] = [Self::Handoff, Self::Event, Self::DeadLetter];
}

/// Identity of a received message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InboxKey {
    /// `ce-source`.
    pub source: String,
    /// `ce-id`.
    pub id: String,
}

/// What a durable commit was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The store's revision: grows by one with each commit; the revision of every inventory key it wrote.
    pub revision: u64,
    /// Journal length of `Commit::run` after it.
    pub run_seq: Option<u64>,
    /// New generation by secret name.
    pub generations: BTreeMap<String, u64>,
    /// Outbox sequence of each outgoing message, in order.
    pub outgoing: Vec<u64>,
}

/// Why nothing of a commit was written.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Somebody else appended to the run.
    #[error("journal of run {run} holds {actual} events, not {expected}")]
    Sequence {
        /// The run.
        run: RunId,
        /// What the commit expected.
        expected: u64,
        /// What is there.
        actual: u64,
    },
    /// An inventory key is not what the commit was computed from.
    #[error("inventory key `{key}` is at {}, not {}", revision(.actual), expectation(.expected))]
    Precondition {
        /// The key.
        key: String,
        /// What the commit expected.
        expected: Precondition,
        /// The revision it has; `None` when it does not exist.
        actual: Option<u64>,
    },
    /// The inbox knows this message.
    #[error("message {} of {} was taken at {}", .key.id, .key.source, .first.at)]
    Duplicate {
        /// The message.
        key: InboxKey,
        /// What was kept of its first arrival.
        first: Box<InboxRow>,
    },
    /// A value above its cap: 60 KiB per event, inventory value or message; 4 MiB per secret.
    #[error("{what} is {size} bytes, above the cap of {cap}")]
    TooLarge {
        /// Which value.
        what: String,
        /// Its size in bytes.
        size: usize,
        /// The cap in bytes.
        cap: usize,
    },
    /// The commit contradicts itself or the store, for example an archive of a run that has not ended.
    #[error("not a valid commit: {0}")]
    Invalid(String),
    /// No room on the disk; nothing was written. Try again when there is room.
    #[error("the disk is full ({free} bytes free, {reserve} kept in reserve)")]
    DiskFull {
        /// Bytes free on the store's file system.
        free: u64,
        /// Bytes that the store keeps free.
        reserve: u64,
    },
    /// A record that the commit depends on is damaged; nothing was written, other commits go on.
    #[error("a record that the commit needs is damaged: {0}")]
    Damaged(String),
    /// Writing failed: whether this commit will be there is known only when the store is opened again, as after a
    /// crash. The store takes no more writes until then.
    #[error("the store failed and takes no more writes until it is opened again: {0}")]
    Failed(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl CommitError {
    /// Whether the same commit may succeed later without anything else changing.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }
}

fn revision(actual: &Option<u64>) -> String {
    actual.map_or_else(|| "no revision (absent)".to_owned(), |revision| format!("revision {revision}"))
}

fn expectation(expected: &Precondition) -> String {
    match expected {
        Precondition::Any => "anything".to_owned(),
        Precondition::Absent => "absent".to_owned(),
        Precondition::Revision(revision) => format!("revision {revision}"),
    }
}
