//! The writes of one batch, readable before they are applied.

use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    commit::CommitError,
    record::{self, Encoding, VALUE_CAP},
};

/// The writer's view: the tree with the batch's own writes over it.
pub(crate) struct Draft<'a> {
    tree: &'a sled::Tree,
    writes: BTreeMap<String, Option<Vec<u8>>>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(tree: &'a sled::Tree) -> Self {
        Self { tree, writes: BTreeMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.writes.len()
    }

    /// What the batch would leave under `key`.
    pub(crate) fn row(&self, key: &str) -> Result<Option<Vec<u8>>, CommitError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => Ok(self.tree.get(key).map_err(storage)?.map(|row| row.to_vec())),
        }
    }

    pub(crate) fn contains(&self, key: &str) -> Result<bool, CommitError> {
        Ok(self.row(key)?.is_some())
    }

    /// The JSON value under `key`; damage and other shapes stop the writer's batch.
    pub(crate) fn json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, CommitError> {
        self.row(key)?.map(|row| decode_own(key, &row)).transpose()
    }

    /// All rows under `prefix`, in order.
    pub(crate) fn rows(&self, prefix: &str) -> Result<BTreeMap<String, Vec<u8>>, CommitError> {
        let mut rows = BTreeMap::new();
        for row in self.tree.scan_prefix(prefix) {
            let (key, row) = row.map_err(storage)?;
            rows.insert(text_key(&key)?, row.to_vec());
        }
        for (key, written) in self.writes.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix)) {
            match written {
                Some(row) => rows.insert(key.clone(), row.clone()),
                None => rows.remove(key),
            };
        }
        Ok(rows)
    }

    /// The last row on disk under `prefix`; the batch's own writes are not seen.
    pub(crate) fn last(&self, prefix: &str) -> Result<Option<(String, Vec<u8>)>, CommitError> {
        let row = self.tree.scan_prefix(prefix).next_back().transpose().map_err(storage)?;
        row.map(|(key, row)| Ok((text_key(&key)?, row.to_vec()))).transpose()
    }

    /// The keys on disk from `first` to `last`, both included, at most `limit`; the batch's own writes are not seen.
    pub(crate) fn stored_keys(&self, first: &str, last: &str, limit: usize) -> Result<Vec<String>, CommitError> {
        let keys = self.tree.range(first.as_bytes()..=last.as_bytes()).keys().take(limit);
        keys.map(|key| text_key(&key.map_err(storage)?)).collect()
    }

    /// Writes a JSON value, within the cap of one value; `what` names it in the error.
    pub(crate) fn put_json<T: Serialize>(&mut self, key: String, value: &T, what: &str) -> Result<(), CommitError> {
        let body = serde_json::to_vec(value).map_err(|error| CommitError::Invalid(format!("{what}: {error}")))?;
        if body.len() > VALUE_CAP {
            return Err(CommitError::TooLarge { what: what.to_owned(), size: body.len(), cap: VALUE_CAP });
        }
        let row = record::encode(&key, Encoding::Json, &body);
        self.writes.insert(key, Some(row));
        Ok(())
    }

    /// Writes bytes as one row, within the cap of one value; `what` names them in the error.
    pub(crate) fn put_bytes(&mut self, key: String, bytes: &[u8], what: &str) -> Result<(), CommitError> {
        if bytes.len() > VALUE_CAP {
            return Err(CommitError::TooLarge { what: what.to_owned(), size: bytes.len(), cap: VALUE_CAP });
        }
        let row = record::encode(&key, Encoding::Bytes, bytes);
        self.writes.insert(key, Some(row));
        Ok(())
    }

    /// Writes bytes in rows of at most `cap` under `prefix`; how many rows.
    pub(crate) fn put_parts(&mut self, prefix: &str, bytes: &[u8], cap: usize) -> usize {
        let mut count = 0;
        for part in bytes.chunks(cap) {
            let key = crate::keys::part(prefix, count);
            let row = record::encode(&key, Encoding::Bytes, part);
            self.writes.insert(key, Some(row));
            count += 1;
        }
        count
    }

    pub(crate) fn remove(&mut self, key: String) {
        self.writes.insert(key, None);
    }

    pub(crate) fn remove_all(&mut self, prefix: &str) -> Result<(), CommitError> {
        for key in self.rows(prefix)?.into_keys() {
            self.remove(key);
        }
        Ok(())
    }

    pub(crate) fn into_batch(self) -> sled::Batch {
        let mut batch = sled::Batch::default();
        for (key, row) in self.writes {
            match row {
                Some(row) => batch.insert(key.as_bytes(), row),
                None => batch.remove(key.as_bytes()),
            }
        }
        batch
    }
}

pub(crate) fn decode_own<T: DeserializeOwned>(key: &str, row: &[u8]) -> Result<T, CommitError> {
    match record::decode_json(key, row) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(CommitError::Damaged(format!("record `{key}` has another shape: {error}"))),
        Err(reason) => Err(CommitError::Damaged(format!("record `{key}`: {reason}"))),
    }
}

pub(crate) fn text_key(key: &[u8]) -> Result<String, CommitError> {
    String::from_utf8(key.to_vec()).map_err(|_| CommitError::Damaged(format!("key {key:?} is not text")))
}

pub(crate) fn storage(error: sled::Error) -> CommitError {
    match error {
        sled::Error::Corruption { .. } => CommitError::Damaged(error.to_string()),
        other => CommitError::Failed(other.to_string()),
    }
}
