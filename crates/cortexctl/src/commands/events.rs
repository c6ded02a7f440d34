//! `cortexctl events tail`

use bus::TailFrom;
use clap::Subcommand;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    cli::{Connection, Ending, Failure, Outcome},
    output::Output,
    watch::Told,
};

/// What to do with events.
#[derive(Subcommand)]
pub enum Command {
    /// Print events, oldest first.
    Tail {
        /// Go on as new ones come.
        #[arg(long, short)]
        follow: bool,
        /// From here on: a stream sequence, a time (RFC 3339), or a length of time such as 10m; default: all.
        #[arg(long)]
        since: Option<String>,
        /// Only of this cluster.
        #[arg(long)]
        cluster: Option<String>,
        /// Only of this type.
        #[arg(long = "type")]
        kind: Option<String>,
    },
}

/// Does it.
pub async fn run(command: Command, connection: &Connection, out: &mut Output) -> Outcome {
    let Command::Tail { follow, since, cluster, kind } = command;
    let from = match since {
        Some(since) => since_point(&since)?,
        None if follow => TailFrom::Now,
        None => TailFrom::Start,
    };
    let client = connection.connect().await?;
    let mut tail = client.events(from, cluster.as_deref(), kind.as_deref()).await.map_err(Failure::other)?;
    let mut left = tail.pending;
    while follow || left > 0 {
        let recorded = tail.next().await.map_err(Failure::other)?;
        left = recorded.pending;
        if out.is_table() {
            if let Some(told) = Told::read(&recorded) {
                out.text(&format!("{:>8} {}", recorded.sequence, told.line()))?;
            }
        } else {
            let body: Value = serde_json::from_slice(&recorded.body).unwrap_or_default();
            out.value(&json!({
                "sequence": recorded.sequence, "subject": recorded.subject, "headers": recorded.headers, "body": body,
            }))?;
        }
    }
    Ok(Ending::Ok)
}

fn since_point(text: &str) -> Result<TailFrom, Failure> {
    if let Ok(sequence) = text.parse() {
        return Ok(TailFrom::Sequence(sequence));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(TailFrom::Time(time));
    }
    let ago: SignedDuration = text
        .parse()
        .map_err(|_| Failure::Usage("--since takes a sequence, a time such as 2026-11-20T12:00:00Z, or 10m".into()))?;
    Ok(TailFrom::Time(Timestamp::now() - ago))
}
