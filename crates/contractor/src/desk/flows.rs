//! What the desk answers of flows and runs, and what it does to them.

use std::{cmp::Reverse, collections::BTreeSet};

use messages::{
    query::{FlowView, Refusal, RefusalKind, RunView},
    subject::Party,
};
use serde_json::{Value, json};
use store::{ReadError, Reader, RunQuery, RunRow, RunState, Versioned};
use uuid::Uuid;

use super::{Desk, missing, no_effect, optional, value};
use crate::{
    agent::Asked,
    cancel::{self, Stopping},
    damage::{REMEDY, unavailable},
    driver::{CommandError, Driver, does_not_go_on},
    flows::{self, FLOWS, FlowRecord, PENDING, Pending, State},
    intake::chain,
    views,
};

/// Flows or runs in one answer: below 300 KiB, where the bus carries 512.
const PAGE: usize = 300;
/// Unless it is said how many.
const SOME: usize = 100;

/// What is known of flows and runs, apart from the desk: a look over all of them is taken on a thread of its own.
#[derive(Clone)]
pub(super) struct Look {
    reader: Reader,
    driver: Driver,
    party: Party,
}

/// How many are asked for.
fn limit(asked: &Asked) -> Result<usize, Refusal> {
    let limit: Option<usize> = optional(asked, "limit")?;
    Ok(limit.unwrap_or(SOME).clamp(1, PAGE))
}

/// Adds a flow to those that may be among the `limit` newest, of which there are never many more than that.
fn push_newest(ended: &mut Vec<FlowRecord>, record: FlowRecord, limit: usize) {
    ended.push(record);
    if ended.len() >= 2 * limit {
        ended.sort_unstable_by_key(|record| Reverse(record.started));
        ended.truncate(limit);
    }
}

impl Look {
    /// Flows that this contractor keeps, and those of others that it has unfinished work of, newest first. What is open goes
    /// before what has ended where not all of them fit.
    fn flows(&self, cluster: Option<&str>, limit: usize) -> Result<Value, Refusal> {
        let is_of = |of: Option<&String>| cluster.is_none_or(|cluster| of.is_some_and(|of| of == cluster));
        let (mut kept, mut open, mut ended) = (BTreeSet::new(), Vec::new(), Vec::new());
        let looked = self.reader.each::<FlowRecord>(FLOWS, |(key, found)| {
            let Some(record) = read(&key, found) else { return };
            kept.insert(record.flow);
            if is_of(record.cluster.as_ref()) {
                match record.state {
                    State::Open => open.push(record),
                    _ => push_newest(&mut ended, record, limit),
                }
            }
        });
        looked.map_err(|error| unavailable(&error))?;
        let mut views = Vec::new();
        for record in open {
            views.extend(self.flow_view(record.flow, Some(&record), false)?);
        }
        for (key, found) in self.reader.scan_each::<Pending>(PENDING).map_err(|error| unavailable(&error))? {
            views.extend(read(&key, found).as_ref().and_then(awaiting));
        }
        let unfinished = self.rows(&RunQuery::unfinished())?;
        let others: BTreeSet<Uuid> = unfinished.iter().map(|row| row.summary.flow).collect();
        for flow in others.difference(&kept) {
            views.extend(self.flow_view(*flow, None, false)?);
        }
        views.retain(|view| is_of(view.cluster.as_ref()));
        ended.sort_unstable_by_key(|record| Reverse(record.started));
        for record in ended.iter().take(limit.saturating_sub(views.len())) {
            views.extend(self.flow_view(record.flow, Some(record), false)?);
        }
        views.sort_by_key(|view| Reverse(view.started));
        views.truncate(limit);
        value(&views)
    }

    fn runs(&self, query: &RunQuery) -> Result<Value, Refusal> {
        value(&self.rows(query)?.iter().map(|row| self.run_row(row)).collect::<Vec<_>>())
    }

    fn flow_view(
        &self,
        flow: Uuid,
        record: Option<&FlowRecord>,
        with_steps: bool,
    ) -> Result<Option<FlowView>, Refusal> {
        let mut rows = self.rows(&RunQuery::flow(flow))?;
        rows.sort_by_key(|row| row.started_at);
        let shown = |row: &RunRow| if with_steps { self.run_with_steps(row) } else { self.run_row(row) };
        Ok(views::flow(flow, record, rows.iter().map(shown).collect()))
    }

    /// The runs that can be read; a list is not kept back by one that cannot.
    fn rows(&self, query: &RunQuery) -> Result<Vec<RunRow>, Refusal> {
        let (rows, damaged) = self.reader.readable_runs(query).map_err(|error| unavailable(&error))?;
        damaged.iter().for_each(|error| unread("a run", error));
        Ok(rows)
    }

    /// A run with its steps.
    pub(super) fn show_run(&self, run: Uuid) -> Result<RunView, Refusal> {
        let report = self.driver.report(run);
        match (report, self.reader.run(run)) {
            (Ok(Some(report)), _) => Ok(self.noted(views::run(&report, self.party.as_str()))),
            (Ok(None), Ok(None)) => Err(missing("run", run)),
            (_, Ok(Some(row))) => Ok(self.run_with_steps(&row)),
            (Err(error), _) | (_, Err(error)) => Err(unavailable(&error)),
        }
    }

    /// The steps are left out where the journal cannot be read.
    fn run_with_steps(&self, row: &RunRow) -> RunView {
        match self.driver.report(row.run) {
            Ok(Some(report)) => self.noted(views::run(&report, self.party.as_str())),
            Ok(None) => self.run_row(row),
            Err(error) => {
                let row = views::run_row(row, self.party.as_str());
                self.noted(RunView { reason: Some(chain(&error)), hint: Some(REMEDY.to_owned()), ..row })
            }
        }
    }

    fn run_row(&self, row: &RunRow) -> RunView {
        self.noted(views::run_row(row, self.party.as_str()))
    }

    /// With why the run does not go on, where it does not.
    fn noted(&self, view: RunView) -> RunView {
        match self.driver.unreadable().remove(&view.run) {
            Some(reason) => RunView { reason: Some(does_not_go_on(&reason)), hint: Some(REMEDY.to_owned()), ..view },
            None => view,
        }
    }
}

impl Desk {
    pub(super) async fn flow(&self, flow: Uuid) -> Result<Value, Refusal> {
        if let Some(pending) = self.pending(flow)? {
            let pending = pending.value;
            let mut view = awaiting(&pending).ok_or_else(|| missing("flow", flow))?;
            // The world may have changed: what is shown is what an approval would have to name now.
            match self.intake.planner.plan(&pending.playbook, flow, &pending.input).await {
                Ok(plan) => {
                    view.hint = Some(format!("cortexctl flows approve {flow} --plan-hash {}", plan.plan_hash));
                    view.plan = Some(plan);
                }
                Err(refusal) => view.hint = Some(format!("there is no plan any more: {}", refusal.message)),
            }
            return value(&view);
        }
        let record = self.store.reader().get::<FlowRecord>(&flows::key(flow)).map_err(|error| unavailable(&error))?;
        let view = self.look().flow_view(flow, record.as_ref().map(|record| &record.value), true)?;
        value(&view.ok_or_else(|| missing("flow", flow))?)
    }

    /// The newest flows.
    pub(super) async fn flows(&self, asked: &Asked) -> Result<Value, Refusal> {
        let (look, limit, cluster) = (self.look(), limit(asked)?, optional::<String>(asked, "cluster")?);
        apart(move || look.flows(cluster.as_deref(), limit)).await
    }

    /// The newest runs.
    pub(super) async fn runs(&self, asked: &Asked) -> Result<Value, Refusal> {
        let query = RunQuery {
            flow: optional(asked, "flow")?,
            cluster: optional(asked, "cluster")?,
            playbook: optional(asked, "playbook")?,
            states: optional(asked, "state")?.into_iter().collect(),
            limit: limit(asked)?,
        };
        let look = self.look();
        apart(move || look.runs(&query)).await
    }

    pub(super) fn look(&self) -> Look {
        Look { reader: self.store.reader(), driver: self.driver.clone(), party: self.agent.party() }
    }

    pub(super) async fn cancel_flow(&self, flow: Uuid, by: &str) -> Result<Value, Refusal> {
        if let Some(pending) = self.pending(flow)? {
            let reason = format!("withdrawn by {by} before its plan was approved");
            flows::withdraw(&self.store, &self.intake.herald, pending, reason)
                .await
                .map_err(|reason| Refusal::new(RefusalKind::Unavailable, reason))?;
            return Ok(json!({ "flow": flow, "runs": [] }));
        }
        let stopping = Stopping { flow, by, expired: false };
        match cancel::flow(&self.intake.place(), stopping).await {
            Ok(runs) => Ok(json!({ "flow": flow, "runs": runs })),
            Err(CommandError::Unknown(_)) if self.knows(flow)? => {
                let text = format!("no run of flow {flow} is at work here");
                Err(Refusal::new(RefusalKind::Conflict, text))
            }
            Err(error) => Err(no_effect(&error)),
        }
    }

    pub(super) async fn resume_flow(&self, flow: Uuid, by: &str) -> Result<Value, Refusal> {
        let rows = self.store.reader().runs(&RunQuery::flow(flow)).map_err(|error| unavailable(&error))?;
        if rows.is_empty() {
            return Err(missing("flow", flow));
        }
        let halted = rows.iter().filter(|row| matches!(row.summary.state, RunState::Paused | RunState::Stuck));
        let mut resumed = Vec::new();
        for row in halted {
            self.driver.resume(row.run, by).await.map_err(|error| no_effect(&error))?;
            resumed.push(row.run);
        }
        if resumed.is_empty() {
            return Err(Refusal::new(RefusalKind::Conflict, format!("no run of flow {flow} is paused or stuck here")));
        }
        Ok(json!({ "flow": flow, "runs": resumed }))
    }

    fn pending(&self, flow: Uuid) -> Result<Option<Versioned<Pending>>, Refusal> {
        self.store.reader().get::<Pending>(&flows::pending_key(flow)).map_err(|error| unavailable(&error))
    }

    fn knows(&self, flow: Uuid) -> Result<bool, Refusal> {
        let reader = self.store.reader();
        let record = reader.get::<FlowRecord>(&flows::key(flow)).map_err(|error| unavailable(&error))?;
        let runs = reader.runs(&RunQuery { limit: 1, ..RunQuery::flow(flow) }).map_err(|error| unavailable(&error))?;
        Ok(record.is_some() || !runs.is_empty())
    }
}

/// Looks on a thread of its own, so that those who work on others do not wait.
async fn apart(look: impl FnOnce() -> Result<Value, Refusal> + Send + 'static) -> Result<Value, Refusal> {
    let looked = tokio::task::spawn_blocking(look).await;
    looked.map_err(|error| Refusal::new(RefusalKind::Unavailable, error.to_string()))?
}

/// A request that waits for consent, as a flow.
fn awaiting(pending: &Pending) -> Option<FlowView> {
    let mut view = views::flow(pending.record.flow, Some(&pending.record), Vec::new())?;
    view.state = "awaiting_approval".into();
    view.deadline = Some(pending.expires);
    view.reason = Some(format!("waits for approval of plan {}", pending.plan_hash));
    Some(view)
}

/// A row of a list, which is not kept back by one that cannot be read.
fn read<T>(key: &str, found: Result<Versioned<T>, ReadError>) -> Option<T> {
    found.map(|row| row.value).inspect_err(|error| unread(key, error)).ok()
}

/// What cannot be read is left out of a list; the log says so.
fn unread(key: &str, error: &ReadError) {
    tracing::warn!(key, error = chain(error), "a record cannot be read and is left out");
}
