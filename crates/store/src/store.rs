//! The handle: open, commit, drain the outbox, close.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    apply::Sealed,
    commit::{Commit, CommitError, Committed, Lane},
    export::{self, Exported, TransferError},
    folder::Folder,
    opening::{self, Checked, MIN_CACHE, OpenError},
    outbox,
    reader::Reader,
    retention::{Pruned, Retention},
    seal::Sealer,
    shared::{Room, Shared},
    writer::{Job, STALL, Writer},
};

const MIB: u64 = 1024 * 1024;
/// Commits that wait for the writer before `commit` itself waits.
const QUEUE: usize = 1_024;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The age key file that opens secrets; without it secrets can neither be put nor read.
    pub key_file: Option<PathBuf>,
    /// A second recipient (`age1…`) whose key is kept offline, to open secrets when the key file is lost.
    pub recovery_recipient: Option<String>,
    /// Page cache, 4 to 64 MiB; what it holds takes two to three times as much memory.
    pub cache_bytes: u64,
    /// Commits are refused while the file system has less than this free.
    pub min_free_bytes: u64,
    /// Events kept while the bus is away; beyond it the oldest fall out.
    pub event_backlog: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            key_file: None,
            recovery_recipient: None,
            cache_bytes: MIN_CACHE,
            min_free_bytes: 64 * MIB,
            event_backlog: 50_000,
        }
    }
}

/// What a compaction gained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Compacted {
    /// Bytes on disk before.
    pub before: u64,
    /// Bytes on disk after.
    pub after: u64,
}

/// A store, open and owned; a cheap clone.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    doubt: Option<Arc<str>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in the folder `path`, creating it where nothing is. Blocks for milliseconds.
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        let mut folder = Folder::open(path)?;
        let sealer = options
            .key_file
            .as_deref()
            .map(|file| Sealer::load(file, options.recovery_recipient.as_deref()))
            .transpose()?;
        let db = opening::open_recovering(&folder, options.cache_bytes)?;
        let Checked { counters, doubt } = opening::check(&mut folder, &db, sealer.as_ref())?;
        let io_failed = |source| OpenError::Io { path: path.to_owned(), source };
        let data_file = fs::File::open(folder.data().join("db")).map_err(io_failed)?;
        let room = Room { path: path.to_owned(), reserve: options.min_free_bytes };
        let shared = Arc::new(Shared::new(db, sealer, room, &counters));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = Writer {
            shared: Arc::clone(&shared),
            folder,
            counters,
            data_file,
            cache_bytes: options.cache_bytes,
            event_backlog: options.event_backlog,
            trimmed: 0,
            jobs: queue,
        };
        let thread = std::thread::Builder::new().name("store-writer".to_owned());
        thread.spawn(move || writer.run()).map_err(io_failed)?;
        Ok(Self { shared, jobs, doubt: doubt.map(Arc::from) })
    }

    /// Writes `commit`; resolves when it is durable. Dropping the future does not take the commit back.
    pub async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        let sealed = Sealed::new(commit, self.shared.sealer.as_ref())?;
        self.ask(|reply| Job::Commit(Box::new(sealed), reply)).await.unwrap_or(Err(CommitError::Closed))
    }

    /// Returns when all that readers see by now is durable.
    ///
    /// # Errors
    /// If it will not be.
    pub async fn settled(&self) -> Result<(), CommitError> {
        self.commit(Commit::default()).await.map(drop)
    }

    /// [`commit`](Self::commit) for callers outside an async runtime.
    pub fn commit_blocking(&self, commit: Commit) -> Result<Committed, CommitError> {
        let sealed = Sealed::new(commit, self.shared.sealer.as_ref())?;
        let (reply, answer) = oneshot::channel();
        self.jobs.blocking_send(Job::Commit(Box::new(sealed), reply)).map_err(|_| CommitError::Closed)?;
        answer.blocking_recv().unwrap_or(Err(CommitError::Closed))
    }

    /// Reads.
    pub fn reader(&self) -> Reader {
        Reader { shared: Arc::clone(&self.shared) }
    }

    /// The revision of the last durable commit; changes wake whoever waits for inventory or run state.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.shared.revisions.subscribe()
    }

    /// The sequence of the newest durable message of a lane; its change wakes the publisher.
    pub fn outbox_head(&self, lane: Lane) -> watch::Receiver<u64> {
        self.shared.head(lane).subscribe()
    }

    /// Forgets the messages of a lane up to `seq`: the bus has them. Durable with the next commit, or within half a second
    /// against a killed process; until then a crash brings them back.
    pub async fn mark_published(&self, lane: Lane, seq: u64) -> Result<(), CommitError> {
        while self.change_outbox(outbox::Change::Published { lane, seq }).await?.len() == outbox::BATCH {}
        Ok(())
    }

    /// Takes a message that the bus refuses for good out of its lane, so that it holds up nothing.
    pub async fn park(&self, lane: Lane, seq: u64, reason: &str) -> Result<(), CommitError> {
        self.change_outbox(outbox::Change::Park { lane, seq, reason: reason.to_owned() }).await.map(drop)
    }

    /// Puts a parked message at the end of its lane; its new sequence, `None` where no such message is parked.
    pub async fn retry_parked(&self, lane: Lane, seq: u64) -> Result<Option<u64>, CommitError> {
        Ok(self.change_outbox(outbox::Change::Retry { lane, seq }).await?.pop())
    }

    /// Gives a parked message up; whether there was one.
    pub async fn drop_parked(&self, lane: Lane, seq: u64) -> Result<bool, CommitError> {
        Ok(!self.change_outbox(outbox::Change::Drop { lane, seq }).await?.is_empty())
    }

    async fn change_outbox(&self, change: outbox::Change) -> Result<Vec<u64>, CommitError> {
        self.ask(|reply| Job::Outbox(change, reply)).await.unwrap_or(Err(CommitError::Closed))
    }

    /// Forgets archived runs and inbox rows that are past their age.
    pub async fn prune(&self, retention: Retention) -> Result<Pruned, CommitError> {
        self.ask(|reply| Job::Prune(retention, reply)).await.unwrap_or(Err(CommitError::Closed))
    }

    /// What could not be told of the store's content when it was opened, and what to do about that.
    pub fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    /// Writes everything to a new file (mode 0600) as of one moment; commits wait meanwhile. Nothing is ever overwritten, and
    /// the store's own folder is no place for it.
    pub async fn export(&self, file: &Path) -> Result<Exported, TransferError> {
        let file = file.to_owned();
        self.ask(|reply| Job::Export(file, reply)).await.unwrap_or(Err(TransferError::Closed))
    }

    /// Gives space back to the file system by copying what is live; commits wait meanwhile, reads go on.
    pub async fn compact(&self) -> Result<Compacted, TransferError> {
        self.ask(Job::Compact).await.unwrap_or(Err(TransferError::Closed))
    }

    /// How long the writer has been at one group when that is an alarm (above five seconds): the disk or sled hangs.
    pub fn stalled_for(&self) -> Option<Duration> {
        self.shared.busy_for().filter(|busy| *busy > STALL)
    }

    /// The refusal that a commit would meet now because the file system has too little room.
    pub fn short_of_room(&self) -> Option<CommitError> {
        self.shared.room.shortage().map(|(free, reserve)| CommitError::DiskFull { free, reserve })
    }

    /// Why the store takes no more writes, once it failed; the daemon must be started again.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure()
    }

    /// Finishes what was handed in, flushes, and releases the folder; later commits are refused. The folder can be
    /// opened again once the last [`Reader`] is gone.
    pub async fn close(self) {
        let (reply, closed) = oneshot::channel();
        if self.jobs.send(Job::Close(reply)).await.is_ok() {
            let _ = closed.await;
        }
    }

    /// [`close`](Self::close) for callers outside an async runtime.
    pub fn close_blocking(self) {
        let (reply, closed) = oneshot::channel();
        if self.jobs.blocking_send(Job::Close(reply)).is_ok() {
            let _ = closed.blocking_recv();
        }
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).await.ok()?;
        answer.await.ok()
    }
}

/// Makes the store in the folder `path` from an export; the folder must belong to no running process. A store that is
/// there is refused unless `replace`, and stays in use until the import is complete and proven.
pub fn import(path: &Path, file: &Path, replace: bool) -> Result<Exported, TransferError> {
    export::import(path, file, replace)
}

/// Bytes that the files of a folder hold.
pub(crate) fn folder_bytes(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file).map(|file| file.len()).sum()
}
