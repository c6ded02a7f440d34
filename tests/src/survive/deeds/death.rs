//! A store under a process that dies at a commit: it is durable and nobody hears of it, or it is lost with the process.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use contractor::driver::Journal;
use futures::future::BoxFuture;
use serde_json::Value;
use store::{Commit, CommitError, Committed, ReadError, Reader, RunQuery, RunRow, Store};
use tokio::sync::watch;
use uuid::Uuid;

/// When the process dies. The first commit of a run is not among those at which it does.
#[derive(Clone, Debug)]
pub enum Hour {
    /// At the commit of that number from now on, counted from 1.
    Commit(u64),
    /// At the first from now on that has this entry, such as `succeeded create[cp-1]`.
    Entry(String),
    /// At each that has an entry besides these, which were there before.
    New(BTreeSet<String>),
}

impl From<u64> for Hour {
    fn from(commit: u64) -> Self {
        Self::Commit(commit)
    }
}

/// What becomes of the commit at which the process dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Last {
    /// It is durable.
    #[default]
    Durable,
    /// It is lost: what was done is done, and no journal says so.
    Lost,
}

/// Decides when the process dies.
#[derive(Default)]
pub(super) struct Death {
    fate: Mutex<Fate>,
    count: watch::Sender<u64>,
}

#[derive(Default)]
struct Fate {
    hour: Option<Hour>,
    last: Last,
    commits: Vec<Vec<String>>,
}

impl Death {
    /// It comes at that hour, in that way.
    pub(super) fn come_at(&self, hour: Hour, last: Last) {
        let mut fate = self.fate();
        (fate.hour, fate.last) = (Some(hour), last);
    }

    /// It does not come any more.
    pub(super) fn stay_away(&self) {
        self.fate().hour = None;
    }

    /// How often it came.
    pub(super) fn count(&self) -> u64 {
        *self.count.borrow()
    }

    /// Waits until it has come more than so many times.
    pub(super) async fn follows(&self, buried: u64) {
        // The sender lives as long as `self`.
        let _ = self.count.subscribe().wait_for(|count| *count > buried).await;
    }

    /// The entries of each commit since this was asked.
    pub(super) fn commits(&self) -> Vec<Vec<String>> {
        std::mem::take(&mut self.fate().commits)
    }

    /// A commit with these entries comes to be as `now` says; true when the process dies of it.
    fn strikes(&self, entries: &[String], now: Last) -> bool {
        let mut fate = self.fate();
        if fate.last != now {
            return false;
        }
        let is_first = entries.iter().any(|entry| entry.starts_with("opened"));
        let strikes = !is_first
            && match &mut fate.hour {
                None => false,
                Some(Hour::Commit(left)) => {
                    let before = *left;
                    *left = before.saturating_sub(1);
                    before == 1
                }
                Some(Hour::Entry(entry)) => entries.iter().any(|known| known == entry),
                Some(Hour::New(known)) => {
                    let before = known.len();
                    known.extend(entries.iter().cloned());
                    known.len() > before
                }
            };
        if strikes && !matches!(fate.hour, Some(Hour::New(_))) {
            fate.hour = None;
        }
        drop(fate);
        if strikes {
            self.count.send_modify(|count| *count += 1);
        }
        strikes
    }

    fn fate(&self) -> MutexGuard<'_, Fate> {
        self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store of a process that may die.
pub(super) struct Mortal {
    store: Store,
    death: Arc<Death>,
}

impl Mortal {
    pub(super) fn new(store: Store, death: Arc<Death>) -> Self {
        Self { store, death }
    }
}

/// Kinds of the entries that a commit adds to a journal, with their steps.
fn entries(commit: &Commit) -> Vec<String> {
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    let events = commit.run.iter().flat_map(|run| &run.events);
    events.map(|event| format!("{} {}", text(event, "event"), text(event, "step"))).collect()
}

impl Journal for Mortal {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, CommitError>> {
        Box::pin(async move {
            let entries = entries(&commit);
            if self.death.strikes(&entries, Last::Lost) {
                return std::future::pending().await;
            }
            let committed = self.store.commit(commit).await;
            if committed.is_ok() {
                let dies = self.death.strikes(&entries, Last::Durable);
                self.death.fate().commits.push(entries);
                if dies {
                    return std::future::pending().await;
                }
            }
            committed
        })
    }

    fn events(&self, run: Uuid) -> Result<Vec<Value>, ReadError> {
        Journal::events(&self.store, run)
    }

    fn row(&self, run: Uuid) -> Result<Option<RunRow>, ReadError> {
        Journal::row(&self.store, run)
    }

    fn rows(&self, query: &RunQuery) -> Result<Vec<RunRow>, ReadError> {
        Journal::rows(&self.store, query)
    }

    fn definition(&self, hash: &str) -> Result<Option<String>, ReadError> {
        Journal::definition(&self.store, hash)
    }

    fn reader(&self) -> Reader {
        Journal::reader(&self.store)
    }
}
