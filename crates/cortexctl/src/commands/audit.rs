//! `cortexctl audit list|verify`: who did what, and whether the log still says so.

use std::path::PathBuf;

use ::store::{AuditHead, AuditRecord, AuditVerified, Options, Store};
use bus::{TailFrom, streams};
use clap::{Args, Subcommand};
use messages::subject::Party;
use serde_json::{Value, json};

use crate::{
    cli::{Connection, Ending, Failure, Outcome},
    client::Client,
    output::Output,
};

/// Whose log.
#[derive(Args)]
pub struct Which {
    /// The contractor that is asked: infrastructure or talos; default: both.
    #[arg(long, conflicts_with = "folder")]
    of: Option<Party>,
    /// The store's folder, of a daemon that is stopped.
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// What to do with an audit log.
#[derive(Subcommand)]
pub enum Command {
    /// Who did what, oldest first.
    List {
        #[command(flatten)]
        which: Which,
        /// From this record on.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// At most so many records of each contractor; 0 means all.
        #[arg(long, default_value_t = 0)]
        limit: u64,
    },
    /// Walk the chain of hashes; name the first record that was altered, removed or reordered. Asked of a daemon, the
    /// log is also compared with the heads in the event stream, which show whether its end was cut off.
    Verify {
        #[command(flatten)]
        which: Which,
    },
}

/// Does it.
pub async fn run(command: Command, connection: &Connection, out: &mut Output) -> Outcome {
    match command {
        Command::List { which, from, limit } => {
            let mut rows = Vec::new();
            for (name, records) in list(&which, connection, from, limit).await? {
                for record in records {
                    let mut row = serde_json::to_value(&record).map_err(Failure::other)?;
                    row["contractor"] = name.clone().into();
                    rows.push(row);
                }
            }
            out.rows(&rows, &["contractor", "seq", "at", "who", "did", "object", "cluster", "outcome"])?;
            Ok(Ending::Ok)
        }
        Command::Verify { which } => {
            let mut sound = true;
            let mut rows = Vec::new();
            for (name, verified) in verify(&which, connection).await? {
                sound &= verified.problem.is_none();
                rows.push(row(&name, &verified));
            }
            out.rows(&rows, &["contractor", "records", "heads", "result", "sha256"])?;
            Ok(if sound { Ending::Ok } else { Ending::Differs })
        }
    }
}

fn row(name: &str, verified: &AuditVerified) -> Value {
    let result = verified
        .problem
        .as_ref()
        .map_or_else(|| "sound".to_owned(), |problem| format!("record {}: {}", problem.seq, problem.reason));
    json!({
        "contractor": name, "records": verified.records, "heads": verified.heads, "result": result,
        "sha256": verified.head.hash, "first_bad_record": verified.problem.as_ref().map(|problem| problem.seq),
    })
}

async fn list(
    which: &Which,
    connection: &Connection,
    from: u64,
    limit: u64,
) -> Result<Vec<(String, Vec<AuditRecord>)>, Failure> {
    let limit = if limit == 0 { u64::MAX } else { limit };
    if let Some(folder) = &which.folder {
        let store = open(folder)?;
        let records = store.reader().audit(from, usize::try_from(limit).unwrap_or(usize::MAX));
        store.close().await;
        return Ok(vec![(folder.display().to_string(), records.map_err(Failure::other)?)]);
    }
    let client = connection.connect().await?;
    let mut lists = Vec::new();
    for party in parties(which) {
        let mut records: Vec<AuditRecord> = Vec::new();
        while (records.len() as u64) < limit {
            let next = records.last().map_or(from, |record| record.seq + 1);
            let arguments = json!({ "from": next, "limit": limit - records.len() as u64 });
            let page: Vec<AuditRecord> = client.query(party, "audit.list", arguments).await?;
            if page.is_empty() {
                break;
            }
            records.extend(page);
        }
        lists.push((party.to_string(), records));
    }
    Ok(lists)
}

async fn verify(which: &Which, connection: &Connection) -> Result<Vec<(String, AuditVerified)>, Failure> {
    if let Some(folder) = &which.folder {
        let store = open(folder)?;
        let verified = store.reader().verify_audit(&[]);
        store.close().await;
        return Ok(vec![(folder.display().to_string(), verified.map_err(Failure::other)?)]);
    }
    let client = connection.connect().await?;
    let mut all = Vec::new();
    for party in parties(which) {
        let heads = published_heads(&client, party).await?;
        let verified: AuditVerified = client.query(party, "audit.verify", json!({ "heads": heads })).await?;
        all.push((party.to_string(), verified));
    }
    Ok(all)
}

/// The newest heads that a contractor told, at most a thousand.
async fn published_heads(client: &Client, party: Party) -> Result<Vec<AuditHead>, Failure> {
    const NEWEST: usize = 1_000;
    let filter = format!("cortex.event.{party}._.audit_head");
    let mut tail = client.bus().tail(streams::EVENTS, TailFrom::Start, &[filter]).await.map_err(Failure::other)?;
    let mut heads = std::collections::VecDeque::new();
    let mut left = tail.pending;
    while left > 0 {
        let recorded = tail.next().await.map_err(Failure::other)?;
        left = recorded.pending;
        heads.extend(head_of(&recorded.body));
        if heads.len() > NEWEST {
            heads.pop_front();
        }
    }
    Ok(heads.into())
}

fn head_of(body: &[u8]) -> Option<AuditHead> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let facts = body.get("facts")?;
    Some(AuditHead { seq: facts.get("sequence")?.as_u64()?, hash: facts.get("sha256")?.as_str()?.to_owned() })
}

fn parties(which: &Which) -> Vec<Party> {
    which.of.map_or_else(|| vec![Party::Infrastructure, Party::Talos], |party| vec![party])
}

fn open(folder: &std::path::Path) -> Result<Store, Failure> {
    if !folder.is_dir() {
        return Err(Failure::Usage(format!("{} is no folder", folder.display())));
    }
    Store::open(folder, Options::default()).map_err(Failure::other)
}
