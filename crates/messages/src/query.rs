//! What the contractors answer to read-only queries and commands, over NATS services.
//!
//! Queries are `cortex.query.<to>.<what>`, commands `cortex.cmd.<to>.<verb>`. Every answer is [`Answer`]-shaped JSON.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{name::PoolName, request::Role, schema::Violation};

/// The outer form of every answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It worked.
    Ok(Value),
    /// It did not.
    Error(Refusal),
}

/// Why a query or command was not answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// What kind of refusal it is, for programs.
    pub kind: RefusalKind,
    /// One sentence, for people.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Everything that was wrong with the message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
}

impl Refusal {
    /// A refusal in one sentence.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, violations: Vec::new() }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// What kind of refusal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The message does not validate or makes no sense.
    Invalid,
    /// The sender may not.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// The thing is in a state in which this cannot be done.
    Conflict,
    /// The world is not what the approved plan was made from.
    Changed,
    /// The contractor could not, now.
    Unavailable,
}

/// The answer to a submitted request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Accepted {
    /// The flow that began, or the one that the same message began before.
    pub flow: Uuid,
    /// Its first run.
    pub run: Uuid,
    /// Whether the message had been accepted before.
    pub duplicate: bool,
}

/// One flow: all runs with one correlation id, as one contractor sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowView {
    /// The correlation id.
    pub flow: Uuid,
    /// What was asked: `provision_cluster`.
    pub kind: String,
    /// About which cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// `running`, `waiting`, `undoing`, `paused`, `stuck`, `awaiting_approval`, `succeeded`, `failed`, `cancelled`.
    pub state: String,
    /// Who asked: `/operator/ada`.
    pub source: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// When it fails by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// Why it waits or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The plan that it waits for consent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanView>,
    /// This contractor's runs, oldest first.
    #[serde(default)]
    pub runs: Vec<RunView>,
}

impl FlowView {
    /// The flow as both contractors see it: whoever keeps it knows how it ended; until then it is where its most
    /// troubled part is.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let (mut keeper, mut other) = if self.source.is_empty() { (other, self) } else { (self, other) };
        let over = matches!(keeper.state.as_str(), "succeeded" | "failed" | "cancelled");
        let trouble = |view: &Self| TROUBLES.iter().position(|state| *state == view.state).unwrap_or(TROUBLES.len());
        if !over && trouble(&other) < trouble(&keeper) {
            keeper.state = other.state;
            keeper.reason = other.reason;
            keeper.hint = other.hint;
        }
        keeper.runs.append(&mut other.runs);
        keeper.runs.sort_by_key(|run| run.started);
        keeper
    }
}

/// States of a flow that goes on, worst first.
const TROUBLES: [&str; 6] = ["stuck", "paused", "awaiting_approval", "undoing", "waiting", "running"];

/// One run of one playbook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunView {
    /// The run.
    pub run: Uuid,
    /// Its flow.
    pub flow: Uuid,
    /// `infrastructure`, `talos`.
    pub contractor: String,
    /// Its playbook.
    pub playbook: String,
    /// The playbook's version.
    pub version: u32,
    /// About which cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// `running`, `waiting`, `undoing`, `paused`, `stuck`, `succeeded`, `undone`, `kept`, `cancelled`.
    pub state: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// Why it waits or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Its steps, in the order in which they began; left out in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepView>,
}

/// One step instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepView {
    /// `apply[prod-k8s-cp-1]`.
    pub step: String,
    /// Its action.
    pub action: String,
    /// `pending`, `running`, `waiting`, `retrying`, `succeeded`, `skipped`, `failed`, `undoing`, `undone`, `stuck`.
    pub state: String,
    /// Attempts so far.
    pub attempts: u32,
    /// When the first attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// Why it waits or failed.
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
}

/// What a flow would do, before it does it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlanView {
    /// SHA-256 in lower-case hex; what an approval names.
    pub plan_hash: String,
    /// Whose plan.
    pub contractor: String,
    /// The playbook.
    pub playbook: String,
    /// Its version.
    pub version: u32,
    /// What becomes of a failed run.
    pub on_failure: String,
    /// Whether the plan destroys data or capacity and needs consent.
    pub needs_approval: bool,
    /// The steps in the order of their dependencies.
    pub steps: Vec<PlanStep>,
    /// What the other contractor would do with what this one hands over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub then: Vec<Self>,
    /// What the operator should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlanStep {
    /// `create[prod-k8s-cp-1]`.
    pub step: String,
    /// Its action.
    pub action: String,
    /// The condition under which it runs, where that is known only later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// What it would change.
    #[serde(default)]
    pub changes: Vec<PlannedChange>,
}

/// One change of the world.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedChange {
    /// `create`, `start`, `destroy`, …
    pub verb: String,
    /// `vm 101 prod-k8s-cp-1 on pve1`.
    pub object: String,
    /// Facts by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, Value>,
    /// Whether data or capacity is lost.
    #[serde(default)]
    pub destroys: bool,
}

/// One playbook that a contractor has loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlaybookView {
    /// Its name.
    pub playbook: String,
    /// Its version.
    pub version: u32,
    /// Whose.
    pub contractor: String,
    /// SHA-256 of its text in lower-case hex.
    pub hash: String,
    /// What starts it: `request provision_cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// Its steps' ids.
    pub steps: Vec<String>,
    /// Its text; left out in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A table that a contractor's inventory answers with: clusters, nodes, VMs. Columns are the contractor's to choose.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Listing {
    /// Rows as objects with the same fields.
    pub rows: Vec<BTreeMap<String, Value>>,
    /// There are more rows: what to ask `after` for the next ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What part of a listing is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Only rows behind this one, as a listing's `next` names it.
    pub after: Option<String>,
    /// At most so many; never more than [`Page::MOST`].
    pub limit: Option<u64>,
}

impl Page {
    /// Rows of one answer: about 350 KiB, where the bus carries 512.
    pub const MOST: usize = 1000;

    /// As the arguments of a query say.
    pub fn of(arguments: &Value) -> Self {
        let after = arguments.get("after").and_then(Value::as_str).map(str::to_owned);
        Self { after, limit: arguments.get("limit").and_then(Value::as_u64) }
    }
}

impl Listing {
    /// One page of the rows, which the columns `keys` tell apart and put in order.
    pub fn page(rows: Vec<BTreeMap<String, Value>>, keys: &[&str], page: &Page) -> Self {
        let name = |row: &BTreeMap<String, Value>| {
            let texts = keys.iter().map(|key| row.get(*key).and_then(Value::as_str).unwrap_or_default());
            texts.collect::<Vec<_>>().join("/")
        };
        let mut rows: Vec<_> = rows.into_iter().map(|row| (name(&row), row)).collect();
        rows.sort_by(|(one, _), (other, _)| one.cmp(other));
        rows.retain(|(name, _)| page.after.as_ref().is_none_or(|after| name > after));
        let most = page.limit.map_or(Page::MOST, |limit| usize::try_from(limit).unwrap_or(Page::MOST));
        let most = most.clamp(1, Page::MOST);
        let next = (rows.len() > most).then(|| rows[most - 1].0.clone());
        rows.truncate(most);
        Self { rows: rows.into_iter().map(|(_, row)| row).collect(), next }
    }
}

/// A pool as infrastructure-contractor keeps it: what a `scale_request` counts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolView {
    /// Its name.
    pub pool: PoolName,
    /// What its nodes are.
    pub role: Role,
    /// How many nodes are wanted.
    pub count: u32,
    /// How many machines there are.
    pub machines: u32,
    /// Grows with every change of the count; a `scale_request` that names another is refused.
    pub generation: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view(source: &str, state: &str) -> FlowView {
        let view = json!({
            "flow": Uuid::nil(), "kind": "x", "state": state, "source": source, "started": "2026-11-20T12:00:00Z",
            "reason": format!("{state} for a reason"),
        });
        serde_json::from_value(view).unwrap()
    }

    #[test]
    fn a_flow_is_where_its_most_troubled_part_is_until_it_is_over() {
        let cases = [
            ("running", "running", "running"),
            ("running", "stuck", "stuck"),
            ("waiting", "paused", "paused"),
            ("stuck", "waiting", "stuck"),
            ("succeeded", "running", "succeeded"),
            ("running", "succeeded", "running"),
        ];
        for (keeper, other, expected) in cases {
            let (keeper, other) = (view("/operator/ada", keeper), view("", other));
            for joined in [keeper.clone().join(other.clone()), other.join(keeper)] {
                assert_eq!((joined.state.as_str(), joined.source.as_str()), (expected, "/operator/ada"));
                assert_eq!(joined.reason, Some(format!("{expected} for a reason")));
            }
        }
    }

    #[test]
    fn a_long_listing_comes_in_pages_that_leave_nothing_out() {
        let row = |cluster: &str, name: u32| {
            BTreeMap::from([
                ("cluster".to_owned(), json!(cluster)),
                ("name".to_owned(), json!(format!("node-{name:02}"))),
            ])
        };
        let rows: Vec<_> = (0..7).flat_map(|name| [row("b", name), row("a", name)]).collect();
        let (mut page, mut seen) = (Page::of(&json!({ "limit": 4 })), Vec::new());
        loop {
            let listing = Listing::page(rows.clone(), &["cluster", "name"], &page);
            assert!(listing.rows.len() <= 4);
            seen.extend(listing.rows);
            match listing.next {
                Some(next) => page.after = Some(next),
                None => break,
            }
        }
        assert_eq!(
            seen,
            (0..7).map(|name| row("a", name)).chain((0..7).map(|name| row("b", name))).collect::<Vec<_>>()
        );
        assert_eq!(Listing::page(rows, &["cluster", "name"], &Page::default()).next, None);
        let many = (0..2000).map(|name| row("a", name)).collect();
        assert_eq!(
            Listing::page(many, &["cluster", "name"], &Page::of(&json!({ "limit": 5000 }))).rows.len(),
            Page::MOST
        );
    }
}
