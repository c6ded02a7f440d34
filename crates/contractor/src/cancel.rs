//! Stopping a flow on both sides: its runs here, and by a handoff what the other contractor does for it.
//!
//! Work passes by handoff, and so does its end. A handoff of the flow may still be on its way when `cancel_request`
//! comes, so the other side remembers the flow, and a run that begins for it later is cancelled as it begins.

use engine::event::Event;
use jiff::Timestamp;
use messages::{
    handoff::{CancelRequest, Unknown},
    name::ClusterName,
    subject::Party,
};
use serde::{Deserialize, Serialize};
use store::{Commit, CommitError, InventoryChange, RunQuery, Versioned};
use uuid::Uuid;

use crate::{
    agent::Workplace,
    driver::CommandError,
    flows::{FlowRecord, State, key},
    intake::chain,
};

/// Where flows are remembered that were cancelled by the contractor that keeps them.
pub const MARKS: &str = "cancelled/";

/// A flow that was cancelled by the contractor that keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// Who asked for it.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// What is to stop, and because of whom.
#[derive(Clone, Copy, Debug)]
pub struct Stopping<'a> {
    /// The flow.
    pub flow: Uuid,
    /// Who asked for it.
    pub by: &'a str,
    /// Nobody did, its time is over: runs that wait for an operator go on waiting.
    pub expired: bool,
}

/// The inventory key of a flow's [`Mark`].
pub fn mark_key(flow: Uuid) -> String {
    format!("{MARKS}{flow}")
}

/// Stops a flow; returns the runs that were told, none where the other contractor was.
///
/// # Errors
/// See [`CommandError`].
pub async fn flow(at: &Workplace, stopping: Stopping<'_>) -> Result<Vec<Uuid>, CommandError> {
    let stopped = runs(at, stopping).await;
    let reader = at.store.reader();
    let record = reader.get::<FlowRecord>(&key(stopping.flow)).map_err(CommandError::Read)?;
    let Some(record) = record.filter(|found| found.value.state == State::Open) else { return stopped };
    let here = reader.runs(&RunQuery::flow(stopping.flow)).map_err(CommandError::Read)?;
    let is_done_here = here.iter().all(|run| run.summary.state.is_terminal());
    match stopped {
        Ok(stopped) if !stopped.is_empty() => Ok(stopped),
        Ok(_) | Err(CommandError::Unknown(_) | CommandError::Refused(_)) if is_done_here => {
            tell(at, record, stopping).await.map(|()| Vec::new())
        }
        other => other,
    }
}

/// Stops the runs of a flow here.
pub(crate) async fn runs(at: &Workplace, stopping: Stopping<'_>) -> Result<Vec<Uuid>, CommandError> {
    if stopping.expired {
        at.driver.expire(stopping.flow, stopping.by).await
    } else {
        at.driver.cancel(stopping.flow, stopping.by).await
    }
}

/// After a start, stops the runs that go on although their flow was cancelled: the process may have ended between the
/// mark and the order. A run that was told before and goes on was resumed by an operator, and is not told again.
pub async fn remind(at: &Workplace) {
    for report in at.driver.active() {
        let (run, flow) = (report.run, report.flow);
        if report.status.needs_operator() {
            continue;
        }
        let told = match mark_of_untold(at, flow, run) {
            Ok(None) => continue,
            Ok(Some(mark)) => at.driver.cancel_run(run, &mark.by).await.map_err(|error| chain(&error)),
            Err(error) => Err(chain(&error)),
        };
        match told {
            Ok(()) => tracing::warn!(%run, %flow, "the run's flow was cancelled before the start; it is told now"),
            Err(reason) => tracing::warn!(%run, %flow, reason, "the run's flow may be cancelled; it was not told"),
        }
    }
}

/// The mark of a flow whose run was not told of it.
fn mark_of_untold(at: &Workplace, flow: Uuid, run: Uuid) -> Result<Option<Mark>, store::ReadError> {
    let reader = at.store.reader();
    let Some(mark) = reader.get::<Mark>(&mark_key(flow))? else { return Ok(None) };
    let is_cancel = |entry| matches!(serde_json::from_value(entry), Ok(Event::CancelRequested { .. }));
    let was_told = reader.journal(run, 0)?.into_iter().any(is_cancel);
    Ok((!was_told).then_some(mark.value))
}

/// Hands the flow's end to the other contractor, once.
async fn tell(at: &Workplace, found: Versioned<FlowRecord>, stopping: Stopping<'_>) -> Result<(), CommandError> {
    let mut record = found.value;
    let cluster = record.cluster.as_deref().and_then(|name| name.parse::<ClusterName>().ok());
    let (Party::Infrastructure, None, Some(cluster_name)) = (at.herald.party(), &record.cancelled, cluster) else {
        return Ok(());
    };
    let body = CancelRequest {
        handoff_type: "cancel_request".to_owned(),
        cluster_name,
        by: stopping.by.to_owned(),
        expired: stopping.expired,
        failure_policy: record.failure_policy,
        unknown: Unknown::new(),
    };
    record.cancelled = Some(stopping.by.to_owned());
    record.reason.get_or_insert_with(|| format!("cancelled by {}", stopping.by));
    let context = record.context(None);
    let refused = |failure: engine::event::Failure| CommandError::Refused(failure.message);
    let id = Uuid::new_v5(&record.flow, b"cancel_request");
    let commit = Commit {
        outgoing: vec![
            at.herald.handoff(id, "cancel_request", &context, &body).map_err(refused)?,
            record.event(&at.herald, "flow_cancelling", None).map_err(refused)?,
        ],
        inventory: vec![InventoryChange::update(key(record.flow), found.revision, record.to_value())],
        ..Commit::default()
    };
    match at.store.commit(commit).await {
        // Somebody changed the record meanwhile: the flow ended, or is cancelled already. Who asks again is told.
        Ok(_) | Err(CommitError::Precondition { .. }) => Ok(()),
        Err(error) => Err(CommandError::Commit(error)),
    }
}
