//! Live progress of a flow: its events from both contractors, until it ends or needs an operator.

use std::{
    collections::BTreeSet,
    io::{IsTerminal, Write},
    time::Duration,
};

use bus::{Recorded, Tail, TailFrom};
use indicatif::ProgressBar;
use jiff::Timestamp;
use messages::{
    envelope::header,
    event::Rejected,
    query::{FlowView, Refusal, RefusalKind},
};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    cli::{Ending, Failure, Outcome},
    client::{self, Client},
    commands::flows,
    output::Output,
};

/// An event of the flow, as people read it.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// When.
    pub time: Timestamp,
    /// `infrastructure`, `talos`.
    pub from: String,
    /// The event's type.
    pub kind: String,
    /// Its body.
    pub body: Value,
}

impl Told {
    /// Reads an event.
    pub fn read(recorded: &Recorded) -> Option<Self> {
        let mut tokens = recorded.subject.split('.').skip(2);
        let from = tokens.next()?.to_owned();
        let kind = tokens.nth(1)?.to_owned();
        let body = serde_json::from_slice(&recorded.body).ok()?;
        let time = header(&recorded.headers, "ce-time").and_then(|time| time.parse().ok());
        let time = time.unwrap_or(recorded.published);
        Some(Self { time, from, kind, body })
    }

    /// One line: `12:00:01 talos apply[prod-k8s-cp-1] waiting: …`.
    pub fn line(&self) -> String {
        let text = |name: &str| self.body.get(name).and_then(Value::as_str).unwrap_or_default();
        let clock = self.time.strftime("%H:%M:%S");
        let what = [text("step"), text("object"), text("playbook"), text("kind")];
        let what = what.into_iter().find(|what| !what.is_empty()).unwrap_or_default();
        let (_, verb) = self.kind.split_once('_').unwrap_or(("", &self.kind));
        let mut line = format!("{clock} {:<14} {what:<44} {}", self.from, verb.replace('_', " "));
        if let Some(millis) = self.body.get("duration_ms").and_then(Value::as_u64) {
            line.push_str(&format!(" after {}", seconds(millis)));
        }
        for name in ["message", "reason", "hint"] {
            if !text(name).is_empty() {
                line.push_str(&format!("; {}", text(name)));
            }
        }
        line
    }
}

/// Waits for the word on a request that was published into the stream with that message id: the first event of its flow.
///
/// # Errors
/// The refusal with everything that is wrong, if it was refused; or that no word came.
pub async fn word(tail: &mut Tail, flow: Uuid, message: &str, patience: Duration) -> Result<Told, Failure> {
    let give_up = tokio::time::Instant::now() + patience;
    loop {
        let left = give_up.duration_since(tokio::time::Instant::now());
        let Some(recorded) = tail.next_within(left).await.map_err(Failure::other)? else {
            return Err(Failure::Other(format!(
                "no contractor said a word on it within {patience:?}; it is in the stream, and may yet be taken as flow {flow}"
            )));
        };
        let Some(told) = Told::read(&recorded) else { continue };
        if told.kind != "rejected" {
            if is_of(&recorded, flow) {
                return Ok(told);
            }
            continue;
        }
        let rejected: Rejected = serde_json::from_value(told.body).map_err(Failure::other)?;
        // What does not validate begins no flow.
        if rejected.message != message {
            continue;
        }
        let refusal = Refusal::new(RefusalKind::Invalid, rejected.reason);
        return Err(client::Error::Refused(Refusal { violations: rejected.violations, ..refusal }).into());
    }
}

/// Whether an event belongs to the flow.
fn is_of(recorded: &Recorded, flow: Uuid) -> bool {
    header(&recorded.headers, "cortex-correlation-id").is_some_and(|found| found == flow.to_string())
}

/// Follows a flow and hands each event on; ends with the flow.
///
/// # Errors
/// If the events cannot be read.
pub async fn follow(
    client: &Client,
    flow: Uuid,
    mut tail: Tail,
    mut tell: impl FnMut(&Told),
) -> Result<(Ending, Option<FlowView>), Failure> {
    loop {
        // Events are never needed for correctness: now and then the contractor itself is asked.
        let Some(recorded) = tail.next_within(Duration::from_secs(5)).await.map_err(Failure::other)? else {
            if let Ok(Some(ended)) = ended(client, flow).await {
                return Ok(ended);
            }
            continue;
        };
        if !is_of(&recorded, flow) {
            continue;
        }
        let Some(told) = Told::read(&recorded) else { continue };
        tell(&told);
        let over = matches!(told.kind.as_str(), "flow_succeeded" | "flow_failed" | "flow_cancelled");
        let halted = matches!(told.kind.as_str(), "run_paused" | "run_stuck" | "flow_awaits_approval");
        if over || halted {
            match ended(client, flow).await {
                Ok(Some(ended)) => return Ok(ended),
                _ if halted => return Ok((Ending::NeedsOperator, None)),
                // The contractor that keeps the flow has said how it ended; the other, which would be asked too, is away.
                Err(_) => return Ok((if told.kind == "flow_succeeded" { Ending::Ok } else { Ending::Failed }, None)),
                Ok(None) => {}
            }
        }
    }
}

/// Follows a flow and shows it to people: lines, and on a terminal what is going on right now. At the end the flow is
/// data for programs, and one line for people.
///
/// # Errors
/// If the events cannot be read.
pub async fn to_the_end(client: &Client, flow: Uuid, tail: Tail, out: &mut Output) -> Outcome {
    let mut progress = Progress::start();
    let followed = follow(client, flow, tail, |told| progress.tell(told)).await;
    progress.end();
    let (ending, view) = followed?;
    if let Some(view) = view {
        if !out.is_table() {
            out.value(&view)?;
        }
        let why = view.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        out.note(&format!("flow {flow} {} {}{why}", view.kind, view.state));
        if let Some(hint) = view.hint {
            out.note(&format!("  hint: {hint}"));
        }
    }
    Ok(ending)
}

/// Lines on standard error; colour, and a line that changes, only where that is a terminal.
struct Progress {
    bar: Option<ProgressBar>,
    colour: bool,
    running: BTreeSet<String>,
}

impl Progress {
    fn start() -> Self {
        let bar = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
        if let Some(bar) = &bar {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        let colour = bar.is_some() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { bar, colour, running: BTreeSet::new() }
    }

    fn tell(&mut self, told: &Told) {
        let line = told.line();
        let Some(bar) = &self.bar else {
            let _ = writeln!(std::io::stderr().lock(), "{line}");
            return;
        };
        bar.println(if self.colour { format!("\x1b[{}m{line}\x1b[0m", colour(&told.kind)) } else { line });
        if let Some(step) = told.body.get("step").and_then(Value::as_str) {
            match told.kind.as_str() {
                "step_started" | "step_waiting" | "step_retrying" => drop(self.running.insert(step.to_owned())),
                _ => drop(self.running.remove(step)),
            }
        }
        let steps: Vec<&str> = self.running.iter().map(String::as_str).take(3).collect();
        let more = self.running.len().saturating_sub(steps.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        bar.set_message(format!("{}{more}", steps.join(", ")));
    }

    fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// SGR parameters for a kind of event.
fn colour(kind: &str) -> &'static str {
    match kind.split_once('_').map_or(kind, |(_, verb)| verb) {
        "succeeded" => "32",
        "failed" | "failing" | "stuck" | "undo_failed" | "cancelled" => "31",
        "waiting" | "retrying" | "paused" | "awaits_approval" | "undone" => "33",
        _ => "0",
    }
}

/// The event stream from now on, to be opened before the request is sent.
///
/// # Errors
/// If it cannot be read.
pub async fn events_from_now(client: &Client) -> Result<Tail, Failure> {
    client.events(TailFrom::Now, None, None).await.map_err(Failure::other)
}

/// How the flow ended, if it has.
async fn ended(client: &Client, flow: Uuid) -> Result<Option<(Ending, Option<FlowView>)>, Failure> {
    let view = flows::of(client, flow).await?;
    let ending = match view.state.as_str() {
        "succeeded" => Ending::Ok,
        "failed" | "cancelled" => Ending::Failed,
        "paused" | "stuck" | "awaiting_approval" => Ending::NeedsOperator,
        _ => return Ok(None),
    };
    Ok(Some((ending, Some(view))))
}

/// `820 ms`, `12.4 s`, `3 min 05 s`.
pub fn seconds(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{:.1} s", millis as f64 / 1000.0),
        _ => format!("{} min {:02} s", millis / 60_000, millis % 60_000 / 1000),
    }
}
