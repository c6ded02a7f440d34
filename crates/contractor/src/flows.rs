//! Flows: what somebody asked for, over all runs with its correlation id. The contractor that took the request keeps them.

mod index;
mod keeper;

use engine::event::Failure;
use jiff::Timestamp;
use messages::{event::FlowEvent, request::FailurePolicy};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{Commit, InventoryChange, RunRow, RunState, Store, Versioned};
use uuid::Uuid;

pub use self::{
    index::{begun, ended},
    keeper::Keeper,
};
use crate::{
    herald::{Context, Herald},
    intake::chain,
};

/// What is kept of a flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// The correlation id.
    pub flow: Uuid,
    /// What was asked: `provision_cluster`.
    pub kind: String,
    /// About which cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The W3C trace that whoever asked follows, as 32 hex digits; the flow's own where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Who asked.
    pub source: String,
    /// When.
    pub started: Timestamp,
    /// When it fails by itself.
    pub deadline: Timestamp,
    /// Where it stands.
    pub state: State,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// The other contractor failed, and this is to become of what this one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<FailurePolicy>,
    /// What is to become of what was made when it fails or is cancelled.
    #[serde(default)]
    pub failure_policy: FailurePolicy,
    /// Who asked to stop it after its work here was done, or that its time is over; the other contractor was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Where a flow stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its runs decide.
    Open,
    /// What was asked for is done.
    Succeeded,
    /// It could not be done; the failure policy was applied.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl State {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A request that waits for consent to its plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// The run that will begin.
    pub run: Uuid,
    /// Its playbook.
    pub playbook: String,
    /// Its input.
    pub input: Value,
    /// The request.
    pub cause: String,
    /// The plan that was shown.
    pub plan_hash: String,
    /// When it is forgotten.
    pub expires: Timestamp,
    /// The flow that will begin.
    pub record: FlowRecord,
}

impl FlowRecord {
    /// What messages about it say that they are about.
    pub fn context(&self, cause: Option<&str>) -> Context {
        Context {
            flow: Some(self.flow),
            cause: cause.map(str::to_owned),
            cluster: self.cluster.clone(),
            trace: self.trace.clone(),
        }
    }

    /// What is told of the flow; the same id however often it is told.
    ///
    /// # Errors
    /// See [`Herald::event`].
    pub fn event(&self, herald: &Herald, name: &str, cause: Option<&str>) -> Result<store::Outgoing, Failure> {
        let context = self.context(cause);
        let body = FlowEvent {
            event_type: String::new(),
            flow: self.flow,
            kind: self.kind.clone(),
            reason: self.reason.clone(),
            hint: self.hint.clone(),
        };
        herald.event(Uuid::new_v5(&self.flow, name.as_bytes()), name, &context, &body)
    }

    /// It has waited for consent: its time runs from now on.
    pub fn begin_now(&mut self) {
        let time = self.deadline.duration_since(self.started);
        self.started = Timestamp::now();
        self.deadline = self.started.checked_add(time).unwrap_or(Timestamp::MAX);
    }

    /// As the inventory holds it.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("a flow record is JSON")
    }
}

impl Pending {
    /// As the inventory holds it.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("a pending request is JSON")
    }
}

/// Where flows are kept.
pub(crate) const FLOWS: &str = "flow/";

/// The inventory key of a flow.
pub fn key(flow: Uuid) -> String {
    format!("{FLOWS}{flow}")
}

/// Where requests are kept that wait for consent.
pub(crate) const PENDING: &str = "pending/";

/// The inventory key of a request that waits for consent.
pub fn pending_key(flow: Uuid) -> String {
    format!("{PENDING}{flow}")
}

/// What the runs of a flow say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It goes on.
    Open,
    /// It is over.
    Over(State),
}

/// Decides from the record and the flow's runs, in any order. A run that handed something over leaves the flow going on
/// at the other contractor.
pub fn decide(record: &FlowRecord, runs: &[RunRow]) -> Decision {
    if runs.is_empty() || runs.iter().any(|run| !run.summary.state.is_terminal()) {
        return Decision::Open;
    }
    let any = |state| runs.iter().any(|run| run.summary.state == state);
    if any(RunState::Cancelled) {
        return Decision::Over(State::Cancelled);
    }
    // The other side tells of its failure when it has ended there: nothing here has to be taken back, or nothing may be.
    if any(RunState::Undone) || any(RunState::Kept) || record.failing.is_some() {
        let was_asked = record.cancelled.is_some();
        return Decision::Over(if was_asked { State::Cancelled } else { State::Failed });
    }
    let last = runs.iter().max_by_key(|run| run.started_at);
    match last {
        Some(last) if last.summary.detail.get("handed_over").is_none() => Decision::Over(State::Succeeded),
        _ => Decision::Open,
    }
}

/// Ends a request that waits for consent: what it asked for will not be done.
///
/// # Errors
/// Why that is not durable.
pub async fn withdraw(
    store: &Store,
    herald: &Herald,
    pending: Versioned<Pending>,
    reason: String,
) -> Result<(), String> {
    let mut record = pending.value.record;
    let now = Timestamp::now();
    record.state = State::Cancelled;
    record.ended = Some(now);
    record.reason = Some(reason);
    let event = record.event(herald, "flow_cancelled", None).map_err(|failure| failure.message)?;
    let mut inventory = vec![
        InventoryChange::delete_at(pending_key(record.flow), pending.revision),
        InventoryChange::put(key(record.flow), record.to_value()),
    ];
    inventory.extend(ended(record.flow, now));
    let commit = Commit { inventory, outgoing: vec![event], ..Commit::default() };
    store.commit(commit).await.map(|_| ()).map_err(|error| chain(&error))
}

/// The failure in a run's summary.
pub(crate) fn failure_of(run: &RunRow) -> Option<Failure> {
    serde_json::from_value(run.summary.detail.get("failure")?.clone()).ok()
}

#[cfg(test)]
mod tests {
    use store::RunSummary;

    use super::*;

    fn record(failing: Option<FailurePolicy>) -> FlowRecord {
        FlowRecord {
            flow: Uuid::nil(),
            kind: "provision_cluster".into(),
            trace: None,
            cluster: None,
            source: "/operator/ada".into(),
            started: Timestamp::UNIX_EPOCH,
            deadline: Timestamp::UNIX_EPOCH,
            state: State::Open,
            ended: None,
            failing,
            failure_policy: FailurePolicy::Rollback,
            cancelled: None,
            reason: None,
            hint: None,
        }
    }

    fn run(second: i64, playbook: &str, state: RunState) -> RunRow {
        let at = Timestamp::from_second(second).unwrap();
        let detail = if playbook == "provision" {
            serde_json::json!({ "handed_over": ["vm_provisioned"] })
        } else {
            Value::Null
        };
        let summary = RunSummary { flow: Uuid::nil(), playbook: playbook.into(), cluster: None, state, detail };
        RunRow { run: Uuid::nil(), summary, seq: 1, started_at: at, updated_at: at, archived: false }
    }

    #[test]
    fn a_flow_ends_when_its_last_run_hands_nothing_over() {
        use FailurePolicy::{Keep, Pause, Rollback};
        use RunState::{Cancelled, Kept, Running, Stuck, Succeeded, Undone};
        let over = |state| Decision::Over(state);
        type Runs<'a> = &'a [(&'a str, RunState)];
        let cases: [(Option<FailurePolicy>, Runs<'_>, Decision); 11] = [
            (None, &[], Decision::Open),
            (None, &[("provision", Running)], Decision::Open),
            (None, &[("provision", Succeeded)], Decision::Open),
            (None, &[("provision", Succeeded), ("register", Succeeded)], over(State::Succeeded)),
            (None, &[("provision", Undone)], over(State::Failed)),
            (None, &[("provision", Kept)], over(State::Failed)),
            (None, &[("provision", Cancelled)], over(State::Cancelled)),
            (None, &[("provision", Stuck)], Decision::Open),
            (Some(Rollback), &[("provision", Undone)], over(State::Failed)),
            (Some(Keep), &[("provision", Succeeded)], over(State::Failed)),
            (Some(Pause), &[("provision", Succeeded)], over(State::Failed)),
        ];
        for (failing, runs, expected) in cases {
            let rows: Vec<RunRow> = (0..).zip(runs).map(|(at, (playbook, state))| run(at, playbook, *state)).collect();
            let found = decide(&record(failing), &rows);
            assert_eq!(found, expected, "{failing:?} {runs:?}");
        }
        let asked = FlowRecord { cancelled: Some("/operator/ada".into()), ..record(Some(Rollback)) };
        assert_eq!(decide(&asked, &[run(0, "provision", Undone)]), over(State::Cancelled));
        let too_late = FlowRecord { failing: None, ..asked };
        let done = [run(0, "provision", Succeeded), run(1, "register", Succeeded)];
        assert_eq!(decide(&too_late, &done), over(State::Succeeded), "it was done before anybody could stop it");
    }
}
