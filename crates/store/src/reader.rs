//! Consistent reads; every record's checksum is verified.

use secrecy::SecretSlice;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    commit::{InboxKey, Lane, RunId},
    rows::{InboxRow, OutboxRow, ParkedRow, RunQuery, RunRow},
};

/// Reads of a store; a cheap clone. Reads are synchronous and take microseconds.
#[derive(Clone)]
pub struct Reader {}

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
    pub fn get<T: DeserializeOwned>(&self, _key: &str) -> Result<Option<Versioned<T>>, ReadError> {
        todo!()
    }

    /// The inventory under `prefix`, sorted by key, as of one moment.
    pub fn scan<T: DeserializeOwned>(&self, _prefix: &str) -> Result<Vec<Entry<T>>, ReadError> {
        todo!()
    }

    /// The newest generation of a secret.
    pub fn secret(&self, _name: &str) -> Result<Option<Secret>, ReadError> {
        todo!()
    }

    /// One generation of a secret; old ones are kept until eight newer exist.
    pub fn secret_generation(&self, _name: &str, _generation: u64) -> Result<Option<Secret>, ReadError> {
        todo!()
    }

    /// Names and newest generations of the secrets under `prefix`, without opening them.
    pub fn secret_names(&self, _prefix: &str) -> Result<Vec<(String, u64)>, ReadError> {
        todo!()
    }

    /// A run's row.
    pub fn run(&self, _run: RunId) -> Result<Option<RunRow>, ReadError> {
        todo!()
    }

    /// Runs by index, newest first, without reading journals.
    pub fn runs(&self, _query: &RunQuery) -> Result<Vec<RunRow>, ReadError> {
        todo!()
    }

    /// A run's events from `from` (0 = all), whether archived or not.
    pub fn journal(&self, _run: RunId, _from: u64) -> Result<Vec<Value>, ReadError> {
        todo!()
    }

    /// A playbook's text by content hash.
    pub fn definition(&self, _hash: &str) -> Result<Option<String>, ReadError> {
        todo!()
    }

    /// What is known of a received message.
    pub fn inbox(&self, _key: &InboxKey) -> Result<Option<InboxRow>, ReadError> {
        todo!()
    }

    /// The oldest durable messages of a lane that wait to be published.
    pub fn outbox(&self, _lane: Lane, _limit: usize) -> Result<Vec<OutboxRow>, ReadError> {
        todo!()
    }

    /// Messages that the bus refused for good.
    pub fn parked(&self) -> Result<Vec<ParkedRow>, ReadError> {
        todo!()
    }

    /// The store's revision.
    pub fn revision(&self) -> u64 {
        todo!()
    }
}
