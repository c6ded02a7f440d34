//! Turns what happens in runs into messages, which commit together with it: events for whoever listens, handoffs for
//! the other contractor.

use std::time::Duration;

use engine::{
    event::{Event, Failure, Outcome},
    report::{Emission, EmissionKind, Report, Status, StepReport},
};
use jiff::Timestamp;
use messages::{
    catalogue::{self, Family, Kind},
    envelope::Envelope,
    event::{DomainEvent, RunEvent},
    schema,
    subject::{Party, Subject},
};
use serde::Serialize;
use serde_json::Value;
use store::{Lane, Outgoing};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::driver::{Happened, Hooks};

/// Speaks for one contractor. Messages get their sequence and signature when they are published.
#[derive(Clone, Debug)]
pub struct Herald {
    party: Party,
    flows: mpsc::UnboundedSender<Uuid>,
}

/// What a message is about and because of what.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The flow.
    pub flow: Option<Uuid>,
    /// `ce-source/ce-id` of the causing message.
    pub cause: Option<String>,
    /// The cluster.
    pub cluster: Option<String>,
    /// The W3C trace that it is part of, as 32 hex digits; the flow's own where it is left out.
    pub trace: Option<String>,
}

impl Herald {
    /// Speaks for `party`; tells `flows` which flows may have changed their state.
    pub fn new(party: Party, flows: mpsc::UnboundedSender<Uuid>) -> Self {
        Self { party, flows }
    }

    /// For whom it speaks.
    pub fn party(&self) -> Party {
        self.party
    }

    /// Says that a flow may have changed its state.
    pub fn flow_changed(&self, flow: Uuid) {
        if self.flows.send(flow).is_err() {
            tracing::debug!(%flow, "nobody keeps flows any more");
        }
    }

    /// An event, for the outbox.
    ///
    /// # Errors
    /// If no such event exists or the body is not what its schema says: a bug of this program.
    pub fn event<B: Serialize>(&self, id: Uuid, name: &str, context: &Context, body: &B) -> Result<Outgoing, Failure> {
        let kind = known(Family::Event, name)?;
        let cluster = context.cluster.as_ref().and_then(|cluster| cluster.parse().ok());
        let subject = Subject::Event { from: self.party, cluster, kind: name.to_owned() };
        self.message(id, kind, &subject, context, body)
    }

    /// A handoff to whoever takes it from this contractor, for the outbox.
    ///
    /// # Errors
    /// If nobody takes it from this contractor, or the body is not what its schema says.
    pub fn handoff<B: Serialize>(
        &self,
        id: Uuid,
        name: &str,
        context: &Context,
        body: &B,
    ) -> Result<Outgoing, Failure> {
        let kind = known(Family::Handoff, name)?;
        let taker = kind.routes.iter().find(|(_, givers)| givers.contains(&self.party)).map(|(taker, _)| *taker);
        let Some(to) = taker else {
            return Err(Failure::new(format!("nobody takes handoff {name} from {}", self.party)));
        };
        self.message(id, kind, &Subject::Handoff { to, kind: name.to_owned() }, context, body)
    }

    /// A dead letter, for the outbox.
    ///
    /// # Errors
    /// If the body is not what its schema says.
    pub fn dead_letter(&self, id: Uuid, body: &messages::event::DeadLetter) -> Result<Outgoing, Failure> {
        let kind = known(Family::Event, "dead_letter")?;
        self.message(id, kind, &Subject::DeadLetter { at: self.party }, &Context::default(), body)
    }

    fn message<B: Serialize>(
        &self,
        id: Uuid,
        kind: &Kind,
        subject: &Subject,
        context: &Context,
        body: &B,
    ) -> Result<Outgoing, Failure> {
        let mut body = serde_json::to_value(body)
            .map_err(|error| Failure::new(format!("{} {} is not JSON: {error}", kind.family.as_str(), kind.name)))?;
        if kind.family == Family::Event {
            body["event_type"] = kind.name.into();
        }
        schema::validate(kind.family, kind.name, &body).map_err(|violations| {
            let first = violations.first().map(ToString::to_string).unwrap_or_default();
            Failure::new(format!("{} {} does not validate: {first}", kind.family.as_str(), kind.name))
        })?;
        let mut envelope = Envelope::new(id, self.party.source(), kind, Timestamp::now());
        envelope.cluster = context.cluster.as_ref().and_then(|cluster| cluster.parse().ok());
        envelope.correlation = context.flow;
        envelope.causation.clone_from(&context.cause);
        envelope.follow(context.trace.as_deref());
        let lane = match subject {
            Subject::Event { .. } => Lane::Event,
            Subject::DeadLetter { .. } => Lane::DeadLetter,
            Subject::Request { .. } | Subject::Handoff { .. } => Lane::Handoff,
        };
        Ok(Outgoing {
            id: envelope.id.clone(),
            lane,
            subject: subject.to_string(),
            headers: envelope.headers(),
            body: body.to_string(),
        })
    }

    fn emission(&self, emission: &Emission, context: &Context) -> Result<Outgoing, Failure> {
        match emission.kind {
            EmissionKind::Handoff => self.handoff(emission.id, &emission.name, context, &emission.body),
            EmissionKind::Event => self.event(emission.id, &emission.name, context, &emission.body),
        }
    }
}

impl Hooks for Herald {
    fn outgoing(&self, happened: &Happened<'_>) -> Result<Vec<Outgoing>, Failure> {
        let context = Context {
            flow: Some(happened.run.flow),
            cause: Some(happened.run.cause.clone()),
            cluster: happened.run.subject.clone(),
            trace: happened.run.trace.clone(),
        };
        let base = happened.after.events - happened.events.len() as u64;
        let mut outgoing = Vec::new();
        for (offset, event) in (base..).zip(happened.events) {
            if let Some((name, body)) = told(event, happened.after) {
                let id = Uuid::new_v5(&happened.run.run, format!("event:{offset}:{name}").as_bytes());
                outgoing.push(self.event(id, name, &context, &body)?);
            }
        }
        if let Some((name, body)) = turned(happened.before, happened.after) {
            let id = Uuid::new_v5(&happened.run.run, format!("event:{}:{name}", happened.after.events).as_bytes());
            outgoing.push(self.event(id, name, &context, &body)?);
        }
        for (index, event) in happened.domain.iter().enumerate() {
            let id = Uuid::new_v5(&happened.run.run, format!("domain:{base}:{index}:{}", event.kind).as_bytes());
            let cluster = event.cluster.clone().or_else(|| context.cluster.clone());
            let body = domain_body(event, happened.run.flow);
            outgoing.push(self.event(id, event.kind, &Context { cluster, ..context.clone() }, &body)?);
        }
        for emission in happened.emissions {
            outgoing.push(self.emission(emission, &context)?);
        }
        Ok(outgoing)
    }

    fn progress(&self, run: Uuid, step: &str, text: &str) {
        tracing::info!(%run, step, text, "step progress");
    }

    fn committed(&self, happened: &Happened<'_>) {
        for event in happened.events {
            record(event, happened.after);
        }
        if happened.before.is_none_or(|before| before.status != happened.after.status) {
            self.flow_changed(happened.run.flow);
        }
    }
}

fn known(family: Family, name: &str) -> Result<&'static Kind, Failure> {
    catalogue::find(family, name).ok_or_else(|| Failure::new(format!("there is no {} type {name}", family.as_str())))
}

/// What a journal entry is told as.
fn told(event: &Event, after: &Report) -> Option<(&'static str, RunEvent)> {
    let run = |name| Some((name, run_event(after)));
    match event {
        Event::Opened(_) => run("run_started"),
        Event::Skipped { step, .. } => Some(("step_skipped", step_event(after, step))),
        Event::Started { step, attempt, .. } => {
            Some(("step_started", RunEvent { attempt: Some(*attempt), ..step_event(after, step) }))
        }
        Event::Waiting { step, reason, until, .. } => {
            let mut body = step_event(after, step);
            body.reason = Some(reason.clone());
            body.next_attempt = Some(*until);
            Some(("step_waiting", body))
        }
        Event::Succeeded { step, attempt, .. } => {
            Some(("step_succeeded", RunEvent { attempt: Some(*attempt), ..step_event(after, step) }))
        }
        Event::Failed { step, attempt, error, retry_at, .. } => {
            let name = if retry_at.is_some() { "step_retrying" } else { "step_failed" };
            Some((name, failed_event(after, step, *attempt, error, *retry_at)))
        }
        Event::UndoStarted { step, attempt, .. } => {
            Some(("step_undo_started", RunEvent { attempt: Some(*attempt), ..step_event(after, step) }))
        }
        Event::UndoSucceeded { step, .. } => Some(("step_undone", step_event(after, step))),
        Event::UndoFailed { step, attempt, error, retry_at, .. } => {
            Some(("step_undo_failed", failed_event(after, step, *attempt, error, *retry_at)))
        }
        Event::Halted { error, .. } => {
            let body = RunEvent { reason: Some(error.message.clone()), hint: error.hint.clone(), ..run_event(after) };
            Some(("run_failed", body))
        }
        Event::Resumed { .. } => run("run_resumed"),
        Event::Finished { outcome, .. } => run(match outcome {
            Outcome::Succeeded => "run_succeeded",
            Outcome::Undone => "run_undone",
            Outcome::Kept => "run_kept",
            Outcome::Cancelled => "run_cancelled",
        }),
        Event::CancelRequested { by, .. } => Some(("run_cancelling", asked_event(after, by))),
        Event::UndoRequested { by, .. } => Some(("run_undoing", asked_event(after, by))),
        Event::Expanded { .. } | Event::Checkpointed { .. } => None,
    }
}

/// A change of the run as a whole that no single entry tells.
fn turned(before: Option<&Report>, after: &Report) -> Option<(&'static str, RunEvent)> {
    let changed = before.is_none_or(|before| before.status != after.status || before.waits_for != after.waits_for);
    let name = match after.status {
        Status::Paused => "run_paused",
        Status::Stuck => "run_stuck",
        Status::Pending if after.waits_for.is_some() => "run_waiting",
        _ => return None,
    };
    changed.then(|| (name, run_event(after)))
}

/// What somebody asked of a run; `by` is a source or the id of a message.
fn asked_event(report: &Report, by: &str) -> RunEvent {
    RunEvent { reason: Some(format!("asked by {by}")), ..run_event(report) }
}

fn run_event(report: &Report) -> RunEvent {
    let failure = report.failure.as_ref();
    RunEvent {
        event_type: String::new(),
        flow: report.flow,
        run: report.run,
        playbook: report.playbook.clone(),
        step: None,
        attempt: None,
        reason: report.waits_for.clone().or_else(|| failure.map(|failure| failure.error.message.clone())),
        hint: failure.and_then(|failure| failure.error.hint.clone()),
        next_attempt: None,
        deadline: None,
        duration_ms: report.finished_at.map(|end| millis(report.opened_at, end)),
    }
}

fn step_event(report: &Report, step: &str) -> RunEvent {
    let found: Option<&StepReport> = report.steps.iter().find(|of| of.step == step);
    RunEvent {
        step: Some(step.to_owned()),
        attempt: None,
        reason: found.and_then(|of| of.reason.clone()),
        hint: found.and_then(|of| of.hint.clone()),
        deadline: found.and_then(|of| of.deadline),
        duration_ms: found.and_then(|of| Some(millis(of.started_at?, of.ended_at?))),
        ..run_event(report)
    }
}

fn failed_event(
    report: &Report,
    step: &str,
    attempt: u32,
    error: &Failure,
    next_attempt: Option<Timestamp>,
) -> RunEvent {
    RunEvent {
        attempt: Some(attempt),
        reason: Some(error.message.clone()),
        hint: error.hint.clone(),
        next_attempt,
        ..step_event(report, step)
    }
}

fn domain_body(event: &crate::action::DomainEvent, flow: Uuid) -> DomainEvent {
    let mut facts: std::collections::BTreeMap<String, Value> = match &event.body {
        Value::Object(object) => object.clone().into_iter().collect(),
        Value::Null => std::collections::BTreeMap::new(),
        other => [("value".to_owned(), other.clone())].into(),
    };
    let text = |value: Value| value.as_str().map(str::to_owned);
    let object = facts.remove("object").and_then(text).or_else(|| event.cluster.clone()).unwrap_or_default();
    let message = facts.remove("message").and_then(text);
    DomainEvent { event_type: String::new(), object, flow: Some(flow), message, facts }
}

fn record(event: &Event, after: &Report) {
    match event {
        Event::Succeeded { step, .. } => {
            metrics::counter!("contractor_steps_total", "result" => "succeeded").increment(1);
            let found = after.steps.iter().find(|of| of.step == *step);
            if let Some((start, end)) = found.and_then(|of| Some((of.started_at?, of.ended_at?))) {
                let action = found.map(|of| of.does.clone()).unwrap_or_default();
                let took = Duration::from_millis(millis(start, end));
                metrics::histogram!("contractor_step_seconds", "action" => action).record(took.as_secs_f64());
            }
        }
        Event::Failed { step, error, retry_at, .. } => {
            let result = if retry_at.is_some() { "retried" } else { "failed" };
            metrics::counter!("contractor_steps_total", "result" => result).increment(1);
            tracing::warn!(run = %after.run, flow = %after.flow, step, error = %error, result, "attempt failed");
        }
        Event::UndoFailed { step, error, .. } => {
            tracing::error!(run = %after.run, flow = %after.flow, step, error = %error, "undo failed");
        }
        Event::Waiting { step, reason, .. } => {
            tracing::info!(run = %after.run, flow = %after.flow, step, reason, "step waits");
        }
        Event::Opened(opened) => {
            tracing::info!(run = %after.run, flow = %after.flow, playbook = opened.playbook, "run started");
        }
        Event::Finished { outcome, .. } => {
            let outcome = format!("{outcome:?}").to_lowercase();
            tracing::info!(run = %after.run, flow = %after.flow, playbook = after.playbook, outcome, "run ended");
            metrics::counter!("contractor_runs_total", "outcome" => outcome).increment(1);
        }
        _ => {}
    }
}

fn millis(start: Timestamp, end: Timestamp) -> u64 {
    u64::try_from(end.duration_since(start).as_millis()).unwrap_or_default()
}
