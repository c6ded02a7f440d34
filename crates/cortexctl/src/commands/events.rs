//! `cortexctl events tail`

use bus::TailFrom;
use clap::Subcommand;
use jiff::{SignedDuration, Timestamp};
use messages::{
    catalogue::{self, Family},
    name::ClusterName,
    schema,
};
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
        /// From here on: a stream sequence (to resume, the last one that was seen plus one), a time (RFC 3339), or a length of time such as 10m; default: all.
        #[arg(long)]
        since: Option<String>,
        /// Only of this cluster; _ for events that are about none.
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
    if let Some(kind) = &kind
        && catalogue::find(Family::Event, kind).is_none()
    {
        let known = catalogue::all().iter().filter(|kind| kind.family == Family::Event).map(|kind| kind.name);
        let near = schema::nearest(kind, known).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        return Err(Failure::Usage(format!("there is no event type {kind}{near}")));
    }
    if let Some(cluster) = cluster.as_deref().filter(|cluster| *cluster != "_") {
        cluster.parse::<ClusterName>().map_err(|error| Failure::Usage(format!("--cluster: {error}")))?;
    }
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
            out.item(&json!({
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
