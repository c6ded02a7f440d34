//! Flows: what somebody asked for, over all runs with its correlation id. The contractor that took the request keeps them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use engine::event::Failure;
use jiff::Timestamp;
use messages::{event::FlowEvent, request::FailurePolicy};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{Commit, InventoryChange, Retention, RunQuery, RunRow, RunState, Store, Versioned};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    agent::{Agent, Left, Workplace},
    cancel,
    driver::CommandError,
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
    /// Store, driver and herald.
    pub at: Workplace,
    /// Whose flows.
    pub agent: Arc<dyn Agent>,
    /// What is forgotten when.
    pub retention: Retention,
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

impl Keeper {
    /// Keeps flows until `stop`: each one that may have changed, all that are open every half minute, and what is over
    /// every ten minutes.
    pub async fn run(self, mut changed: mpsc::UnboundedReceiver<Uuid>, stop: CancellationToken) {
        let mut tick = interval(Duration::from_secs(30));
        let mut tidy = interval(Duration::from_secs(10 * 60));
        let mut open = self.open_flows();
        loop {
            let result = tokio::select! {
                () = stop.cancelled() => return,
                flow = changed.recv() => match flow {
                    Some(flow) => self.look_at(flow, &mut open).await,
                    None => return,
                },
                _ = tick.tick() => self.look_at_all(&mut open).await,
                _ = tidy.tick() => self.tidy(&open).await,
            };
            if let Err(reason) = result {
                tracing::warn!(reason, "a flow could not be kept; it is looked at again");
            }
        }
    }

    /// The flows that are open when the contractor starts; a record that cannot be read holds up no other.
    fn open_flows(&self) -> BTreeSet<Uuid> {
        let records = self.at.store.reader().scan::<FlowRecord>("flow/").unwrap_or_else(|error| {
            tracing::error!(error = chain(&error), "the flows cannot be read");
            Vec::new()
        });
        records.into_iter().map(|entry| entry.value).filter(|it| it.state == State::Open).map(|it| it.flow).collect()
    }

    async fn look_at_all(&self, open: &mut BTreeSet<Uuid>) -> Result<(), String> {
        let reader = self.at.store.reader();
        let now = Timestamp::now();
        for flow in open.clone() {
            self.look_at(flow, open).await?;
            let found = reader.get::<FlowRecord>(&key(flow)).map_err(|error| chain(&error))?;
            if let Some(late) = found.filter(|it| it.value.state == State::Open && it.value.deadline <= now) {
                self.give_up(late).await?;
            }
        }
        for entry in reader.scan::<Pending>("pending/").map_err(|error| chain(&error))? {
            if entry.value.expires <= now {
                let pending = Versioned { revision: entry.revision, value: entry.value };
                let reason = "nobody approved its plan in time".to_owned();
                withdraw(&self.at.store, &self.at.herald, pending, reason).await?;
            }
        }
        Ok(())
    }

    /// Ends the flow if its runs say so.
    async fn look_at(&self, flow: Uuid, open: &mut BTreeSet<Uuid>) -> Result<(), String> {
        let reader = self.at.store.reader();
        let found = reader.get::<FlowRecord>(&key(flow)).map_err(|error| chain(&error))?;
        let Some(found) = found.filter(|found| found.value.state == State::Open) else {
            open.remove(&flow);
            return Ok(());
        };
        open.insert(flow);
        let runs = reader.runs(&RunQuery::flow(flow)).map_err(|error| chain(&error))?;
        let Decision::Over(state) = decide(&found.value, &runs) else {
            return Ok(());
        };
        let mut record = found.value;
        record.state = state;
        record.ended = Some(Timestamp::now());
        if state == State::Succeeded {
            // Whoever asked to stop it, or its time being over, came to nothing.
            (record.reason, record.hint) = (None, None);
        } else if record.reason.is_none() {
            let failed = runs.iter().find_map(failure_of);
            record.reason = failed.as_ref().map(|failure| failure.message.clone());
            record.hint = failed.and_then(|failure| failure.hint);
        }
        let name = match state {
            State::Succeeded => "flow_succeeded",
            State::Cancelled => "flow_cancelled",
            State::Failed | State::Open => "flow_failed",
        };
        let event = record.event(&self.at.herald, name, None).map_err(|failure| failure.message)?;
        let mut inventory = vec![InventoryChange::update(key(flow), found.revision, record.to_value())];
        if state != State::Succeeded {
            match self.agent.left(Left::ByFlow(&record), &reader) {
                Ok(left) => inventory.extend(left),
                Err(error) => {
                    tracing::error!(%flow, error = chain(&error), "what the flow left could not be read");
                }
            }
        }
        let commit = Commit {
            inventory,
            outgoing: vec![event],
            archive: runs.iter().filter(|run| !run.archived).map(|run| run.run).collect(),
            ..Commit::default()
        };
        match self.at.store.commit(commit).await {
            // Somebody changed the record meanwhile and will say so.
            Ok(_) | Err(store::CommitError::Precondition { .. }) => Ok(()),
            Err(error) => Err(chain(&error)),
        }
    }

    async fn give_up(&self, late: Versioned<FlowRecord>) -> Result<(), String> {
        let mut record = late.value;
        let runs = self.at.store.reader().runs(&RunQuery::flow(record.flow)).map_err(|error| chain(&error))?;
        let waits = runs.iter().find_map(|run| run.summary.detail.get("waits_for")?.as_str().map(str::to_owned));
        let by = format!("deadline {}", record.deadline);
        let stopping = cancel::Stopping { flow: record.flow, by: &by, expired: true };
        match cancel::flow(&self.at, stopping).await {
            Ok(stopped) if !stopped.is_empty() => {
                tracing::warn!(flow = %record.flow, "the flow's time is over; cancelling");
                if record.reason.is_none() {
                    let waits = waits.map(|reason| format!(" while it waited: {reason}")).unwrap_or_default();
                    record.reason = Some(format!("its deadline {} passed{waits}", record.deadline));
                    let inventory = vec![InventoryChange::update(key(record.flow), late.revision, record.to_value())];
                    match self.at.store.commit(Commit { inventory, ..Commit::default() }).await {
                        // Somebody changed the record meanwhile, and it says why.
                        Ok(_) | Err(store::CommitError::Precondition { .. }) => {}
                        Err(error) => return Err(chain(&error)),
                    }
                }
            }
            Ok(_) | Err(CommandError::Unknown(_) | CommandError::Refused(_)) => {}
            Err(error) => return Err(chain(&error)),
        }
        Ok(())
    }

    /// Archives runs whose flow is kept elsewhere, and forgets what is past its age.
    async fn tidy(&self, open: &BTreeSet<Uuid>) -> Result<(), String> {
        while self.archive_strangers(open).await? {}
        self.forget_flows().await?;
        let pruned = self.at.store.prune(self.retention.clone()).await.map_err(|error| chain(&error))?;
        if pruned != store::Pruned::default() {
            tracing::info!(runs = pruned.runs, inbox = pruned.inbox, "forgot what is past its age");
        }
        Ok(())
    }

    /// Runs whose flow is kept elsewhere are archived by age; those of an open flow may have to be undone. Some at once:
    /// whether there may be more.
    async fn archive_strangers(&self, open: &BTreeSet<Uuid>) -> Result<bool, String> {
        const SOME: usize = 64;
        let now = Timestamp::now();
        let ended = RunState::ALL.into_iter().filter(|state| state.is_terminal()).collect();
        let query = RunQuery { states: ended, ..RunQuery::default() };
        let runs = self.at.store.reader().runs(&query).map_err(|error| chain(&error))?;
        let old = |run: &&RunRow| {
            !run.archived && !open.contains(&run.summary.flow) && age(run.updated_at, now) > self.archive_after
        };
        let archive: Vec<Uuid> = runs.iter().filter(old).map(|run| run.run).take(SOME).collect();
        let more = archive.len() == SOME;
        if !archive.is_empty() {
            let commit = Commit { archive, ..Commit::default() };
            self.at.store.commit(commit).await.map_err(|error| chain(&error))?;
        }
        Ok(more)
    }

    /// Flows that ended go with their runs; so does the memory of those that were cancelled elsewhere.
    async fn forget_flows(&self) -> Result<(), String> {
        let now = Timestamp::now();
        let reader = self.at.store.reader();
        let flows = reader.scan::<FlowRecord>("flow/").map_err(|error| chain(&error))?;
        let over =
            flows.into_iter().filter(|it| it.value.ended.is_some_and(|ended| age(ended, now) > self.retention.runs));
        let mut gone: Vec<_> = over.map(|it| InventoryChange::delete_at(it.key, it.revision)).collect();
        for mark in reader.scan::<cancel::Mark>(cancel::MARKS).map_err(|error| chain(&error))? {
            if age(mark.value.at, now) > self.retention.inbox {
                gone.push(InventoryChange::delete_at(mark.key, mark.revision));
            }
        }
        for some in gone.chunks(200) {
            let commit = Commit { inventory: some.to_vec(), ..Commit::default() };
            match self.at.store.commit(commit).await {
                Ok(_) | Err(store::CommitError::Precondition { .. }) => {}
                Err(error) => return Err(chain(&error)),
            }
        }
        Ok(())
    }
}

fn age(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
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
