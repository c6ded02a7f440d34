//! What happened, for whoever listens; never needed for correctness, never a secret.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::schema::Violation;

/// A message was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rejected {
    /// Always `rejected`.
    #[schemars(extend("const" = "rejected"))]
    pub event_type: String,
    /// `ce-source/ce-id` of the message, as far as it could be read.
    pub message: String,
    /// The subject it came on.
    pub subject: String,
    /// Why, in one sentence.
    pub reason: String,
    /// Everything that was wrong; values are masked.
    #[serde(default)]
    pub violations: Vec<Violation>,
}

/// A flow changed its state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowEvent {
    /// The event's type.
    pub event_type: String,
    /// The flow.
    pub flow: Uuid,
    /// What it is about: `provision_cluster`.
    pub kind: String,
    /// What went wrong, or why it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A run, or a step of it, changed its state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunEvent {
    /// The event's type.
    pub event_type: String,
    /// The flow that the run belongs to.
    pub flow: Uuid,
    /// The run.
    pub run: Uuid,
    /// Its playbook.
    pub playbook: String,
    /// The step instance, `apply[cp-01]`; left out where the run as a whole is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// From 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Why it waits, failed or was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
    /// When the wait ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// How long it took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

/// Something of the contractor's domain changed: a VM, a node, an address, a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DomainEvent {
    /// The event's type.
    pub event_type: String,
    /// The object's name: `prod-k8s-cp-1`.
    pub object: String,
    /// The flow that changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<Uuid>,
    /// One sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Facts by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, Value>,
}

/// A certificate that a contractor uses or keeps ends soon, or has ended; told at most once a day.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateExpiring {
    /// Always `certificate_expiring`.
    #[schemars(extend("const" = "certificate_expiring"))]
    pub event_type: String,
    /// What it is: the setting that names its file, `bus.ca_file`, or what it does, `Talos API authority`.
    pub object: String,
    /// The file it is read from; left out where it is kept sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Its subject.
    pub subject: String,
    /// SHA-256 of its DER, hexadecimal.
    pub fingerprint: String,
    /// Its last moment.
    pub not_after: Timestamp,
    /// Whole days until then; negative when it has ended.
    pub days_left: i64,
    /// What to do about it.
    pub hint: String,
}

/// A message went to the dead letter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetter {
    /// Always `dead_letter`.
    #[schemars(extend("const" = "dead_letter"))]
    pub event_type: String,
    /// Who refused it: `infrastructure`, `talos`, `mcp`.
    pub at: String,
    /// When.
    pub time: Timestamp,
    /// The subject it came on.
    pub subject: String,
    /// Its headers as they came, signatures and reply subjects left out.
    pub headers: BTreeMap<String, String>,
    /// Its stream and sequence there: that is where its body is. A letter holds none, as it may hold secrets.
    pub stream: String,
    /// See `stream`.
    pub sequence: u64,
    /// Why, in one sentence.
    pub reason: String,
    /// Everything that was wrong; values are masked.
    #[serde(default)]
    pub violations: Vec<Violation>,
}
