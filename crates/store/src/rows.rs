//! What readers get back: runs, inbox and outbox rows, and how to ask for them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::commit::{Outgoing, RunId, RunSummary};

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Accepted, holds no locks yet.
    Pending,
    /// At work.
    Running,
    /// At work, and the world is not ready.
    Waiting,
    /// Stopped by its failure policy or an operator; resumable.
    Paused,
    /// Undoing.
    Undoing,
    /// An undo failed: an operator must look.
    Stuck,
    /// Done; can be undone while its flow is open.
    Succeeded,
    /// Undone.
    Undone,
    /// Failed and left as it is, by policy.
    Kept,
    /// Cancelled.
    Cancelled,
}

impl RunState {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Running,
        Self::Waiting,
        Self::Paused,
        Self::Undoing,
        Self::Stuck,
        Self::Succeeded,
        Self::Undone,
        Self::Kept,
        Self::Cancelled,
    ];

    /// Whether nothing follows unless somebody asks for it.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Undone | Self::Kept | Self::Cancelled)
    }

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Undoing => "undoing",
            Self::Stuck => "stuck",
            Self::Succeeded => "succeeded",
            Self::Undone => "undone",
            Self::Kept => "kept",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A run's row in the index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRow {
    /// The run.
    pub run: RunId,
    /// What its last append said of it.
    pub summary: RunSummary,
    /// Number of events in its journal.
    pub seq: u64,
    /// When its first event became durable.
    pub started_at: Timestamp,
    /// When its last event became durable.
    pub updated_at: Timestamp,
    /// Whether its journal is one compressed row now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub archived: bool,
}

/// Which runs to list; all filters must match. Newest first.
#[derive(Clone, Debug, Default)]
pub struct RunQuery {
    /// Of this flow.
    pub flow: Option<Uuid>,
    /// Of this cluster.
    pub cluster: Option<String>,
    /// In one of these states; empty means any.
    pub states: Vec<RunState>,
    /// Of this playbook.
    pub playbook: Option<String>,
    /// At most so many; 0 means all.
    pub limit: usize,
}

impl RunQuery {
    /// Every run that has not ended, of which there may be none.
    pub fn unfinished() -> Self {
        Self { states: RunState::ALL.into_iter().filter(|state| !state.is_terminal()).collect(), ..Self::default() }
    }

    /// All runs of one flow.
    pub fn flow(flow: Uuid) -> Self {
        Self { flow: Some(flow), ..Self::default() }
    }
}

/// What is kept of a received message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxRow {
    /// When it was taken.
    pub at: Timestamp,
    /// The run that its commit appended to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// What was said of it where there is no run, for when it comes again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Value>,
}

/// A message that waits to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its place in its lane; never reused.
    pub seq: u64,
    /// When it was committed.
    pub at: Timestamp,
    /// The message.
    pub message: Outgoing,
}

/// A message that the bus refused for good; kept until an operator retries or drops it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedRow {
    /// The message.
    pub row: OutboxRow,
    /// Why it was parked.
    pub reason: String,
    /// When it was parked.
    pub parked_at: Timestamp,
}
