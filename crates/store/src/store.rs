//! The handle: open, commit, drain the outbox, close.

use std::path::{Path, PathBuf};

use tokio::sync::watch;

use crate::{
    commit::{Commit, CommitError, Committed, Lane},
    reader::Reader,
};

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The age key file that opens secrets; without it secrets can neither be put nor read.
    pub key_file: Option<PathBuf>,
    /// A second recipient (`age1…`) whose key is kept offline, to open secrets when the key file is lost.
    pub recovery_recipient: Option<String>,
    /// Page cache, 16 to 64 MiB.
    pub cache_bytes: u64,
    /// Commits are refused while the file system has less than this free.
    pub min_free_bytes: u64,
    /// Open although acknowledged commits are missing from the disk.
    pub accept_loss: bool,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{} is in use by {holder}", .path.display())]
    InUse {
        /// The store.
        path: PathBuf,
        /// Process id and name, as far as it is known.
        holder: String,
    },
}

/// A store, open and owned; a cheap clone.
#[derive(Clone)]
pub struct Store {}

impl Store {
    /// Opens the store in the folder `path`, creating it where nothing is.
    pub fn open(_path: &Path, _options: Options) -> Result<Self, OpenError> {
        todo!()
    }

    /// Writes `commit`; resolves when it is durable.
    pub async fn commit(&self, _commit: Commit) -> Result<Committed, CommitError> {
        todo!()
    }

    /// [`commit`](Self::commit) for callers outside an async runtime.
    pub fn commit_blocking(&self, _commit: Commit) -> Result<Committed, CommitError> {
        todo!()
    }

    /// Reads.
    pub fn reader(&self) -> Reader {
        todo!()
    }

    /// The revision of the last durable commit; changes wake whoever waits for inventory or run state.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        todo!()
    }

    /// The sequence of the newest durable message of a lane; its change wakes the publisher.
    pub fn outbox_head(&self, _lane: Lane) -> watch::Receiver<u64> {
        todo!()
    }

    /// Forgets the messages of a lane up to `seq`: the bus has them.
    pub async fn mark_published(&self, _lane: Lane, _seq: u64) -> Result<(), CommitError> {
        todo!()
    }

    /// Takes a message that the bus refuses for good out of its lane, so that it holds up nothing.
    pub async fn park(&self, _lane: Lane, _seq: u64, _reason: &str) -> Result<(), CommitError> {
        todo!()
    }

    /// Flushes, stops the writer and releases the lock once the last reader is gone.
    pub async fn close(self) {
        todo!()
    }
}
