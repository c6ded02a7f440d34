//! What has happened in a run, in order: the journal stores exactly these, and nothing else is the run's state.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::playbook::Policy;

/// Format of the events that this program writes; a reader refuses a newer one.
pub const FORMAT: u32 = 1;

/// One entry of a run's journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run exists. Always the first entry, and only that.
    Opened(Box<Opened>),
    /// The instances of a step are fixed: `when` was true and `for_each` is evaluated, once.
    Expanded {
        /// The step, `apply` or `roll[cp-01].drain`.
        step: String,
        /// Its instances in key order; one without a key when the step has no `for_each`.
        instances: Vec<Item>,
        /// Whether the next entry goes on with the same step, because the value cap split the list.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        more: bool,
        /// When.
        at: Timestamp,
    },
    /// `when` was false: the output is null, dependents still run.
    Skipped {
        /// The step.
        step: String,
        /// When.
        at: Timestamp,
    },
    /// An attempt is about to touch the world, or a call to open its sub-playbook.
    Started {
        /// The step instance, `apply[cp-01]`.
        step: String,
        /// From 1.
        attempt: u32,
        /// The resolved input; with the first attempt only, later ones use the same.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<Value>,
        /// When.
        at: Timestamp,
    },
    /// The attempt made a value durable, for example the UPID of a task it started.
    Checkpointed {
        /// The step instance.
        step: String,
        /// The attempt.
        attempt: u32,
        /// What the next attempt may need.
        value: Value,
        /// When.
        at: Timestamp,
    },
    /// The world was not ready; the same attempt looks again.
    Waiting {
        /// The step instance.
        step: String,
        /// The attempt, which is not used up.
        attempt: u32,
        /// What is waited for.
        reason: String,
        /// Whether the run gives up its locks meanwhile.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        yields: bool,
        /// When to look again.
        until: Timestamp,
        /// When.
        at: Timestamp,
    },
    /// The attempt (or call) ended well.
    Succeeded {
        /// The step instance.
        step: String,
        /// The attempt.
        attempt: u32,
        /// What later steps may refer to.
        output: Value,
        /// When.
        at: Timestamp,
    },
    /// The attempt failed; for good when there is no `retry_at`. Attempt 0 never touched the world.
    Failed {
        /// The step or step instance.
        step: String,
        /// The attempt.
        attempt: u32,
        /// Why.
        error: Failure,
        /// When the next attempt is due.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at: Option<Timestamp>,
        /// When.
        at: Timestamp,
    },
    /// An undo is about to touch the world.
    UndoStarted {
        /// The step instance.
        step: String,
        /// From 1.
        attempt: u32,
        /// When.
        at: Timestamp,
    },
    /// What the step did is taken back.
    UndoSucceeded {
        /// The step instance.
        step: String,
        /// The undo attempt.
        attempt: u32,
        /// When.
        at: Timestamp,
    },
    /// The undo failed; for good when there is no `retry_at`: the run will be stuck.
    UndoFailed {
        /// The step instance.
        step: String,
        /// The undo attempt.
        attempt: u32,
        /// Why.
        error: Failure,
        /// When the next attempt is due.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at: Option<Timestamp>,
        /// When.
        at: Timestamp,
    },
    /// The run stops for a reason of its own, such as a cap.
    Halted {
        /// Why.
        error: Failure,
        /// When.
        at: Timestamp,
    },
    /// Someone asked to cancel: nothing new starts, then the failure policy.
    CancelRequested {
        /// Who.
        by: String,
        /// When.
        at: Timestamp,
    },
    /// Someone asked to take back the whole run, perhaps after it succeeded.
    UndoRequested {
        /// Who, or which message.
        by: String,
        /// When.
        at: Timestamp,
    },
    /// Someone asked a paused or stuck run to go on: failed steps and undos get their attempts again.
    Resumed {
        /// Who.
        by: String,
        /// When.
        at: Timestamp,
    },
    /// The run ended. Only an `UndoRequested` may follow.
    Finished {
        /// How.
        outcome: Outcome,
        /// When.
        at: Timestamp,
    },
}

/// How a run came to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u32,
    /// The run; see [`run_id`].
    pub run: Uuid,
    /// The flow (correlation id) that it belongs to.
    pub flow: Uuid,
    /// The message (or trigger) that caused it, `ce-source/ce-id`.
    pub cause: String,
    /// The playbook's name.
    pub playbook: String,
    /// The playbook's version.
    pub version: u32,
    /// The texts that the run goes by, its own first, then those it calls: stored by content hash with the run.
    pub pins: Vec<Pin>,
    /// What the run is about, for people: the cluster's name, mostly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What the steps refer to as `input`.
    pub input: Value,
    /// Locks to hold before the first step, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locks: Vec<Lock>,
    /// What happens when a step fails for good, as the input asks; what the playbook says where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<Policy>,
    /// Hash of the approved plan, if it had to be approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Hash of this contractor's part of it: made again before the first step, it must be the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_plan: Option<String>,
    /// The W3C trace that whoever asked follows, as 32 hex digits; the flow's own where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// When.
    pub at: Timestamp,
}

impl Opened {
    /// What expressions see as `run`.
    pub fn about(&self) -> Value {
        serde_json::json!({"id": self.run, "flow": self.flow, "subject": self.subject, "cause": self.cause})
    }
}

/// A playbook text that a run goes by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The playbook's name.
    pub playbook: String,
    /// SHA-256 of its text, hexadecimal.
    pub hash: String,
}

/// A lock that a run holds while it works.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lock {
    /// `cluster/prod-k8s`.
    pub name: String,
    /// Whether others may hold it too.
    pub mode: LockMode,
}

/// Whether others may hold a lock too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    /// With other shared holders.
    Shared,
    /// Alone.
    Exclusive,
}

/// One instance of a fanned-out step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Its stable name; none when the step has no `for_each`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What the step refers to as `item`.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub item: Value,
}

/// What went wrong, and what a human should do. Neither may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The whole chain in one line.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every step is done or skipped.
    Succeeded,
    /// It failed, or was asked to, and took back what it did.
    Undone,
    /// It failed and left what it did, as its playbook says.
    Kept,
    /// It was cancelled, and its failure policy was followed.
    Cancelled,
}

/// The id of the run of `playbook` for a message: a redelivered message finds the same run.
pub fn run_id(source: &str, message: &str, playbook: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("cortex:{source}\u{1f}{message}\u{1f}{playbook}").as_bytes())
}
