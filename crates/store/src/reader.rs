//! Consistent reads; every record's checksum is verified.

use std::sync::{Arc, RwLockReadGuard};

use secrecy::SecretSlice;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::{
    apply::{InventoryRow, SecretHead, StoredMessage},
    archive,
    audit::{AuditHead, AuditProblem, AuditRecord, AuditVerified, Walk},
    commit::{InboxKey, Lane, RunId},
    keys, record,
    rows::{InboxRow, OutboxRow, ParkedRow, RunQuery, RunRow},
    shared::Shared,
};

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
        let view = self.view();
        let mut entries = Vec::new();
        for row in view.rows(&keys::inventory(prefix)) {
            let (key, row) = row?;
            let InventoryRow { revision, value, .. } = decode::<InventoryRow<T>>(&key, &row)?;
            let key = key.strip_prefix(keys::INVENTORY).unwrap_or(&key).to_owned();
            entries.push(Entry { key, revision, value });
        }
        Ok(entries)
    }

    /// The inventory keys under `prefix` with their revisions, sorted.
    pub fn keys(&self, prefix: &str) -> Result<Vec<(String, u64)>, ReadError> {
        let entries = self.scan::<IgnoredAny>(prefix)?;
        Ok(entries.into_iter().map(|entry| (entry.key, entry.revision)).collect())
    }

    /// The newest generation of a secret.
    pub fn secret(&self, name: &str) -> Result<Option<Secret>, ReadError> {
        self.open_secret(name, None)
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
        let view = self.view();
        let limit = if query.limit == 0 { usize::MAX } else { query.limit };
        let prefixes = match (query.flow, &query.cluster) {
            (Some(flow), _) => vec![keys::index_flow(flow)],
            (None, Some(cluster)) => vec![keys::index_cluster(cluster)],
            (None, None) if !query.states.is_empty() => query.states.iter().map(|s| keys::index_state(*s)).collect(),
            (None, None) => vec![keys::index_time()],
        };
        let mut runs = Vec::new();
        for prefix in &prefixes {
            let mut found = 0;
            for row in view.rows_backwards(prefix) {
                if found >= limit {
                    break;
                }
                let (key, _) = row?;
                let row = view.indexed(&key)?;
                if matches(query, &row) {
                    runs.push(row);
                    found += 1;
                }
            }
        }
        runs.sort_by_key(|row| std::cmp::Reverse((row.started_at, row.run)));
        runs.truncate(limit);
        Ok(runs)
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
    /// first record that was altered, removed or reordered.
    pub fn verify_audit(&self, heads: &[AuditHead]) -> Result<AuditVerified, ReadError> {
        let end = self.audit_head()?;
        let view = self.view();
        let mut walk = Walk::new(heads);
        for record in view.audit(1) {
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
        Ok(walk.finish(&end, None))
    }

    /// The revision of the last durable commit.
    pub fn revision(&self) -> u64 {
        *self.shared.revisions.borrow()
    }

    fn view(&self) -> View<'_> {
        View { tree: self.shared.rows() }
    }
}

/// The rows of one moment: the writer waits while it is held.
pub(crate) struct View<'a> {
    pub(crate) tree: RwLockReadGuard<'a, sled::Db>,
}

impl View<'_> {
    fn json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, ReadError> {
        let row = self.tree.get(key).map_err(|error| failed(key, &error))?;
        row.map(|row| decode(key, &row)).transpose()
    }

    /// The run that an index row names.
    fn indexed(&self, key: &str) -> Result<RunRow, ReadError> {
        let damaged = |reason: &str| ReadError::Corrupt { key: key.to_owned(), reason: reason.to_owned() };
        let run = keys::indexed_run(key).ok_or_else(|| damaged("it names no run"))?;
        self.json(&keys::run(run))?.ok_or_else(|| damaged("the run that it names is missing"))
    }

    fn rows(&self, prefix: &str) -> impl Iterator<Item = Result<(String, Vec<u8>), ReadError>> + use<> {
        text_rows(prefix.to_owned(), self.tree.scan_prefix(prefix))
    }

    fn rows_from(
        &self,
        prefix: &str,
        first: &str,
    ) -> impl Iterator<Item = Result<(String, Vec<u8>), ReadError>> + use<> {
        let prefix = prefix.to_owned();
        let rows = text_rows(prefix.clone(), self.tree.range(first.as_bytes()..));
        rows.take_while(move |row| row.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix)))
    }

    fn rows_backwards(&self, prefix: &str) -> impl Iterator<Item = Result<(String, Vec<u8>), ReadError>> + use<> {
        text_rows(prefix.to_owned(), self.tree.scan_prefix(prefix).rev())
    }

    /// The audit log from the pack or row that holds `from`.
    fn audit(&self, from: u64) -> impl Iterator<Item = Result<AuditRecord, ReadError>> + use<> {
        let packs = self.rows_from(keys::AUDIT_PACK, &keys::audit_pack(from)).flat_map(|row| match row {
            Err(error) => vec![Err(error)],
            Ok((key, row)) => match archive::unpack(&[(key.clone(), row)]) {
                Err(reason) => vec![Err(ReadError::Corrupt { key, reason })],
                Ok(records) => records.into_iter().map(|record| shape(&key, record)).collect(),
            },
        });
        let rows = self.rows_from(keys::AUDIT, &keys::audit(from));
        packs.chain(rows.map(|row| row.and_then(|(key, row)| decode(&key, &row))))
    }

    fn parts(&self, prefix: &str, count: usize) -> Result<Vec<u8>, ReadError> {
        let mut bytes = Vec::new();
        for index in 0..count {
            let key = keys::part(prefix, index);
            let damaged = |reason: String| ReadError::Corrupt { key: key.clone(), reason };
            let row = self.tree.get(&key).map_err(|error| failed(&key, &error))?;
            let row = row.ok_or_else(|| damaged("it is missing".to_owned()))?;
            bytes.extend_from_slice(record::decode(&key, &row).map_err(damaged)?.1);
        }
        Ok(bytes)
    }
}

fn text_rows<I>(prefix: String, rows: I) -> impl Iterator<Item = Result<(String, Vec<u8>), ReadError>>
where
    I: Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>>,
{
    rows.map(move |row| {
        let (key, row) = row.map_err(|error| failed(&prefix, &error))?;
        let key = String::from_utf8(key.to_vec())
            .map_err(|_| ReadError::Corrupt { key: prefix.clone(), reason: "a key is not text".to_owned() })?;
        Ok((key, row.to_vec()))
    })
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

fn decode<T: DeserializeOwned>(key: &str, row: &[u8]) -> Result<T, ReadError> {
    match record::decode_json(key, row) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(ReadError::Shape { key: key.to_owned(), source }),
        Err(reason) => Err(ReadError::Corrupt { key: key.to_owned(), reason }),
    }
}

fn shape<T: DeserializeOwned>(key: &str, value: Value) -> Result<T, ReadError> {
    serde_json::from_value(value).map_err(|source| ReadError::Shape { key: key.to_owned(), source })
}

fn failed(key: &str, error: &sled::Error) -> ReadError {
    match error {
        sled::Error::Corruption { .. } => {
            ReadError::Corrupt { key: key.to_owned(), reason: "its page is damaged on disk".to_owned() }
        }
        other => ReadError::Failed(other.to_string()),
    }
}
