//! Live progress of a flow: its events from both contractors, until it ends or needs an operator.

use std::time::Duration;

use bus::{Recorded, Tail, TailFrom};
use jiff::Timestamp;
use messages::{query::FlowView, subject::Party};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    cli::{Ending, Failure},
    client::Client,
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
        let header = recorded.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("ce-time"));
        let time = header.and_then(|(_, time)| time.parse().ok()).unwrap_or(recorded.published);
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
    let correlation = flow.to_string();
    loop {
        // Events are never needed for correctness: now and then the contractor itself is asked.
        let Some(recorded) = tail.next_within(Duration::from_secs(5)).await.map_err(Failure::other)? else {
            if let Some(ended) = ended(client, flow).await {
                return Ok(ended);
            }
            continue;
        };
        let header = recorded.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("cortex-correlation-id"));
        if header.is_none_or(|(_, found)| *found != correlation) {
            continue;
        }
        let Some(told) = Told::read(&recorded) else { continue };
        tell(&told);
        let over = matches!(told.kind.as_str(), "flow_succeeded" | "flow_failed" | "flow_cancelled");
        let halted = matches!(told.kind.as_str(), "run_paused" | "run_stuck" | "flow_awaits_approval");
        if over || halted {
            if let Some(ended) = ended(client, flow).await {
                return Ok(ended);
            }
            if halted {
                return Ok((Ending::NeedsOperator, None));
            }
        }
    }
}

/// The event stream from now on, to be opened before the request is sent.
///
/// # Errors
/// If it cannot be read.
pub async fn events_from_now(client: &Client) -> Result<Tail, Failure> {
    client.events(TailFrom::Now, None, None).await.map_err(Failure::other)
}

async fn ended(client: &Client, flow: Uuid) -> Option<(Ending, Option<FlowView>)> {
    let view: FlowView = client.query(Party::Infrastructure, "flows.show", json!({ "flow": flow })).await.ok()?;
    let ending = match view.state.as_str() {
        "succeeded" => Ending::Ok,
        "failed" | "cancelled" => Ending::Failed,
        "paused" | "stuck" => Ending::NeedsOperator,
        _ => return None,
    };
    Some((ending, Some(view)))
}

/// `820 ms`, `12.4 s`, `3 min 05 s`.
pub fn seconds(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{:.1} s", millis as f64 / 1000.0),
        _ => format!("{} min {:02} s", millis / 60_000, millis % 60_000 / 1000),
    }
}
