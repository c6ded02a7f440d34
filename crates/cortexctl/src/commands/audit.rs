//! `cortexctl audit list|verify`: who did what, and whether the log still says so.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
};

use ::store::{AuditHead, AuditRecord, AuditVerified, Options, Store};
use bus::{Recorded, TailFrom, streams};
use clap::{Args, Subcommand};
use messages::{
    envelope::header,
    signature::{self, KEY},
    subject::Party,
};
use serde_json::{Value, json};

use crate::{
    cli::{Connection, Ending, Failure, Outcome},
    client::Client,
    output::Output,
};

/// Whose log.
#[derive(Args)]
pub struct Which {
    /// The contractor that is asked: infrastructure or talos; default: both. With a folder: whose store it is.
    #[arg(long)]
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
    /// Walk the chain of hashes; name the first record that was altered, removed or reordered. Asked of a daemon, or of a
    /// folder whose contractor `--of` names, the log is also compared with the heads in the event stream, which show whether
    /// its end was cut off or all of it made anew.
    Verify {
        #[command(flatten)]
        which: Which,
        /// The `pinned_keys.json` of `bus configure`: heads that another key signed do not count.
        #[arg(long, env = "CORTEX_PINNED_KEYS", value_name = "FILE")]
        keys: Option<PathBuf>,
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
        Command::Verify { which, keys } => {
            let mut sound = true;
            let mut rows = Vec::new();
            let pinned = keys.as_deref().map(pinned_keys).transpose()?;
            for (name, verified) in verify(&which, connection, pinned.as_ref(), out).await? {
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

async fn verify(
    which: &Which,
    connection: &Connection,
    pinned: Option<&Pinned>,
    out: &mut Output,
) -> Result<Vec<(String, AuditVerified)>, Failure> {
    if let Some(folder) = &which.folder {
        let heads = match which.of {
            Some(party) => published_heads(&connection.connect().await?, party, pinned, out).await?,
            None => Vec::new(),
        };
        let store = open(folder)?;
        let verified = store.reader().verify_audit(&heads);
        store.close().await;
        return Ok(vec![(folder.display().to_string(), verified.map_err(Failure::other)?)]);
    }
    let client = connection.connect().await?;
    let mut all = Vec::new();
    for party in parties(which) {
        let heads = published_heads(&client, party, pinned, out).await?;
        let verified: AuditVerified = client.query(party, "audit.verify", json!({ "heads": heads })).await?;
        all.push((party.to_string(), verified));
    }
    Ok(all)
}

/// Public keys by source.
type Pinned = BTreeMap<String, Vec<String>>;

fn pinned_keys(file: &Path) -> Result<Pinned, Failure> {
    let unusable = |reason: String| Failure::Usage(format!("--keys {}: {reason}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| unusable(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| unusable(format!("it holds no keys by source: {error}")))
}

/// The newest heads that a contractor told, at most a thousand. What it did not sign does not count, and is told of.
async fn published_heads(
    client: &Client,
    party: Party,
    pinned: Option<&Pinned>,
    out: &mut Output,
) -> Result<Vec<AuditHead>, Failure> {
    const NEWEST: usize = 1_000;
    let filter = format!("cortex.event.{party}._.audit_head");
    let mut tail = client.bus().tail(streams::EVENTS, TailFrom::Start, &[filter]).await.map_err(Failure::other)?;
    let (mut heads, mut keys, mut unproven) = (VecDeque::new(), BTreeSet::new(), Vec::new());
    let mut left = tail.pending;
    while left > 0 {
        let recorded = tail.next().await.map_err(Failure::other)?;
        left = recorded.pending;
        match signed_head(&recorded, party, pinned) {
            Ok(head) => {
                keys.extend(signature::key_end(&recorded.headers));
                heads.push_back(head);
            }
            Err(reason) => unproven.push(format!("{} at {}: {reason}", recorded.sequence, recorded.published)),
        }
        if heads.len() > NEWEST {
            heads.pop_front();
        }
    }
    if let Some(first) = unproven.first() {
        out.note(&format!("{} heads of {party} in the event stream do not count; the first, {first}", unproven.len()));
    }
    if pinned.is_none() && !keys.is_empty() {
        let keys = keys.into_iter().collect::<Vec<_>>().join(", ");
        out.note(&format!("heads of {party} are signed by the key …{keys}: --keys says whether that is its own"));
    }
    Ok(heads.into())
}

/// The head in an event that the contractor signed: with a pinned key, or with whatever key the event itself names.
fn signed_head(recorded: &Recorded, party: Party, pinned: Option<&Pinned>) -> Result<AuditHead, String> {
    let source = party.source();
    if header(&recorded.headers, "ce-source") != Some(source.as_str()) {
        return Err(format!("{source} is not its source"));
    }
    let keys = match pinned {
        Some(pinned) => pinned.get(&source).cloned().unwrap_or_default(),
        None => header(&recorded.headers, KEY).map(str::to_owned).into_iter().collect(),
    };
    signature::verify(&keys, &recorded.subject, &recorded.headers, &recorded.body)
        .map_err(|error| error.to_string())?;
    head_of(&recorded.body).ok_or_else(|| "it names no head".to_owned())
}

fn head_of(body: &[u8]) -> Option<AuditHead> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let facts = body.get("facts")?;
    Some(AuditHead { seq: facts.get("sequence")?.as_u64()?, hash: facts.get("sha256")?.as_str()?.to_owned() })
}

fn parties(which: &Which) -> Vec<Party> {
    which.of.map_or_else(|| vec![Party::Infrastructure, Party::Talos], |party| vec![party])
}

fn open(folder: &Path) -> Result<Store, Failure> {
    if !folder.is_dir() {
        return Err(Failure::Usage(format!("{} is no folder", folder.display())));
    }
    Store::open(folder, Options::default()).map_err(Failure::other)
}

#[cfg(test)]
mod tests {
    use messages::envelope::Headers;
    use nkeys::KeyPair;

    use super::*;

    #[test]
    fn only_heads_that_the_contractor_signed_count() {
        let (talos, stranger) = (KeyPair::new_user(), KeyPair::new_user());
        let pinned: Pinned = [("/talos".to_owned(), vec![talos.public_key()])].into();
        let hash = "a".repeat(64);
        let told = |key: Option<&KeyPair>, source: &str| {
            let body = json!({ "facts": { "sequence": 7, "sha256": hash } }).to_string().into_bytes();
            let subject = "cortex.event.talos._.audit_head".to_owned();
            let mut headers = Headers::from([("ce-source".to_owned(), source.to_owned())]);
            if let Some(key) = key {
                signature::sign(key, &subject, &mut headers, &body).unwrap();
            }
            let published = jiff::Timestamp::UNIX_EPOCH;
            Recorded { subject, headers, body: body.into(), sequence: 1, published, pending: 0 }
        };
        let head = Ok(AuditHead { seq: 7, hash: hash.clone() });
        let judge = |recorded: &Recorded, pinned| signed_head(recorded, Party::Talos, pinned);
        let good = told(Some(&talos), "/talos");
        assert_eq!(judge(&good, Some(&pinned)), head);
        assert_eq!(judge(&good, None), head, "whose key it is cannot be told");
        let altered = Recorded { body: String::from_utf8_lossy(&good.body).replace('7', "8").into(), ..good };
        for (recorded, pinned, why) in [
            (altered, None, "the signature does not match subject, headers and body"),
            (told(Some(&stranger), "/talos"), Some(&pinned), "the key in cortex-key is not pinned for this source"),
            (told(None, "/talos"), None, "the message is not signed (headers cortex-key and cortex-signature)"),
            (told(Some(&talos), "/infrastructure"), Some(&pinned), "/talos is not its source"),
        ] {
            assert_eq!(judge(&recorded, pinned), Err(why.to_owned()));
        }
    }
}
