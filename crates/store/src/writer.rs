//! The one thread that writes: group commit of at most 64 small batches, then one flush and one fsync.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    apply::{Counters, Sealed},
    commit::{CommitError, Committed, Lane},
    draft::{Draft, storage},
    export::{self, Exported, TransferError},
    folder::Folder,
    keys, opening, outbox,
    retention::{self, Pruned, Retention},
    shared::Shared,
    store::{self, Compacted},
};

/// sled can hang when thousands of transactions share one flush (crates.md, trap 1).
const GROUP: usize = 64;
/// Events beyond the backlog that are dropped together.
const TRIM_EVERY: u64 = 256;
/// A group also ends at so many rows.
const GROUP_ROWS: usize = 2_000;

/// What the writer is asked to do.
pub(crate) enum Job {
    Commit(Box<Sealed>, oneshot::Sender<Result<Committed, CommitError>>),
    Outbox(outbox::Change, oneshot::Sender<Result<Vec<u64>, CommitError>>),
    Prune(Retention, oneshot::Sender<Result<Pruned, CommitError>>),
    Export(PathBuf, oneshot::Sender<Result<Exported, TransferError>>),
    Compact(oneshot::Sender<Result<Compacted, TransferError>>),
    Close(oneshot::Sender<()>),
}

/// Tells the caller; a reason means that the flush failed after all.
type Answer = Box<dyn FnOnce(Option<&str>)>;

pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) folder: Folder,
    pub(crate) counters: Counters,
    pub(crate) data_file: fs::File,
    pub(crate) cache_bytes: u64,
    pub(crate) event_backlog: u64,
    /// Up to which event the backlog was last trimmed.
    pub(crate) trimmed: u64,
    pub(crate) jobs: mpsc::Receiver<Job>,
}

impl Writer {
    /// Works until the store is closed; whoever closed it is told when everything is released.
    pub(crate) fn run(mut self) {
        let closer = self.work();
        if let Err(reason) = self.sync() {
            tracing::error!(reason, "the last flush of the store failed");
        }
        drop(self);
        if let Some(closer) = closer {
            let _ = closer.send(());
        }
    }

    fn work(&mut self) -> Option<oneshot::Sender<()>> {
        let mut next = self.jobs.blocking_recv();
        while let Some(job) = next.take() {
            let barrier = match job {
                small @ (Job::Commit(..) | Job::Outbox(..)) => self.group(small),
                barrier => Some(barrier),
            };
            match barrier {
                None => {}
                Some(Job::Close(closer)) => return Some(closer),
                Some(other) => self.alone(other),
            }
            next = self.jobs.blocking_recv();
        }
        None
    }

    /// Applies `first` and what waits behind it, makes it durable if any of it must be, then answers. Returns a job that must
    /// run alone.
    fn group(&mut self, first: Job) -> Option<Job> {
        self.shared.begin();
        let refusal = self.refusal();
        let mut answers = Vec::new();
        let mut rows = 0;
        let mut barrier = None;
        let mut next = Some(first);
        while let Some(job) = next.take() {
            match job {
                Job::Commit(commit, reply) => {
                    let result = match refusal() {
                        Some(error) => Err(error),
                        None => self.apply(|draft, counters| commit.draft(draft, counters), &mut rows),
                    };
                    answers.push(answer(result, reply));
                }
                Job::Outbox(change, reply) => {
                    let written = if change.can_wait() { &mut 0 } else { &mut rows };
                    let result = self.apply(|draft, counters| change.draft(draft, counters), written);
                    answers.push(answer(result, reply));
                }
                other => barrier = Some(other),
            }
            if barrier.is_none() && answers.len() < GROUP && rows < GROUP_ROWS {
                next = self.jobs.try_recv().ok();
            }
        }
        if rows > 0 {
            self.trim_events();
        }
        let failure = self.finish(rows > 0);
        for answer in answers {
            answer(failure.as_deref());
        }
        self.shared.end();
        barrier
    }

    fn alone(&mut self, job: Job) {
        self.shared.begin();
        match job {
            Job::Prune(retention, reply) => drop(reply.send(self.prune(&retention))),
            Job::Export(path, reply) => {
                let exported = caught(|| self.export(&path));
                drop(reply.send(exported.unwrap_or_else(|reason| Err(TransferError::Failed(reason)))));
            }
            Job::Compact(reply) => {
                let compacted = caught(|| self.compact()).unwrap_or_else(|reason| {
                    // Nobody knows how far it came.
                    self.shared.fail(&reason);
                    Err(TransferError::Failed(reason))
                });
                drop(reply.send(compacted));
            }
            Job::Commit(..) | Job::Outbox(..) | Job::Close(_) => {}
        }
        self.shared.end();
    }

    /// Why no commit is taken now: asked once per group, as the answer is the same for all of it.
    fn refusal(&self) -> impl Fn() -> Option<CommitError> + use<> {
        let failure = self.shared.failure();
        let room = self.shared.room.shortage();
        move || match (&failure, room) {
            (Some(reason), _) => Some(CommitError::Failed(reason.clone())),
            (None, Some((free, reserve))) => Some(CommitError::DiskFull { free, reserve }),
            (None, None) => None,
        }
    }

    /// Applies one batch atomically, or nothing of it.
    fn apply<T>(
        &mut self,
        write: impl FnOnce(&mut Draft<'_>, &mut Counters) -> Result<T, CommitError>,
        rows: &mut usize,
    ) -> Result<T, CommitError> {
        if let Some(reason) = self.shared.failure() {
            return Err(CommitError::Failed(reason));
        }
        let mut counters = self.counters;
        let result = guarded(|| {
            let db = self.shared.rows();
            let mut draft = Draft::new(&db);
            let result = write(&mut draft, &mut counters)?;
            counters.batches += 1;
            draft.put_json(keys::COUNTERS.to_owned(), &counters, "counters")?;
            Ok((result, draft.len(), draft.into_batch()))
        });
        let (result, written, batch) = result?;
        let applied = guarded(|| self.shared.rows_mut().apply_batch(batch).map_err(storage));
        if let Err(error) = applied {
            self.shared.fail(&error.to_string());
            return Err(CommitError::Failed(error.to_string()));
        }
        *rows += written;
        self.counters = counters;
        Ok(result)
    }

    /// Makes everything applied durable and tells the waiting; the reason when that failed.
    fn finish(&mut self, wrote: bool) -> Option<String> {
        if !wrote {
            return self.shared.failure();
        }
        if let Err(reason) = self.sync() {
            self.shared.fail(&reason);
        }
        let failure = self.shared.failure();
        if failure.is_none() {
            self.shared.announce(&self.counters);
        }
        failure
    }

    /// sled's flush is not an fsync on Linux (reliability.md 0.2): both are needed.
    fn sync(&mut self) -> Result<(), String> {
        let flushed = guarded(|| self.shared.rows().flush().map(drop).map_err(storage));
        flushed.map_err(|error| error.to_string())?;
        let synced = self.data_file.sync_all().and_then(|()| self.folder.acknowledge(self.counters.batches));
        synced.map_err(|error| error.to_string())
    }

    /// Events are never needed for correctness: the oldest fall out when the bus is away for very long.
    fn trim_events(&mut self) {
        let keep_from = self.counters.event.saturating_sub(self.event_backlog);
        if keep_from < self.trimmed + TRIM_EVERY {
            return;
        }
        self.trimmed = keep_from;
        let change = outbox::Change::Published { lane: Lane::Event, seq: keep_from };
        match self.apply(|draft, counters| change.draft(draft, counters), &mut 0) {
            Ok(dropped) if !dropped.is_empty() => {
                tracing::warn!(dropped = dropped.len(), "the event backlog is full, oldest events were dropped");
            }
            _ => {}
        }
    }

    fn prune(&mut self, retention: &Retention) -> Result<Pruned, CommitError> {
        let mut pruned = Pruned::default();
        loop {
            let mut rows = 0;
            let step = self.apply(|draft, _| retention::prune_some(draft, retention), &mut rows)?;
            if let Some(reason) = self.finish(true) {
                return Err(CommitError::Failed(reason));
            }
            if step.is_empty() {
                return Ok(pruned);
            }
            pruned.add(&step);
        }
    }

    fn export(&mut self, path: &Path) -> Result<Exported, TransferError> {
        export::export(&self.shared.rows(), &self.folder, path)
    }

    /// Copies the live rows to a new data folder and swaps it in; sled never gives space back itself.
    fn compact(&mut self) -> Result<Compacted, TransferError> {
        if let Some(reason) = self.shared.failure() {
            return Err(TransferError::Failed(reason));
        }
        let before = store::folder_bytes(&self.folder.data());
        let root = self.folder.path.clone();
        let failed = |source| TransferError::Io { path: root.clone(), source };
        let (name, path) = self.folder.next_data().map_err(failed)?;
        let fresh = opening::open_sled(&root, &path, self.cache_bytes)?;
        let checksum = export::copy(&self.shared.rows(), &fresh)?;
        let data_file = fs::File::open(path.join("db")).map_err(failed)?;
        data_file.sync_all().map_err(failed)?;
        crate::folder::sync_folder(&path).map_err(failed)?;
        if export::checksum(&fresh)? != checksum {
            let (what, reason) = ("the copy".to_owned(), "it differs from what was copied".to_owned());
            return Err(TransferError::Damaged { what, reason });
        }
        let prepared = self.folder.prepare_move(name).map_err(failed)?;
        if let Err(error) = self.folder.move_to(prepared) {
            // The next open may take the copy and remove the old data: nothing may be written to either any more.
            self.shared.fail(&format!("it is not known whether the compacted data is in use: {error}"));
            return Err(failed(error));
        }
        let old = std::mem::replace(&mut *self.shared.rows_mut(), fresh);
        self.data_file = data_file;
        drop(old);
        self.folder.remove_leftovers().map_err(failed)?;
        Ok(Compacted { before, after: store::folder_bytes(&self.folder.data()) })
    }
}

fn answer<T: 'static>(result: Result<T, CommitError>, reply: oneshot::Sender<Result<T, CommitError>>) -> Answer {
    Box::new(move |failure| {
        // What another commit of the group has written before is as lost as this one: even "known before" is not true then.
        let result = match failure {
            Some(reason) => Err(CommitError::Failed(reason.to_owned())),
            None => result,
        };
        // Whoever asked may have gone; what was committed stays.
        let _ = reply.send(result);
    })
}

/// sled asserts on some damage: a panic in it must not take the writer away silently.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, CommitError>) -> Result<T, CommitError> {
    caught(work).unwrap_or_else(|reason| Err(CommitError::Failed(reason)))
}

/// What the work returns, or what it said when it panicked.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        format!("sled panicked: {}", text.unwrap_or_default())
    })
}

/// How long a writer may be at one group before that is an alarm.
pub(crate) const STALL: Duration = Duration::from_secs(5);
