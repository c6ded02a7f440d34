//! A run as the store keeps it: entries of the journal, and the summary that lists show.

use engine::{
    event::{Event, Opened},
    report::{Report, Status},
};
use serde_json::json;
use store::{RunAppend, RunSummary};

/// What a commit says of the run.
pub(super) fn append(opened: &Opened, expected_seq: u64, events: &[Event], report: &Report) -> RunAppend {
    let json = |event| serde_json::to_value(event).expect("events are JSON");
    RunAppend {
        run: opened.run,
        expected_seq,
        events: events.iter().map(json).collect(),
        summary: Some(RunSummary {
            flow: opened.flow,
            playbook: opened.playbook.clone(),
            cluster: opened.subject.clone(),
            state: stored(report.status),
            detail: json!({
                "cause": report.cause, "version": report.version, "counts": report.counts,
                "waits_for": report.waits_for, "failure": report.failure,
                "opened_at": report.opened_at, "finished_at": report.finished_at,
            }),
        }),
    }
}

fn stored(status: Status) -> store::RunState {
    match status {
        Status::Pending => store::RunState::Pending,
        Status::Running => store::RunState::Running,
        Status::Waiting => store::RunState::Waiting,
        Status::Undoing => store::RunState::Undoing,
        Status::Paused => store::RunState::Paused,
        Status::Stuck => store::RunState::Stuck,
        Status::Succeeded => store::RunState::Succeeded,
        Status::Undone => store::RunState::Undone,
        Status::Kept => store::RunState::Kept,
        Status::Cancelled => store::RunState::Cancelled,
    }
}
