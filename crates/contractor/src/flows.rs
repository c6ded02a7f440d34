//! Flows: what somebody asked for, over all runs with its correlation id. The contractor that took the request keeps them.

use std::time::Duration;

use engine::event::Failure;
use jiff::Timestamp;
use messages::{event::FlowEvent, request::FailurePolicy};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{Commit, InventoryChange, RunQuery, RunRow, RunState, Store, Versioned};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    driver::Driver,
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
    /// What is told of the flow; the same id however often it is told.
    ///
    /// # Errors
    /// See [`Herald::event`].
    pub fn event(&self, herald: &Herald, name: &str, cause: Option<&str>) -> Result<store::Outgoing, Failure> {
        let context = Context { flow: Some(self.flow), cause: cause.map(str::to_owned), cluster: self.cluster.clone() };
        let body = FlowEvent {
            event_type: String::new(),
            flow: self.flow,
            kind: self.kind.clone(),
            reason: self.reason.clone(),
            hint: self.hint.clone(),
        };
        herald.event(Uuid::new_v5(&self.flow, name.as_bytes()), name, &context, &body)
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

/// The inventory key of a flow.
pub fn key(flow: Uuid) -> String {
    format!("flow/{flow}")
}

/// The inventory key of a request that waits for consent.
pub fn pending_key(flow: Uuid) -> String {
    format!("pending/{flow}")
}

/// Ends flows when their runs have ended, and cancels those whose time is over.
pub struct Keeper {
    /// Everything the contractor remembers.
    pub store: Store,
    /// Runs playbooks.
    pub driver: Driver,
    /// Makes messages.
    pub herald: Herald,
    /// Runs without a flow record are archived this long after they ended.
    pub archive_after: Duration,
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
    if any(RunState::Undone) || any(RunState::Kept) {
        return Decision::Over(State::Failed);
    }
    match record.failing {
        // Nothing here had to be taken back, or nothing may be.
        Some(FailurePolicy::Rollback | FailurePolicy::Keep) => return Decision::Over(State::Failed),
        Some(FailurePolicy::Pause) => return Decision::Open,
        None => {}
    }
    let last = runs.iter().max_by_key(|run| run.started_at);
    match last {
        Some(last) if last.summary.detail.get("handed_over").is_none() => Decision::Over(State::Succeeded),
        _ => Decision::Open,
    }
}

impl Keeper {
    /// Keeps flows until `stop`: each one that may have changed, and all of them every half minute.
    pub async fn run(self, mut changed: mpsc::UnboundedReceiver<Uuid>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(Duration::from_secs(30));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let result = tokio::select! {
                () = stop.cancelled() => return,
                flow = changed.recv() => match flow {
                    Some(flow) => self.look_at(flow).await,
                    None => return,
                },
                _ = tick.tick() => self.look_at_all().await,
            };
            if let Err(reason) = result {
                tracing::warn!(reason, "a flow could not be kept; it is looked at again");
            }
        }
    }

    async fn look_at_all(&self) -> Result<(), String> {
        let reader = self.store.reader();
        let now = Timestamp::now();
        for entry in reader.scan::<FlowRecord>("flow/").map_err(|error| chain(&error))? {
            let record = entry.value;
            if record.state != State::Open {
                continue;
            }
            self.look_at(record.flow).await?;
            if record.deadline <= now {
                self.give_up(&record).await?;
            }
        }
        for entry in reader.scan::<Pending>("pending/").map_err(|error| chain(&error))? {
            if entry.value.expires <= now {
                let pending = Versioned { revision: entry.revision, value: entry.value };
                let reason = "nobody approved its plan in time".to_owned();
                withdraw(&self.store, &self.herald, pending, reason).await?;
            }
        }
        self.archive_strangers(now).await
    }

    /// Ends the flow if its runs say so.
    async fn look_at(&self, flow: Uuid) -> Result<(), String> {
        let reader = self.store.reader();
        let found = reader.get::<FlowRecord>(&key(flow)).map_err(|error| chain(&error))?;
        let Some(found) = found.filter(|found| found.value.state == State::Open) else { return Ok(()) };
        let runs = reader.runs(&RunQuery::flow(flow)).map_err(|error| chain(&error))?;
        let Decision::Over(state) = decide(&found.value, &runs) else {
            return Ok(());
        };
        let mut record = found.value;
        record.state = state;
        record.ended = Some(Timestamp::now());
        if record.reason.is_none() && state != State::Succeeded {
            let failed = runs.iter().find_map(failure_of);
            record.reason = failed.as_ref().map(|failure| failure.message.clone());
            record.hint = failed.and_then(|failure| failure.hint);
        }
        let name = match state {
            State::Succeeded => "flow_succeeded",
            State::Cancelled => "flow_cancelled",
            State::Failed | State::Open => "flow_failed",
        };
        let event = record.event(&self.herald, name, None).map_err(|failure| failure.message)?;
        let commit = Commit {
            inventory: vec![InventoryChange::update(key(flow), found.revision, record.to_value())],
            outgoing: vec![event],
            archive: runs.iter().filter(|run| !run.archived).map(|run| run.run).collect(),
            ..Commit::default()
        };
        match self.store.commit(commit).await {
            // Somebody changed the record meanwhile and will say so.
            Ok(_) | Err(store::CommitError::Precondition { .. }) => Ok(()),
            Err(error) => Err(chain(&error)),
        }
    }

    async fn give_up(&self, record: &FlowRecord) -> Result<(), String> {
        let by = format!("deadline {}", record.deadline);
        match self.driver.cancel(record.flow, &by).await {
            Ok(runs) if !runs.is_empty() => tracing::warn!(flow = %record.flow, "the flow's time is over; cancelling"),
            Ok(_) | Err(crate::driver::CommandError::Unknown(_)) => {}
            Err(error) => return Err(chain(&error)),
        }
        Ok(())
    }

    /// Runs whose flow is kept elsewhere are archived by age.
    async fn archive_strangers(&self, now: Timestamp) -> Result<(), String> {
        let reader = self.store.reader();
        let ended = RunState::ALL.into_iter().filter(|state| state.is_terminal()).collect();
        let query = RunQuery { states: ended, ..RunQuery::default() };
        let old = |run: &RunRow| {
            let age = Duration::try_from(now.duration_since(run.updated_at)).unwrap_or_default();
            !run.archived && age > self.archive_after
        };
        let runs = reader.runs(&query).map_err(|error| chain(&error))?;
        let archive: Vec<Uuid> = runs.iter().filter(|run| old(run)).map(|run| run.run).take(64).collect();
        if archive.is_empty() {
            return Ok(());
        }
        let commit = Commit { archive, ..Commit::default() };
        self.store.commit(commit).await.map(|_| ()).map_err(|error| chain(&error))
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
    record.state = State::Cancelled;
    record.ended = Some(Timestamp::now());
    record.reason = Some(reason);
    let event = record.event(herald, "flow_cancelled", None).map_err(|failure| failure.message)?;
    let commit = Commit {
        inventory: vec![
            InventoryChange::delete_at(pending_key(record.flow), pending.revision),
            InventoryChange::put(key(record.flow), record.to_value()),
        ],
        outgoing: vec![event],
        ..Commit::default()
    };
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
            cluster: None,
            source: "/operator/ada".into(),
            started: Timestamp::UNIX_EPOCH,
            deadline: Timestamp::UNIX_EPOCH,
            state: State::Open,
            ended: None,
            failing,
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
            (Some(Pause), &[("provision", Succeeded)], Decision::Open),
        ];
        for (failing, runs, expected) in cases {
            let rows: Vec<RunRow> = (0..).zip(runs).map(|(at, (playbook, state))| run(at, playbook, *state)).collect();
            let found = decide(&record(failing), &rows);
            assert_eq!(found, expected, "{failing:?} {runs:?}");
        }
    }
}
