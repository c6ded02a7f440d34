//! How a run looks from outside: what lists, `runs show` and the progress of a flow are made of.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::event::Failure;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Accepted; waits for its locks.
    Pending,
    /// At work.
    Running,
    /// At work, and the world is not ready.
    Waiting,
    /// Taking back what it did.
    Undoing,
    /// Stopped by its failure policy; resumable.
    Paused,
    /// An undo failed: an operator must look; resumable.
    Stuck,
    /// Done; can be undone while its flow is open.
    Succeeded,
    /// Everything taken back.
    Undone,
    /// Failed and left as it is.
    Kept,
    /// Cancelled, and its failure policy followed.
    Cancelled,
}

impl Status {
    /// Whether nothing follows unless somebody asks for it.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Undone | Self::Kept | Self::Cancelled)
    }

    /// Whether an operator must look.
    pub fn needs_operator(self) -> bool {
        matches!(self, Self::Paused | Self::Stuck)
    }
}

/// A run as operators and coordinators see it. Holds no inputs and no outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The run.
    pub run: Uuid,
    /// The flow that it belongs to.
    pub flow: Uuid,
    /// The message that caused it.
    pub cause: String,
    /// The playbook's name.
    pub playbook: String,
    /// The playbook's version.
    pub version: u32,
    /// What it is about: the cluster's name, mostly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Where it stands.
    pub status: Status,
    /// Why it does not go on right now: locks, or what its first waiting step waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Its first permanent failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<RunFailure>,
    /// Step instances by state, for a progress bar.
    pub counts: BTreeMap<StepStatus, usize>,
    /// Number of journal entries.
    pub events: u64,
    /// When it was accepted.
    pub opened_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Its steps in playbook order, instances in key order.
    pub steps: Vec<StepReport>,
}

/// The failure that decided a run's fate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFailure {
    /// The step instance; none when the run itself was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Why.
    #[serde(flatten)]
    pub error: Failure,
}

/// Where a step instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Not started.
    Pending,
    /// An attempt is on its way.
    Running,
    /// The world is not ready.
    Waiting,
    /// An attempt failed; the next one is due later.
    Retrying,
    /// Done.
    Succeeded,
    /// `when` was false.
    Skipped,
    /// Failed for good.
    Failed,
    /// It was on its way when the run ended.
    Stopped,
    /// An undo is on its way, or due later.
    Undoing,
    /// Taken back.
    Undone,
    /// The undo failed for good.
    UndoFailed,
}

/// One step instance as operators see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// `apply[cp-01]`; the step's id alone while it is not expanded.
    pub step: String,
    /// The action or playbook it names.
    pub does: String,
    /// Where it stands.
    pub status: StepStatus,
    /// The attempt (or undo attempt) it is at; 0 before the first.
    pub attempt: u32,
    /// What it waits for, or why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What a human should do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// When the next attempt or look is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// When waiting and retrying end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// When its first attempt started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it was done, failed or undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// A message that a run emits when it ends; committed together with its last journal entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Emission {
    /// UUIDv5 of run, place in the playbook, key: the same however often it is computed.
    pub id: Uuid,
    /// Handoff or event.
    pub kind: EmissionKind,
    /// `cluster_ready`.
    pub name: String,
    /// The message's body.
    pub body: Value,
}

/// What a playbook may emit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmissionKind {
    /// A fact plus the next responsibility, for another contractor.
    Handoff,
    /// What happened, for whoever listens.
    Event,
}
