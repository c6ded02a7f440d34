//! The rows of one moment, decoded.

use std::sync::RwLockReadGuard;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{archive, audit::AuditRecord, keys, reader::ReadError, record, rows::RunRow};

/// The rows of one moment: the writer waits while it is held.
pub(crate) struct View<'a> {
    pub(crate) tree: RwLockReadGuard<'a, sled::Db>,
}

impl View<'_> {
    pub(crate) fn contains(&self, key: &str) -> bool {
        self.tree.contains_key(key).unwrap_or(false)
    }

    pub(crate) fn json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, ReadError> {
        let row = self.tree.get(key).map_err(|error| failed(key, &error))?;
        row.map(|row| decode(key, &row)).transpose()
    }

    /// The run that an index row names.
    pub(crate) fn indexed(&self, key: &str) -> Result<RunRow, ReadError> {
        let damaged = |reason: &str| ReadError::Corrupt { key: key.to_owned(), reason: reason.to_owned() };
        let run = keys::indexed_run(key).ok_or_else(|| damaged("it names no run"))?;
        self.json(&keys::run(run))?.ok_or_else(|| damaged("the run that it names is missing"))
    }

    pub(crate) fn rows(&self, prefix: &str) -> impl Iterator<Item = Result<(String, Vec<u8>), ReadError>> + use<> {
        text_rows(prefix.to_owned(), self.tree.scan_prefix(prefix))
    }

    pub(crate) fn rows_from(
        &self,
        prefix: &str,
        first: &str,
    ) -> impl Iterator<Item = Result<(String, Vec<u8>), ReadError>> + use<> {
        let prefix = prefix.to_owned();
        let rows = text_rows(prefix.clone(), self.tree.range(first.as_bytes()..));
        rows.take_while(move |row| row.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix)))
    }

    pub(crate) fn rows_backwards(
        &self,
        prefix: &str,
    ) -> impl Iterator<Item = Result<(String, Vec<u8>), ReadError>> + use<> {
        text_rows(prefix.to_owned(), self.tree.scan_prefix(prefix).rev())
    }

    /// The audit log from the pack or row that holds `from`, in order: packs and rows by the sequence in their keys, as
    /// records beside a damaged one stay rows.
    pub(crate) fn audit(&self, from: u64) -> impl Iterator<Item = Result<AuditRecord, ReadError>> + use<> {
        let mut packs = self.rows_from(keys::AUDIT_PACK, &keys::audit_pack(from)).peekable();
        let mut rows = self.rows_from(keys::AUDIT, &keys::audit(from)).peekable();
        let seq = |row: Option<&Result<(String, Vec<u8>), ReadError>>| match row {
            None => u64::MAX,
            // What cannot be read at all is told at once.
            Some(row) => row.as_ref().ok().and_then(|(key, _)| keys::trailing_seq(key)).unwrap_or(0),
        };
        let in_order = std::iter::from_fn(move || {
            if seq(packs.peek()) <= seq(rows.peek()) {
                let pack = packs.next()?;
                return Some(pack.map_or_else(|error| vec![Err(error)], |(key, row)| unpacked(key, row)));
            }
            let row = rows.next()?;
            Some(vec![row.and_then(|(key, row)| decode(&key, &row))])
        });
        in_order.flatten()
    }

    pub(crate) fn parts(&self, prefix: &str, count: usize) -> Result<Vec<u8>, ReadError> {
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

fn unpacked(key: String, row: Vec<u8>) -> Vec<Result<AuditRecord, ReadError>> {
    match archive::unpack(&[(key.clone(), row)]) {
        Err(reason) => vec![Err(ReadError::Corrupt { key, reason })],
        Ok(records) => records.into_iter().map(|record| shape(&key, record)).collect(),
    }
}

pub(crate) fn decode<T: DeserializeOwned>(key: &str, row: &[u8]) -> Result<T, ReadError> {
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
