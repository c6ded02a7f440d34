//! What a run would do, before it does it: the same object is shown, approved and executed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::hash;

/// The steps of a run with their inputs and what each would change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The playbook's name.
    pub playbook: String,
    /// The playbook's version.
    pub version: u32,
    /// SHA-256 over the playbook's text and the texts of all it calls, hexadecimal.
    pub playbook_hash: String,
    /// What the run is given.
    pub input: Value,
    /// Its failure policy.
    pub on_failure: String,
    /// Past this step nothing is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_point: Option<String>,
    /// Its steps in playbook order, instances in key order.
    pub steps: Vec<PlannedStep>,
    /// Handoffs and events it emits when it succeeds, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emits: Vec<String>,
    /// Revisions of the inventory keys that the previews read; 0 where nothing was.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub revisions: BTreeMap<String, u64>,
}

impl Plan {
    /// SHA-256 of the canonical JSON (RFC 8785), hexadecimal: what an approval names.
    pub fn hash(&self) -> String {
        hash::of(self)
    }

    /// Whether anything in it destroys data or capacity.
    pub fn destroys(&self) -> bool {
        self.steps.iter().any(|step| step.changes.iter().any(|change| change.destroys))
    }
}

/// One step instance of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// `apply[cp-01]`, or `apply[*]` where the items are known only later.
    pub step: String,
    /// The action.
    pub action: String,
    /// Its input; `"${…}"` where a value is known only later.
    pub input: Value,
    /// The condition, where it is known only later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// What it would change, as its preview says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

impl PlannedStep {
    /// Whether it is certain to run, once, with the input that is shown.
    pub fn is_certain(&self) -> bool {
        self.when.is_none() && !self.step.ends_with("[*]") && !is_symbolic(&self.input)
    }
}

/// Whether parts of it are known only later.
pub fn is_symbolic(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("${"),
        Value::Array(items) => items.iter().any(is_symbolic),
        Value::Object(fields) => fields.values().any(is_symbolic),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// One line of a plan: what would change in the world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// What is done, as a verb: `create`, `start`, `apply`, `destroy`, …
    pub verb: String,
    /// To what, for example `vm 101 prod-k8s-cp-1 on pve1`.
    pub object: String,
    /// Facts worth showing, sorted by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, Value>,
    /// Whether data or capacity is lost by it.
    #[serde(default)]
    pub destroys: bool,
}
