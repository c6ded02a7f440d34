//! `cortexctl deadletter list|show|retry`

use bus::{Recorded, TailError, TailFrom, streams};
use clap::Subcommand;
use messages::{event::DeadLetter, query::Accepted, subject::Subject};
use serde_json::{Value, json};

use crate::{
    cli::{Connection, Ending, Failure, Outcome},
    client::Client,
    output::Output,
};

/// What to do with messages that were put aside.
#[derive(Subcommand)]
pub enum Command {
    /// All of them.
    List,
    /// One, with everything that was wrong.
    Show {
        /// Its sequence in the dead letter stream.
        sequence: u64,
    },
    /// Bring the message again: a request anew, under the identity of whoever retries it; a handoff as its contractor
    /// signed it.
    Retry {
        /// Its sequence in the dead letter stream.
        sequence: u64,
    },
}

/// Does it.
pub async fn run(command: Command, connection: &Connection, out: &mut Output) -> Outcome {
    let client = connection.connect().await?;
    match command {
        Command::List => {
            let mut rows = Vec::new();
            let mut tail =
                client.bus().tail(streams::DEADLETTER, TailFrom::Start, &[]).await.map_err(Failure::other)?;
            let mut left = tail.pending;
            while left > 0 {
                let recorded = tail.next().await.map_err(Failure::other)?;
                left = recorded.pending;
                rows.push(row(&recorded));
            }
            out.rows(&rows, &["sequence", "time", "at", "subject", "reason"])?;
            Ok(Ending::Ok)
        }
        Command::Show { sequence } => {
            let recorded = client.bus().fetch(streams::DEADLETTER, sequence).await.map_err(Failure::other)?;
            let mut body: Value = serde_json::from_slice(&recorded.body).map_err(Failure::other)?;
            if out.is_table() {
                // People want to read the message; programs fetch it from its stream, byte for byte.
                match original(&client, &recorded, sequence).await {
                    Ok(original) => {
                        body["body"] = serde_json::from_slice(&original.body)
                            .unwrap_or_else(|_| String::from_utf8_lossy(&original.body).into_owned().into());
                    }
                    Err(Failure::Other(reason)) => out.note(&reason),
                    Err(error) => return Err(error),
                }
            }
            out.value(&body)?;
            Ok(Ending::Ok)
        }
        Command::Retry { sequence } => retry(&client, sequence, out).await,
    }
}

async fn retry(client: &Client, sequence: u64, out: &mut Output) -> Outcome {
    let recorded = client.bus().fetch(streams::DEADLETTER, sequence).await.map_err(Failure::other)?;
    let original = original(client, &recorded, sequence).await?;
    let subject: Subject = original.subject.parse().map_err(Failure::other)?;
    match subject {
        Subject::Request { to, kind } => {
            let body: Value = serde_json::from_slice(&original.body)
                .map_err(|error| Failure::Other(format!("its body is no JSON, so it can never be taken: {error}")))?;
            let flow = uuid::Uuid::now_v7();
            client.publish(to, &kind, flow, &body).await?;
            out.note(&format!("published again as flow {flow}"));
        }
        Subject::Handoff { to, .. } => {
            let arguments = json!({ "sequence": original.sequence });
            let told: Accepted = client.command(to, "redeliver", arguments).await?;
            if told.duplicate {
                return Err(Failure::Other(format!(
                    "{to}-contractor has judged this handoff before (flow {}): its sender must hand it over anew",
                    told.flow
                )));
            }
            out.note(&format!("{to}-contractor took it: flow {}", told.flow));
        }
        Subject::Event { .. } | Subject::DeadLetter { .. } => {
            return Err(Failure::Other(format!("{} is neither a request nor a handoff", original.subject)));
        }
    }
    Ok(Ending::Ok)
}

/// The message that a dead letter is about, from its stream.
async fn original(client: &Client, recorded: &Recorded, sequence: u64) -> Result<Recorded, Failure> {
    let letter = serde_json::from_slice::<DeadLetter>(&recorded.body).ok();
    let (stream, place) = origin(recorded, letter.as_ref())
        .ok_or_else(|| Failure::Other(format!("dead letter {sequence} does not say which message it is about")))?;
    client.bus().fetch(&stream, place).await.map_err(|error| match error {
        TailError::NotFound { .. } => {
            Failure::Other(format!("stream {stream} has message {place} no more: its sender must send it anew"))
        }
        error => Failure::other(error),
    })
}

fn row(recorded: &Recorded) -> Value {
    let body: Value = serde_json::from_slice(&recorded.body).unwrap_or_default();
    let text = |name: &str| body.get(name).cloned().unwrap_or_default();
    // The server's own word on a message that it gave up has another shape.
    let advisory = body.get("stream_seq").is_some();
    json!({
        "sequence": recorded.sequence,
        "time": recorded.published,
        "at": if advisory { "nats-server".into() } else { text("at") },
        "subject": if advisory { place(&text("stream"), &text("stream_seq")).into() } else { text("subject") },
        "reason": if advisory { gave_up(&body) } else { text("reason") },
    })
}

/// What the server says of a message that it does not deliver any more.
fn gave_up(body: &Value) -> Value {
    let consumer = body["consumer"].as_str().unwrap_or("?");
    match (body["type"].as_str().unwrap_or_default(), body["reason"].as_str()) {
        (kind, _) if kind.ends_with("max_deliver") => {
            format!("{consumer} did not take it in {} deliveries", body["deliveries"]).into()
        }
        (_, Some(reason)) => format!("{consumer} refused it: {reason}").into(),
        (kind, None) => format!("{consumer}: {kind}").into(),
    }
}

/// `CORTEX_REQUESTS 7`
fn place(stream: &Value, sequence: &Value) -> String {
    format!("{} {sequence}", stream.as_str().unwrap_or("?"))
}

fn origin(recorded: &Recorded, letter: Option<&DeadLetter>) -> Option<(String, u64)> {
    if let Some(letter) = letter {
        return Some((letter.stream.clone(), letter.sequence));
    }
    let body: Value = serde_json::from_slice(&recorded.body).ok()?;
    Some((body.get("stream")?.as_str()?.to_owned(), body.get("stream_seq")?.as_u64()?))
}
