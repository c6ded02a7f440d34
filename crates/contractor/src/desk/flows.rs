//! What the desk answers of flows and runs, and what it does to them.

use std::collections::BTreeSet;

use messages::query::{FlowView, Refusal, RefusalKind};
use serde_json::{Value, json};
use store::{RunQuery, RunRow, RunState, Versioned};
use uuid::Uuid;

use super::{Desk, broken, missing, no_effect, value};
use crate::{
    agent::Asked,
    cancel::{self, Stopping},
    driver::CommandError,
    flows::{self, FlowRecord, Pending},
    views,
};

impl Desk {
    /// Flows that this contractor keeps, and those of others that it has unfinished work of.
    pub(super) fn flows(&self) -> Result<Value, Refusal> {
        let reader = self.store.reader();
        let mut views = Vec::new();
        let mut kept = BTreeSet::new();
        for entry in reader.scan::<FlowRecord>("flow/").map_err(|error| broken(&error))? {
            kept.insert(entry.value.flow);
            views.extend(self.flow_view(entry.value.flow, Some(&entry.value), false)?);
        }
        for entry in reader.scan::<Pending>("pending/").map_err(|error| broken(&error))? {
            views.extend(awaiting(&entry.value));
        }
        let unfinished = reader.runs(&RunQuery::unfinished()).map_err(|error| broken(&error))?;
        let others: BTreeSet<Uuid> = unfinished.iter().map(|row| row.summary.flow).collect();
        for flow in others.difference(&kept) {
            views.extend(self.flow_view(*flow, None, false)?);
        }
        views.sort_by_key(|view| std::cmp::Reverse(view.started));
        value(&views)
    }

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
        let record = self.store.reader().get::<FlowRecord>(&flows::key(flow)).map_err(|error| broken(&error))?;
        let view = self.flow_view(flow, record.as_ref().map(|record| &record.value), true)?;
        value(&view.ok_or_else(|| missing("flow", flow))?)
    }

    fn flow_view(
        &self,
        flow: Uuid,
        record: Option<&FlowRecord>,
        with_steps: bool,
    ) -> Result<Option<FlowView>, Refusal> {
        let party = self.agent.party().as_str();
        let mut rows = self.store.reader().runs(&RunQuery::flow(flow)).map_err(|error| broken(&error))?;
        rows.sort_by_key(|row| row.started_at);
        let shown = |row: &RunRow| {
            let report = if with_steps { self.driver.report(row.run).map_err(|error| broken(&error))? } else { None };
            Ok(report.map_or_else(|| views::run_row(row, party), |report| views::run(&report, party)))
        };
        let runs = rows.iter().map(shown).collect::<Result<_, _>>()?;
        Ok(views::flow(flow, record, runs))
    }

    pub(super) fn runs(&self, asked: &Asked) -> Result<Value, Refusal> {
        let text = |name: &str| asked.arguments.get(name).and_then(Value::as_str).map(str::to_owned);
        let states = match text("state") {
            None => Vec::new(),
            Some(state) => {
                let found = RunState::ALL.into_iter().find(|of| of.as_str() == state);
                let known: Vec<&str> = RunState::ALL.iter().map(|state| state.as_str()).collect();
                vec![found.ok_or_else(|| {
                    Refusal::new(RefusalKind::Invalid, format!("state must be one of {}", known.join(", ")))
                })?]
            }
        };
        let query = RunQuery {
            flow: text("flow").and_then(|flow| flow.parse().ok()),
            cluster: text("cluster"),
            playbook: text("playbook"),
            states,
            limit: asked.arguments.get("limit").and_then(Value::as_u64).unwrap_or(100) as usize,
        };
        let rows = self.store.reader().runs(&query).map_err(|error| broken(&error))?;
        let party = self.agent.party().as_str();
        value(&rows.iter().map(|row| views::run_row(row, party)).collect::<Vec<_>>())
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
        let rows = self.store.reader().runs(&RunQuery::flow(flow)).map_err(|error| broken(&error))?;
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
        self.store.reader().get::<Pending>(&flows::pending_key(flow)).map_err(|error| broken(&error))
    }

    fn knows(&self, flow: Uuid) -> Result<bool, Refusal> {
        let reader = self.store.reader();
        let record = reader.get::<FlowRecord>(&flows::key(flow)).map_err(|error| broken(&error))?;
        let runs = reader.runs(&RunQuery { limit: 1, ..RunQuery::flow(flow) }).map_err(|error| broken(&error))?;
        Ok(record.is_some() || !runs.is_empty())
    }
}

/// A request that waits for consent, as a flow.
fn awaiting(pending: &Pending) -> Option<FlowView> {
    let mut view = views::flow(pending.record.flow, Some(&pending.record), Vec::new())?;
    view.state = "awaiting_approval".into();
    view.deadline = Some(pending.expires);
    view.reason = Some(format!("waits for approval of plan {}", pending.plan_hash));
    Some(view)
}
