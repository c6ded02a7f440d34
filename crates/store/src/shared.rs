//! What the writer and all readers of one open store share.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{apply::Counters, commit::Lane, seal::Sealer};

/// How much must stay free on the file system.
pub(crate) struct Room {
    pub(crate) path: PathBuf,
    pub(crate) reserve: u64,
}

impl Room {
    /// What is free and what is wanted, where the former is less.
    pub(crate) fn shortage(&self) -> Option<(u64, u64)> {
        let free = fs4::available_space(&self.path).unwrap_or(u64::MAX);
        (free < self.reserve).then_some((free, self.reserve))
    }
}

pub(crate) struct Shared {
    /// Replaced when the store is compacted; the writer takes it for writing while a batch is applied.
    db: RwLock<sled::Db>,
    pub(crate) sealer: Option<Sealer>,
    pub(crate) room: Room,
    pub(crate) revisions: watch::Sender<u64>,
    heads: [watch::Sender<u64>; Lane::ALL.len()],
    /// Since when the writer is at the current group.
    busy: Mutex<Option<Instant>>,
    failed: Mutex<Option<String>>,
}

impl Shared {
    pub(crate) fn new(db: sled::Db, sealer: Option<Sealer>, room: Room, counters: &Counters) -> Self {
        Self {
            db: RwLock::new(db),
            sealer,
            room,
            revisions: watch::Sender::new(counters.revision),
            heads: Lane::ALL.map(|lane| watch::Sender::new(counters.newest(lane))),
            busy: Mutex::new(None),
            failed: Mutex::new(None),
        }
    }

    /// The rows of one moment: the writer waits while this is held.
    pub(crate) fn rows(&self) -> RwLockReadGuard<'_, sled::Db> {
        self.db.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the writer: no reader looks while this is held.
    pub(crate) fn rows_mut(&self) -> RwLockWriteGuard<'_, sled::Db> {
        self.db.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn head(&self, lane: Lane) -> &watch::Sender<u64> {
        &self.heads[lane as usize]
    }

    /// Tells whoever waits that everything up to `counters` is durable.
    pub(crate) fn announce(&self, counters: &Counters) {
        let raise = |sender: &watch::Sender<u64>, to: u64| {
            sender.send_if_modified(|current| {
                let raised = *current < to;
                *current = to.max(*current);
                raised
            });
        };
        for lane in Lane::ALL {
            raise(self.head(lane), counters.newest(lane));
        }
        raise(&self.revisions, counters.revision);
    }

    pub(crate) fn begin(&self) {
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(crate) fn end(&self) {
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn busy_for(&self) -> Option<Duration> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }

    pub(crate) fn fail(&self, reason: &str) {
        tracing::error!(reason, "the store failed and takes no more writes");
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
