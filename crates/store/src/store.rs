//! The handle: open, commit, drain the outbox, close.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    apply::{Counters, Sealed},
    commit::{Commit, CommitError, Committed, Lane},
    export::{self, Exported, TransferError},
    folder::{FORMAT, Folder},
    keys, outbox,
    reader::Reader,
    record,
    retention::{Pruned, Retention},
    seal::{KeyError, Sealer},
    shared::{Room, Shared},
    writer::{self, Job, STALL, Writer},
};

const MIB: u64 = 1024 * 1024;
pub(crate) const MIN_CACHE: u64 = 4 * MIB;
const MAX_CACHE: u64 = 64 * MIB;
/// Larger items leave sled's log for files that it never syncs (crates.md, trap 2); cannot be changed later.
const SEGMENT: usize = 4 << 20;
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
    /// Open although acknowledged commits are missing from the disk.
    pub accept_loss: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            key_file: None,
            recovery_recipient: None,
            cache_bytes: 4 * MIB,
            min_free_bytes: 64 * MIB,
            event_backlog: 50_000,
            accept_loss: false,
        }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("store {} is in use by {holder}", .path.display())]
    InUse {
        /// The store.
        path: PathBuf,
        /// Process id and name, as far as it is known.
        holder: String,
    },
    /// It was written by a newer version.
    #[error("store {} has the format {found}, this version reads up to {supported}", .path.display())]
    Newer {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// What this version reads.
        supported: u32,
    },
    /// The folder holds something else.
    #[error("{} is not a store: {reason}", .path.display())]
    NotAStore {
        /// The folder.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// Its data is damaged; the files are left as they are.
    #[error("store {} is damaged ({reason}); restore it with `store import` from the last export", .path.display())]
    Damaged {
        /// The store.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// Commits that were acknowledged are not on the disk: it was rolled back or damaged.
    #[error(
        "store {} lost what it had acknowledged (batch {acknowledged}, found {found}); restore it with `store import`, \
         or open it with loss accepted",
        .path.display()
    )]
    Lost {
        /// The store.
        path: PathBuf,
        /// The last batch that was acknowledged.
        acknowledged: u64,
        /// The last batch that is there.
        found: u64,
    },
    /// The key file does not fit.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A file cannot be read or written.
    #[error("store {} cannot be read or written", .path.display())]
    Io {
        /// The store.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
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
        let db = open_recovering(&folder, options.cache_bytes)?;
        check_meta(path, &db, sealer.as_ref())?;
        let counters = check_counters(&mut folder, &db, options.accept_loss)?;
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
        Ok(Self { shared, jobs })
    }

    /// Writes `commit`; resolves when it is durable. Dropping the future does not take the commit back.
    pub async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        let sealed = Sealed::new(commit, self.shared.sealer.as_ref())?;
        self.ask(|reply| Job::Commit(Box::new(sealed), reply)).await.unwrap_or(Err(CommitError::Closed))
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

    /// Forgets the messages of a lane up to `seq`: the bus has them.
    pub async fn mark_published(&self, lane: Lane, seq: u64) -> Result<(), CommitError> {
        while !self.change_outbox(outbox::Change::Published { lane, seq }).await?.is_empty() {}
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

    /// Writes everything to a file as of one moment; commits wait meanwhile.
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

/// What the store says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) format: u32,
    pub(crate) created_at: Timestamp,
    /// Everyone whose key opens secrets of this store.
    pub(crate) recipients: Vec<String>,
}

impl Default for Meta {
    fn default() -> Self {
        Self { format: FORMAT, created_at: Timestamp::now(), recipients: Vec::new() }
    }
}

/// Opens sled; on a damaged snapshot once more without it (reliability.md 4, start-up recipe).
pub(crate) fn open_recovering(folder: &Folder, cache_bytes: u64) -> Result<sled::Db, OpenError> {
    let data = folder.data();
    match open_sled(&data, cache_bytes) {
        Err(OpenError::Damaged { reason, .. })
            if folder
                .quarantine_snapshots()
                .map_err(|source| OpenError::Io { path: folder.path.clone(), source })? =>
        {
            tracing::warn!(reason, "opening the store again without its snapshots");
            open_sled(&data, cache_bytes)
        }
        result => result,
    }
}

pub(crate) fn open_sled(path: &Path, cache_bytes: u64) -> Result<sled::Db, OpenError> {
    let config = sled::Config::new()
        .path(path)
        .segment_size(SEGMENT)
        .cache_capacity(cache_bytes.clamp(MIN_CACHE, MAX_CACHE))
        .flush_every_ms(Some(500));
    let give_up = Instant::now() + Duration::from_secs(2);
    loop {
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.clone().open()));
        let damaged = |reason: String| OpenError::Damaged { path: path.to_owned(), reason };
        match opened {
            Ok(Ok(db)) => return Ok(db),
            // The folder's lock is ours, so this is a reader of our own process that is about to go.
            Ok(Err(sled::Error::Io(error))) if is_locked(&error) => {
                if Instant::now() > give_up {
                    let holder = "this process (a reader is still open)".to_owned();
                    return Err(OpenError::InUse { path: path.to_owned(), holder });
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(Err(sled::Error::Io(source))) => return Err(OpenError::Io { path: path.to_owned(), source }),
            Ok(Err(error)) => return Err(damaged(error.to_string())),
            Err(_) => return Err(damaged("sled panicked while opening it".to_owned())),
        }
    }
}

fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

/// What a store that is not new says of itself.
pub(crate) fn read_meta(path: &Path, db: &sled::Db) -> Result<Option<Meta>, OpenError> {
    let known: Option<Meta> = read_own(path, db, keys::FORMAT)?;
    match known {
        Some(meta) if meta.format > FORMAT => {
            Err(OpenError::Newer { path: path.to_owned(), found: meta.format, supported: FORMAT })
        }
        known => Ok(known),
    }
}

fn check_meta(path: &Path, db: &sled::Db, sealer: Option<&Sealer>) -> Result<(), OpenError> {
    let damaged = |reason: String| OpenError::Damaged { path: path.to_owned(), reason };
    let known = read_meta(path, db)?;
    let is_new = known.is_none();
    let mut meta = known.unwrap_or_default();
    let recipients = meta.recipients.len();
    if let Some(sealer) = sealer {
        if !meta.recipients.is_empty() && !meta.recipients.contains(&sealer.public()) {
            return Err(KeyError::Wrong { given: sealer.public(), sealed_for: meta.recipients }.into());
        }
        for recipient in sealer.recipients() {
            if !meta.recipients.contains(&recipient) {
                meta.recipients.push(recipient);
            }
        }
    }
    if is_new || meta.recipients.len() > recipients {
        let row = record::encode_json(keys::FORMAT, &meta).map_err(|error| damaged(error.to_string()))?;
        db.insert(keys::FORMAT, row).and_then(|_| db.flush()).map_err(|error| damaged(error.to_string()))?;
    }
    Ok(())
}

/// The counters, after comparing them with what was acknowledged: sled takes damage in its log for its end.
pub(crate) fn check_counters(folder: &mut Folder, db: &sled::Db, accept_loss: bool) -> Result<Counters, OpenError> {
    let io_failed = |path: &Path, source| OpenError::Io { path: path.to_owned(), source };
    let counters: Counters = read_own(&folder.path, db, keys::COUNTERS)?.unwrap_or_default();
    let acknowledged = folder.acknowledged().map_err(|source| io_failed(&folder.path, source))?.unwrap_or(0);
    let found = counters.batches;
    if found < acknowledged {
        if !accept_loss {
            return Err(OpenError::Lost { path: folder.path.clone(), acknowledged, found });
        }
        tracing::warn!(acknowledged, found, "the store lost commits, which was accepted");
    }
    folder.acknowledge(found).map_err(|source| io_failed(&folder.path, source))?;
    Ok(counters)
}

fn read_own<T: serde::de::DeserializeOwned>(path: &Path, db: &sled::Db, key: &str) -> Result<Option<T>, OpenError> {
    let damaged = |reason: String| OpenError::Damaged { path: path.to_owned(), reason };
    let row = writer::guarded(|| db.get(key).map_err(crate::draft::storage));
    match row.map_err(|error| damaged(error.to_string()))? {
        None => Ok(None),
        Some(row) => match record::decode_json(key, &row) {
            Ok(Ok(value)) => Ok(Some(value)),
            Ok(Err(error)) => Err(damaged(format!("record `{key}`: {error}"))),
            Err(reason) => Err(damaged(format!("record `{key}`: {reason}"))),
        },
    }
}

/// Bytes that the files of a folder hold.
pub(crate) fn folder_bytes(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file).map(|file| file.len()).sum()
}
