//! What queries show of runs, flows and playbooks.

use engine::{library::Definition, playbook::schedule::Schedule, report::Report};
use messages::query::{FlowView, PlaybookView, RunView, StepView};
use serde::Serialize;
use serde_json::Value;
use store::RunRow;

use crate::flows::{FlowRecord, State, failure_of};

/// A run with its steps.
pub fn run(report: &Report, contractor: &str) -> RunView {
    let failure = report.failure.as_ref();
    let steps = report.steps.iter().map(|step| StepView {
        step: step.step.clone(),
        action: step.does.clone(),
        state: word(&step.status),
        attempts: step.attempt,
        started: step.started_at,
        ended: step.ended_at,
        reason: step.reason.clone(),
        hint: step.hint.clone(),
        next_attempt: step.next_at,
        deadline: step.deadline,
    });
    RunView {
        run: report.run,
        flow: report.flow,
        contractor: contractor.to_owned(),
        playbook: report.playbook.clone(),
        version: report.version,
        cluster: report.subject.clone(),
        state: word(&report.status),
        started: report.opened_at,
        ended: report.finished_at,
        reason: report.waits_for.clone().or_else(|| failure.map(|failure| failure.error.message.clone())),
        hint: failure.and_then(|failure| failure.error.hint.clone()),
        steps: steps.collect(),
    }
}

/// A run as lists show it, from its row alone.
pub fn run_row(row: &RunRow, contractor: &str) -> RunView {
    let failure = failure_of(row);
    let detail = |name: &str| row.summary.detail.get(name).and_then(Value::as_str).map(str::to_owned);
    RunView {
        run: row.run,
        flow: row.summary.flow,
        contractor: contractor.to_owned(),
        playbook: row.summary.playbook.clone(),
        version: row.summary.detail.get("version").and_then(Value::as_u64).unwrap_or_default() as u32,
        cluster: row.summary.cluster.clone(),
        state: row.summary.state.as_str().to_owned(),
        started: row.started_at,
        ended: row.summary.state.is_terminal().then_some(row.updated_at),
        reason: detail("waits_for").or_else(|| failure.as_ref().map(|failure| failure.message.clone())),
        hint: failure.and_then(|failure| failure.hint),
        steps: Vec::new(),
    }
}

/// A flow that this contractor keeps, or the part of another's flow that it works on.
pub fn flow(flow: uuid::Uuid, record: Option<&FlowRecord>, runs: Vec<RunView>) -> Option<FlowView> {
    let first = runs.first();
    let state = match record {
        Some(record) if record.state != State::Open => record.state.as_str().to_owned(),
        _ => open_state(&runs),
    };
    let waits = runs.iter().find(|run| !is_over(&run.state)).and_then(|run| run.reason.clone());
    Some(FlowView {
        flow,
        kind: record.map(|record| record.kind.clone()).or_else(|| Some(first?.playbook.clone()))?,
        cluster: record.map_or_else(|| first.and_then(|run| run.cluster.clone()), |record| record.cluster.clone()),
        state,
        source: record.map(|record| record.source.clone()).unwrap_or_default(),
        started: record.map(|record| record.started).or_else(|| Some(first?.started))?,
        ended: record.and_then(|record| record.ended),
        deadline: record.map(|record| record.deadline),
        reason: record.and_then(|record| record.reason.clone()).or(waits),
        hint: record.and_then(|record| record.hint.clone()),
        plan: None,
        runs,
    })
}

/// A playbook.
pub fn playbook(definition: &Definition, contractor: &str, with_text: bool) -> PlaybookView {
    let playbook = &definition.playbook;
    let trigger = playbook.trigger.as_ref().and_then(|trigger| {
        let named = [
            ("request", trigger.request.as_deref()),
            ("handoff", trigger.handoff.as_deref()),
            ("cron", trigger.cron.as_ref().map(Schedule::as_str)),
            ("condition", trigger.condition.as_deref()),
        ];
        named.into_iter().find_map(|(kind, name)| name.map(|name| format!("{kind} {name}")))
    });
    PlaybookView {
        playbook: playbook.name.value.clone(),
        version: playbook.version,
        contractor: contractor.to_owned(),
        hash: definition.hash(),
        trigger,
        steps: playbook.steps.iter().map(|step| step.id.value.clone()).collect(),
        text: with_text.then(|| playbook.text.clone()),
    }
}

fn open_state(runs: &[RunView]) -> String {
    let has = |state: &str| runs.iter().any(|run| run.state == state);
    let found = ["stuck", "paused", "undoing", "waiting", "pending"].into_iter().find(|state| has(state));
    let waiting = found.map(|state| if state == "pending" { "waiting" } else { state });
    waiting.unwrap_or("running").to_owned()
}

fn is_over(state: &str) -> bool {
    matches!(state, "succeeded" | "undone" | "kept" | "cancelled")
}

fn word<T: Serialize>(status: &T) -> String {
    serde_json::to_value(status).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
