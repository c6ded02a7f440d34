//! Consistent reads; every record's checksum is verified.

use std::{collections::BTreeMap, sync::Arc};

use secrecy::SecretSlice;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::{
    apply::{InventoryRow, SecretHead, StoredMessage},
    archive,
    audit::{AuditHead, AuditProblem, AuditRecord, AuditVerified, Walk},
    commit::{InboxKey, Lane, RunId},
    keys,
    rows::{InboxRow, OutboxRow, ParkedRow, RunQuery, RunRow, RunState},
    shared::Shared,
    view::{View, decode},
};

/// Rows that a long look reads before it lets the writer go on.
pub(crate) const PAGE: usize = 256;

/// Reads of a store; a cheap clone. Reads are synchronous and take microseconds.
#[derive(Clone)]
pub struct Reader {
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

/// A value with the revision to put into [`Precondition::Revision`](crate::Precondition::Revision).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The store's revision at its last write.
    pub revision: u64,
    /// The value.
    pub value: T,
}

/// One inventory row of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// Its key.
    pub key: String,
    /// The store's revision at its last write.
    pub revision: u64,
    /// The value.
    pub value: T,
}

/// One inventory row of a scan by key, or why it cannot be read.
pub type Each<T> = (String, Result<Versioned<T>, ReadError>);

/// What is known of the inventory from the last look, by key.
pub type Known<T> = BTreeMap<String, Versioned<Arc<T>>>;

/// An unsealed secret; its `Debug` shows nothing of it.
#[derive(Clone, Debug)]
pub struct Secret {
    /// Which put it was, from 1.
    pub generation: u64,
    /// The plain bytes.
    pub plain: SecretSlice<u8>,
}

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A record is damaged: never an answer made of damaged bytes.
    #[error("record `{key}` is damaged: {reason}")]
    Corrupt {
        /// Its key.
        key: String,
        /// What does not fit.
        reason: String,
    },
    /// A value has another shape than the caller asked for.
    #[error("value of `{key}` has another shape")]
    Shape {
        /// Its key.
        key: String,
        /// What does not fit.
        #[source]
        source: serde_json::Error,
    },
    /// The store was opened without a key file, or with one that does not open this secret.
    #[error("secret `{name}` cannot be opened: {reason}")]
    Sealed {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// The storage failed.
    #[error("the store cannot be read: {0}")]
    Failed(String),
}

impl Reader {
    /// The inventory value under `key`.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Versioned<T>>, ReadError> {
        let row: Option<InventoryRow<T>> = self.view().json(&keys::inventory(key))?;
        Ok(row.map(|row| Versioned { revision: row.revision, value: row.value }))
    }

    /// The inventory under `prefix`, sorted by key, as of one moment.
    pub fn scan<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<Entry<T>>, ReadError> {
        let rows = self.scan_each(prefix)?.into_iter();
        let entry = |(key, found): Each<T>| found.map(|Versioned { revision, value }| Entry { key, revision, value });
        rows.map(entry).collect()
    }

    /// The same, for work in which a row that cannot be read holds up no other.
    pub fn scan_each<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<Each<T>>, ReadError> {
        let view = self.view();
        let mut found = Vec::new();
        for row in view.rows(&keys::inventory(prefix)) {
            let (key, row) = row?;
            found.push(entry_of(&key, &row));
        }
        Ok(found)
    }

    /// Every inventory row under `prefix`, sorted by key, for a look over all of them that keeps few. Commits go on in
    /// between: what changes meanwhile may be missed. A row that cannot be read holds up no other.
    pub fn each<T: DeserializeOwned>(&self, prefix: &str, mut visit: impl FnMut(Each<T>)) -> Result<(), ReadError> {
        let prefix = keys::inventory(prefix);
        let mut next = prefix.clone();
        loop {
            let view = self.view();
            let mut last = None;
            for row in view.rows_from(&prefix, &next).take(PAGE) {
                let (key, row) = row?;
                visit(entry_of(&key, &row));
                last = Some(key);
            }
            // What sorts right behind it.
            next = match last {
                Some(key) => format!("{key}\0"),
                None => return Ok(()),
            };
        }
    }

    /// The inventory under `prefix` of the rows that `is_wanted` by the part of them that it looks at, which alone is read of the others.
    pub fn scan_where<P: DeserializeOwned, T: DeserializeOwned>(
        &self,
        prefix: &str,
        is_wanted: impl Fn(&P) -> bool,
    ) -> Result<Vec<Entry<T>>, ReadError> {
        let view = self.view();
        let mut found = Vec::new();
        for row in view.rows(&keys::inventory(prefix)) {
            let (key, row) = row?;
            if is_wanted(&decode::<InventoryRow<P>>(&key, &row)?.value) {
                let InventoryRow { revision, value, .. } = decode(&key, &row)?;
                found.push(Entry {
                    key: key.strip_prefix(keys::INVENTORY).unwrap_or(&key).to_owned(),
                    revision,
                    value,
                });
            }
        }
        Ok(found)
    }

    /// The inventory under `prefix` by key, for whoever looks again and again: of what is `known` from the last time, only what was written
    /// since is read anew.
    pub fn scan_again<T: DeserializeOwned>(&self, prefix: &str, mut known: Known<T>) -> Result<Known<T>, ReadError> {
        let view = self.view();
        let mut found = Known::new();
        for row in view.rows(&keys::inventory(prefix)) {
            let (key, row) = row?;
            let revision = decode::<InventoryRow<IgnoredAny>>(&key, &row)?.revision;
            let name = key.strip_prefix(keys::INVENTORY).unwrap_or(&key);
            let value = match known.remove(name).filter(|known| known.revision == revision) {
                Some(known) => known.value,
                None => Arc::new(decode::<InventoryRow<T>>(&key, &row)?.value),
            };
            found.insert(name.to_owned(), Versioned { revision, value });
        }
        Ok(found)
    }

    /// The inventory keys under `prefix` with their revisions, sorted.
    pub fn keys(&self, prefix: &str) -> Result<Vec<(String, u64)>, ReadError> {
        let entries = self.scan::<IgnoredAny>(prefix)?;
        Ok(entries.into_iter().map(|entry| (entry.key, entry.revision)).collect())
    }

    /// The inventory keys under `prefix` that sort before `end`.
    pub fn keys_before(&self, prefix: &str, end: &str) -> Result<Vec<String>, ReadError> {
        let end = keys::inventory(end);
        let rows = self.view().rows(&keys::inventory(prefix));
        let rows = rows.take_while(|row| row.as_ref().map_or(true, |(key, _)| *key < end));
        rows.map(|row| Ok(row?.0.strip_prefix(keys::INVENTORY).unwrap_or_default().to_owned())).collect()
    }

    /// The newest generation of a secret.
    pub fn secret(&self, name: &str) -> Result<Option<Secret>, ReadError> {
        self.open_secret(name, None)
    }

    /// The number of the newest generation of a secret, without opening it.
    pub fn newest_generation(&self, name: &str) -> Result<Option<u64>, ReadError> {
        let head = self.view().json::<SecretHead>(&keys::secret_head(name))?;
        Ok(head.filter(|head| head.parts.contains_key(&head.generation)).map(|head| head.generation))
    }

    /// One generation of a secret; the last eight are kept.
    pub fn secret_generation(&self, name: &str, generation: u64) -> Result<Option<Secret>, ReadError> {
        self.open_secret(name, Some(generation))
    }

    fn open_secret(&self, name: &str, generation: Option<u64>) -> Result<Option<Secret>, ReadError> {
        let sealed = |reason: String| ReadError::Sealed { name: name.to_owned(), reason };
        let (generation, ciphertext) = {
            let view = self.view();
            let Some(head) = view.json::<SecretHead>(&keys::secret_head(name))? else { return Ok(None) };
            let generation = generation.unwrap_or(head.generation);
            let Some(parts) = head.parts.get(&generation) else { return Ok(None) };
            (generation, view.parts(&keys::secret_parts(name, generation), *parts)?)
        };
        let sealer = self.shared.sealer.as_ref();
        let sealer = sealer.ok_or_else(|| sealed("the store was opened without a key file".to_owned()))?;
        let plain = sealer.open(name, &ciphertext).map_err(sealed)?;
        Ok(Some(Secret { generation, plain }))
    }

    /// Names and newest generations of the secrets under `prefix`, without opening them.
    pub fn secret_names(&self, prefix: &str) -> Result<Vec<(String, u64)>, ReadError> {
        let view = self.view();
        let mut names = Vec::new();
        for row in view.rows(&keys::secret_head(prefix)) {
            let (key, row) = row?;
            let head: SecretHead = decode(&key, &row)?;
            if !head.parts.is_empty() {
                names.push((key.strip_prefix(keys::SECRET_HEAD).unwrap_or(&key).to_owned(), head.generation));
            }
        }
        Ok(names)
    }

    /// A run's row.
    pub fn run(&self, run: RunId) -> Result<Option<RunRow>, ReadError> {
        self.view().json(&keys::run(run))
    }

    /// Runs by index, newest first, without reading journals.
    pub fn runs(&self, query: &RunQuery) -> Result<Vec<RunRow>, ReadError> {
        let (runs, damaged) = self.readable_runs(query)?;
        damaged.into_iter().next().map_or(Ok(runs), Err)
    }

    /// The same, for a list that is not kept back by a run that cannot be read: those that can, and why the others cannot.
    pub fn readable_runs(&self, query: &RunQuery) -> Result<(Vec<RunRow>, Vec<ReadError>), ReadError> {
        let view = self.view();
        let limit = if query.limit == 0 { usize::MAX } else { query.limit };
        let prefixes = match (query.flow, &query.cluster) {
            (Some(flow), _) => vec![keys::index_flow(flow)],
            (None, Some(cluster)) => vec![keys::index_cluster(cluster)],
            (None, None) if !query.states.is_empty() => query.states.iter().map(|s| keys::index_state(*s)).collect(),
            (None, None) => vec![keys::index_time()],
        };
        let (mut runs, mut damaged) = (Vec::new(), Vec::new());
        for prefix in &prefixes {
            let mut found = 0;
            for row in view.rows_backwards(prefix) {
                if found >= limit {
                    break;
                }
                let (key, _) = row?;
                match view.indexed(&key) {
                    Ok(row) if matches(query, &row) => {
                        runs.push(row);
                        found += 1;
                    }
                    Ok(_) => {}
                    Err(error @ ReadError::Failed(_)) => return Err(error),
                    Err(error) => damaged.push(error),
                }
            }
        }
        runs.sort_by_key(|row| std::cmp::Reverse((row.started_at, row.run)));
        runs.truncate(limit);
        Ok((runs, damaged))
    }

    /// Every run in `state` by index, oldest first, for a look over all of them. Commits go on in between: a run that
    /// changes meanwhile may be missed. One that cannot be read holds up no other.
    pub fn each_run(
        &self,
        state: RunState,
        mut visit: impl FnMut(RunId, Result<RunRow, ReadError>),
    ) -> Result<(), ReadError> {
        let prefix = keys::index_state(state);
        let mut next = prefix.clone();
        loop {
            let view = self.view();
            let mut last = None;
            for row in view.rows_from(&prefix, &next).take(PAGE) {
                let (key, _) = row?;
                match keys::indexed_run(&key) {
                    Some(run) => visit(run, view.indexed(&key)),
                    None => tracing::error!(key, "a row of the index names no run"),
                }
                last = Some(key);
            }
            // What sorts right behind it.
            next = match last {
                Some(key) => format!("{key}\0"),
                None => return Ok(()),
            };
        }
    }

    /// Every run that is not archived, in the order of their ids, for a look over all of them: what it costs does not grow
    /// with the archive. Commits go on in between: a run that changes meanwhile may be missed. One that cannot be read holds
    /// up no other.
    pub fn each_unarchived(&self, mut visit: impl FnMut(RunId, Result<RunRow, ReadError>)) -> Result<(), ReadError> {
        let mut next = keys::JOURNAL.to_owned();
        loop {
            let view = self.view();
            let Some(row) = view.rows_from(keys::JOURNAL, &next).next() else { return Ok(()) };
            let (key, _) = row?;
            // Only what is not archived has a journal; the rest of this one is passed over.
            next = match keys::run_of(&key) {
                Some(run) => {
                    let missing = || ReadError::Corrupt { key: keys::run(run), reason: "it is missing".to_owned() };
                    visit(run, view.json(&keys::run(run)).and_then(|row| row.ok_or_else(missing)));
                    keys::journal_end(run)
                }
                None => {
                    tracing::error!(key, "a row of a journal names no run");
                    format!("{key}\0")
                }
            };
        }
    }

    /// A run's events from `from` (0 = all), whether archived or not; empty where there is no such run.
    pub fn journal(&self, run: RunId, from: u64) -> Result<Vec<Value>, ReadError> {
        let view = self.view();
        let Some(row) = view.json::<RunRow>(&keys::run(run))? else { return Ok(Vec::new()) };
        let damaged = |reason: String| ReadError::Corrupt { key: keys::run(run), reason };
        let (events, first) = if row.archived {
            let parts = view.rows(&keys::archive_of(run)).collect::<Result<Vec<_>, _>>()?;
            (archive::unpack(&parts).map_err(damaged)?, 0)
        } else {
            let first = from.min(row.seq);
            let rows = view.rows_from(&keys::journal_of(run), &keys::journal(run, first));
            (rows.map(|row| row.and_then(|(key, row)| decode(&key, &row))).collect::<Result<Vec<Value>, _>>()?, first)
        };
        if events.len() as u64 + first != row.seq {
            return Err(damaged(format!("its journal holds {} of {} events", events.len() as u64 + first, row.seq)));
        }
        let skip = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        Ok(events.into_iter().skip(skip).collect())
    }

    /// The first event of a run that is not archived, however its row and its other events look.
    pub fn first_event(&self, run: RunId) -> Result<Option<Value>, ReadError> {
        self.view().json(&keys::journal(run, 0))
    }

    /// A playbook's text by content hash.
    pub fn definition(&self, hash: &str) -> Result<Option<String>, ReadError> {
        self.view().json(&keys::definition(hash))
    }

    /// What is known of a received message.
    pub fn inbox(&self, key: &InboxKey) -> Result<Option<InboxRow>, ReadError> {
        self.view().json(&keys::inbox(key))
    }

    /// The oldest durable messages of a lane that wait to be published.
    pub fn outbox(&self, lane: Lane, limit: usize) -> Result<Vec<OutboxRow>, ReadError> {
        let durable = *self.shared.head(lane).borrow();
        let view = self.view();
        let mut waiting = Vec::new();
        for row in view.rows(&keys::outbox_of(lane)).take(limit) {
            let (key, row) = row?;
            let row = message_row(&key, decode(&key, &row)?)?;
            if row.seq > durable {
                break;
            }
            waiting.push(row);
        }
        Ok(waiting)
    }

    /// Messages that the bus refused for good.
    pub fn parked(&self) -> Result<Vec<ParkedRow>, ReadError> {
        let view = self.view();
        let rows = view.rows(keys::PARKED).map(|row| {
            let (key, row) = row?;
            let stored: StoredMessage = decode(&key, &row)?;
            let (reason, parked_at) = match &stored.parked {
                Some(parked) => (parked.reason.clone(), parked.at),
                None => (String::new(), stored.at),
            };
            Ok(ParkedRow { row: message_row(&key, stored)?, reason, parked_at })
        });
        rows.collect()
    }

    /// Where the audit log ends.
    pub fn audit_head(&self) -> Result<AuditHead, ReadError> {
        Ok(self.view().json(keys::AUDIT_HEAD)?.unwrap_or_default())
    }

    /// Audit records from sequence `from` on, in order, at most `limit`.
    pub fn audit(&self, from: u64, limit: usize) -> Result<Vec<AuditRecord>, ReadError> {
        let view = self.view();
        let records = view.audit(from).filter(|record| record.as_ref().map_or(true, |record| record.seq >= from));
        records.take(limit).collect()
    }

    /// Walks the audit log from its beginning and compares it with `heads` that were published elsewhere; names the
    /// first record that was altered, removed or reordered. Commits go on in between.
    pub fn verify_audit(&self, heads: &[AuditHead]) -> Result<AuditVerified, ReadError> {
        let (end, damage) = match self.audit_head() {
            Err(error @ ReadError::Failed(_)) => return Err(error),
            Err(error) => (AuditHead::default(), Some(error)),
            Ok(end) => (end, None),
        };
        let mut walk = Walk::new(heads);
        loop {
            let page = self.audit_page(walk.next());
            if page.is_empty() {
                let seq = walk.next();
                let damage = damage.map(|error| AuditProblem { seq, reason: format!("the log's head: {error}") });
                return Ok(walk.finish(&end, damage));
            }
            for record in page {
                let fits = match record {
                    Ok(record) => walk.step(&record),
                    Err(ReadError::Corrupt { key, reason }) => {
                        Err(AuditProblem { seq: walk.next(), reason: format!("{key}: {reason}") })
                    }
                    Err(ReadError::Shape { key, source }) => {
                        Err(AuditProblem { seq: walk.next(), reason: format!("{key} has another shape: {source}") })
                    }
                    Err(other) => return Err(other),
                };
                if let Err(problem) = fits {
                    return Ok(walk.finish(&end, Some(problem)));
                }
            }
        }
    }

    /// Some audit records from sequence `from` on, as of one moment.
    pub(crate) fn audit_page(&self, from: u64) -> Vec<Result<AuditRecord, ReadError>> {
        let view = self.view();
        let is_before = |record: &Result<AuditRecord, ReadError>| record.as_ref().is_ok_and(|record| record.seq < from);
        view.audit(from).skip_while(is_before).take(PAGE).collect()
    }

    /// The revision of the last durable commit.
    pub fn revision(&self) -> u64 {
        *self.shared.revisions.borrow()
    }

    pub(crate) fn view(&self) -> View<'_> {
        View { tree: self.shared.rows() }
    }
}

fn entry_of<T: DeserializeOwned>(key: &str, row: &[u8]) -> Each<T> {
    let value = decode::<InventoryRow<T>>(key, row);
    let value = value.map(|InventoryRow { revision, value, .. }| Versioned { revision, value });
    (key.strip_prefix(keys::INVENTORY).unwrap_or(key).to_owned(), value)
}

fn matches(query: &RunQuery, row: &RunRow) -> bool {
    let summary = &row.summary;
    query.flow.is_none_or(|flow| flow == summary.flow)
        && query.cluster.as_ref().is_none_or(|cluster| summary.cluster.as_ref() == Some(cluster))
        && query.playbook.as_ref().is_none_or(|playbook| *playbook == summary.playbook)
        && (query.states.is_empty() || query.states.contains(&summary.state))
}

fn message_row(key: &str, stored: StoredMessage) -> Result<OutboxRow, ReadError> {
    let seq = keys::trailing_seq(key)
        .ok_or_else(|| ReadError::Corrupt { key: key.to_owned(), reason: "it has no sequence".to_owned() })?;
    Ok(OutboxRow { seq, at: stored.at, message: stored.message })
}
