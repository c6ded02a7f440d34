//! `cortexctl deadletter list|show|retry`

use bus::{Recorded, TailFrom, streams};
use clap::Subcommand;
use messages::event::DeadLetter;
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
    /// Publish the original message again, under the identity of whoever retries it.
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
            let body: Value = serde_json::from_slice(&recorded.body).map_err(Failure::other)?;
            out.value(&body)?;
            Ok(Ending::Ok)
        }
        Command::Retry { sequence } => retry(&client, sequence, out).await,
    }
}

async fn retry(client: &Client, sequence: u64, out: &mut Output) -> Outcome {
    let recorded = client.bus().fetch(streams::DEADLETTER, sequence).await.map_err(Failure::other)?;
    let (stream, place) = origin(&recorded)
        .ok_or_else(|| Failure::Other(format!("dead letter {sequence} does not say which message it is about")))?;
    let original = client.bus().fetch(&stream, place).await.map_err(Failure::other)?;
    let name = original.subject.rsplit('.').next().unwrap_or_default();
    let to = original.subject.split('.').nth(2).unwrap_or_default().parse().map_err(Failure::other)?;
    if !original.subject.starts_with("cortex.request.") {
        return Err(Failure::Other(format!(
            "only requests can be retried; {} belongs to a contractor, which publishes it again itself",
            original.subject
        )));
    }
    let body: Value = serde_json::from_slice(&original.body).map_err(Failure::other)?;
    let flow = uuid::Uuid::now_v7();
    client.publish(to, name, flow, &body).await?;
    out.note(&format!("published again as flow {flow}"));
    Ok(Ending::Ok)
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
        "subject": if advisory { format!("{} {}", text("stream"), text("stream_seq")).into() } else { text("subject") },
        "reason": if advisory { text("type") } else { text("reason") },
    })
}

fn origin(recorded: &Recorded) -> Option<(String, u64)> {
    if let Ok(letter) = serde_json::from_slice::<DeadLetter>(&recorded.body) {
        return Some((letter.stream, letter.sequence));
    }
    let body: Value = serde_json::from_slice(&recorded.body).ok()?;
    Some((body.get("stream")?.as_str()?.to_owned(), body.get("stream_seq")?.as_u64()?))
}
