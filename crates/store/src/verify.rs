//! Reads every row and checks that they fit together.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    apply::{Counters, InventoryRow, SecretHead, StoredMessage},
    archive,
    audit::AuditHead,
    commit::{Lane, RunId},
    keys,
    reader::{ReadError, Reader},
    record,
    rows::{InboxRow, RunRow},
};

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Number of rows, by kind.
    pub rows: BTreeMap<String, u64>,
    /// What does not fit, one line each; empty when the store is sound.
    pub problems: Vec<String>,
}

impl Reader {
    /// Reads every row and checks that they fit together; secrets are opened when the store has its key. Commits wait
    /// meanwhile: it reads some 100,000 rows per second.
    pub fn verify(&self) -> Result<Verified, ReadError> {
        let mut check = Check::default();
        let db = self.shared.rows();
        for row in db.iter() {
            match row {
                Err(error) => {
                    check.problem("the tree", &format!("it cannot be read to its end: {error}"));
                    break;
                }
                Ok((key, row)) => match std::str::from_utf8(&key) {
                    Ok(key) => check.row(key, &row),
                    Err(_) => check.problem("a key", "it is not text"),
                },
            }
        }
        drop(db);
        check.relations();
        if let Some(problem) = self.verify_audit(&[])?.problem {
            check.found.problems.push(format!("audit record {}: {}", problem.seq, problem.reason));
        }
        if self.shared.sealer.is_some() {
            for (name, head) in &check.secrets {
                for generation in head.parts.keys() {
                    if let Err(error) = self.secret_generation(name, *generation) {
                        check.found.problems.push(error.to_string());
                    }
                }
            }
        }
        Ok(check.found)
    }
}

/// What the first pass collects and the second compares.
#[derive(Default)]
struct Check {
    found: Verified,
    counters: Counters,
    runs: BTreeMap<RunId, RunRow>,
    /// Sequences found, by run.
    journals: BTreeMap<RunId, BTreeSet<u64>>,
    archives: BTreeMap<RunId, Vec<(String, Vec<u8>)>>,
    index: BTreeSet<String>,
    secrets: BTreeMap<String, SecretHead>,
    parts: BTreeSet<String>,
    inbox: BTreeMap<String, InboxRow>,
    inbox_times: BTreeSet<String>,
}

impl Check {
    fn problem(&mut self, key: &str, reason: &str) {
        self.found.problems.push(format!("{}: {reason}", key.escape_debug()));
    }

    fn row(&mut self, key: &str, row: &[u8]) {
        let kind = key.split('/').next().unwrap_or(key);
        *self.found.rows.entry(kind.to_owned()).or_default() += 1;
        if let Err(reason) = record::decode(key, row) {
            return self.problem(key, &reason);
        }
        match format!("{kind}/").as_str() {
            keys::INVENTORY => drop(self.json::<InventoryRow<Value>>(key, row)),
            keys::RUN => {
                if let Some(row) = self.json::<RunRow>(key, row) {
                    self.runs.insert(row.run, row);
                }
            }
            keys::JOURNAL => match (keys::run_of(key), keys::trailing_seq(key)) {
                (Some(run), Some(seq)) => drop(self.journals.entry(run).or_default().insert(seq)),
                _ => self.problem(key, "it names no run and event"),
            },
            keys::ARCHIVE => match keys::run_of(key) {
                Some(run) => self.archives.entry(run).or_default().push((key.to_owned(), row.to_vec())),
                None => self.problem(key, "it names no run"),
            },
            keys::INDEX => drop(self.index.insert(key.to_owned())),
            keys::SECRET_HEAD => {
                if let Some(head) = self.json::<SecretHead>(key, row) {
                    self.secrets.insert(key[keys::SECRET_HEAD.len()..].to_owned(), head);
                }
            }
            keys::SECRET_PART => drop(self.parts.insert(key.to_owned())),
            keys::INBOX => {
                if let Some(row) = self.json::<InboxRow>(key, row) {
                    self.inbox.insert(key[keys::INBOX.len()..].to_owned(), row);
                }
            }
            keys::INBOX_TIME => drop(self.inbox_times.insert(key.to_owned())),
            keys::OUTBOX | keys::PARKED => self.message(key, row),
            keys::DEFINITION => drop(self.json::<String>(key, row)),
            // The walk of the chain reads these again, in order.
            keys::AUDIT | keys::AUDIT_PACK => {}
            _ if key == keys::AUDIT_HEAD => drop(self.json::<AuditHead>(key, row)),
            _ if key == keys::COUNTERS => self.counters = self.json(key, row).unwrap_or_default(),
            _ if key == keys::FORMAT => drop(self.json::<Value>(key, row)),
            _ => self.problem(key, "nothing knows this kind of row"),
        }
    }

    fn json<T: DeserializeOwned>(&mut self, key: &str, row: &[u8]) -> Option<T> {
        match record::decode_json(key, row) {
            Ok(Ok(value)) => Some(value),
            Ok(Err(error)) => {
                self.problem(key, &format!("it has another shape: {error}"));
                None
            }
            Err(reason) => {
                self.problem(key, &reason);
                None
            }
        }
    }

    fn message(&mut self, key: &str, row: &[u8]) {
        let Some(stored) = self.json::<StoredMessage>(key, row) else { return };
        let (newest, seq) = match stored.message.lane {
            Lane::Handoff => (self.counters.handoff, keys::trailing_seq(key)),
            Lane::Event => (self.counters.event, keys::trailing_seq(key)),
        };
        if seq.is_none_or(|seq| seq > newest) {
            self.problem(key, &format!("its sequence is above the newest, {newest}"));
        }
    }

    fn relations(&mut self) {
        let mut problems = Vec::new();
        let mut index: BTreeSet<String> = BTreeSet::new();
        for (run, row) in &self.runs {
            index.extend(archive::index_keys(row));
            let journal = self.journals.remove(run).unwrap_or_default();
            let parts = self.archives.remove(run).unwrap_or_default();
            problems.extend(check_run(row, &journal, &parts).map(|reason| format!("run {run}: {reason}")));
        }
        problems.extend(self.journals.keys().map(|run| format!("journal of {run}: there is no such run")));
        problems.extend(self.archives.keys().map(|run| format!("archive of {run}: there is no such run")));
        problems.extend(index.symmetric_difference(&self.index).map(|key| format!("{key}: index and run differ")));
        let parts: BTreeSet<String> = self.secrets.iter().flat_map(|(name, head)| part_keys(name, head)).collect();
        let odd_parts = parts.symmetric_difference(&self.parts);
        problems.extend(odd_parts.map(|key| format!("{}: secret and its parts differ", key.escape_debug())));
        let times: BTreeSet<String> = self.inbox.iter().filter_map(|(key, row)| time_key(key, row)).collect();
        let odd_times = times.symmetric_difference(&self.inbox_times);
        problems.extend(odd_times.map(|key| format!("{}: inbox and its index differ", key.escape_debug())));
        self.found.problems.extend(problems);
    }
}

fn check_run(row: &RunRow, journal: &BTreeSet<u64>, parts: &[(String, Vec<u8>)]) -> Option<String> {
    if row.archived {
        return match archive::unpack(parts) {
            _ if !journal.is_empty() => Some("it is archived and has journal rows".to_owned()),
            Ok(events) if events.len() as u64 == row.seq => None,
            Ok(events) => Some(format!("its archive holds {} of {} events", events.len(), row.seq)),
            Err(reason) => Some(format!("its archive cannot be read: {reason}")),
        };
    }
    let complete = journal.len() as u64 == row.seq && journal.last().is_none_or(|last| last + 1 == row.seq);
    if !parts.is_empty() {
        return Some("it is not archived and has an archive".to_owned());
    }
    (!complete).then(|| format!("its journal holds {} of {} events", journal.len(), row.seq))
}

fn part_keys(name: &str, head: &SecretHead) -> Vec<String> {
    let generations = head.parts.iter();
    generations
        .flat_map(|(generation, count)| {
            let prefix = keys::secret_parts(name, *generation);
            (0..*count).map(move |index| keys::part(&prefix, index))
        })
        .collect()
}

fn time_key(key: &str, row: &InboxRow) -> Option<String> {
    let (source, id) = key.split_once(keys::END)?;
    let key = crate::commit::InboxKey { source: source.to_owned(), id: id.to_owned() };
    Some(keys::inbox_time(row.at, &key))
}
