//! What the driver needs of the world around it.

use std::time::Duration;

use engine::{
    event::{Event, Failure, Opened},
    report::{Emission, Report},
};
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;
use store::{
    Commit, CommitError, Committed, InventoryChange, Outgoing, ReadError, Reader, RunQuery, RunRow, RunState, Store,
};
use uuid::Uuid;

use crate::action::DomainEvent;

/// A run that has not ended: its row in the index, or why that cannot be read.
pub type UnfinishedRun = (Uuid, Result<RunRow, ReadError>);

/// Where runs are recorded. The real one is the store.
pub trait Journal: Send + Sync + 'static {
    /// Makes all of it durable, or none.
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, CommitError>>;
    /// A run's events, oldest first.
    fn events(&self, run: Uuid) -> Result<Vec<Value>, ReadError>;
    /// A run's row in the index.
    fn row(&self, run: Uuid) -> Result<Option<RunRow>, ReadError>;
    /// Runs by index.
    fn rows(&self, query: &RunQuery) -> Result<Vec<RunRow>, ReadError>;
    /// Every run that has not ended. One whose row cannot be read holds up no other.
    fn unfinished(&self) -> Result<Vec<UnfinishedRun>, ReadError> {
        Ok(self.rows(&RunQuery::unfinished())?.into_iter().map(|row| (row.run, Ok(row))).collect())
    }
    /// The first entry of a run's journal, however the others look.
    fn first_event(&self, run: Uuid) -> Result<Option<Value>, ReadError> {
        Ok(self.events(run)?.into_iter().next())
    }
    /// A playbook's text by content hash.
    fn definition(&self, hash: &str) -> Result<Option<String>, ReadError>;
    /// What actions read inventory and secrets through.
    fn reader(&self) -> Reader;
}

impl Journal for Store {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, CommitError>> {
        Box::pin(Self::commit(self, commit))
    }

    fn events(&self, run: Uuid) -> Result<Vec<Value>, ReadError> {
        Self::reader(self).journal(run, 0)
    }

    fn row(&self, run: Uuid) -> Result<Option<RunRow>, ReadError> {
        Self::reader(self).run(run)
    }

    fn rows(&self, query: &RunQuery) -> Result<Vec<RunRow>, ReadError> {
        Self::reader(self).runs(query)
    }

    fn unfinished(&self) -> Result<Vec<UnfinishedRun>, ReadError> {
        let mut found = Vec::new();
        for state in RunState::ALL.into_iter().filter(|state| !state.is_terminal()) {
            Self::reader(self).each_run(state, |run, row| found.push((run, row)))?;
        }
        Ok(found)
    }

    fn first_event(&self, run: Uuid) -> Result<Option<Value>, ReadError> {
        Self::reader(self).first_event(run)
    }

    fn definition(&self, hash: &str) -> Result<Option<String>, ReadError> {
        Self::reader(self).definition(hash)
    }

    fn reader(&self) -> Reader {
        Self::reader(self)
    }
}

/// What time it is; tests have their own.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time.
    fn now(&self) -> Timestamp;
    /// Resolves once `now` has reached `deadline`.
    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'_, ()>;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'_, ()> {
        // At most a minute at a time, so that a clock that is set while we sleep is noticed.
        Box::pin(async move {
            while let Ok(left) = Duration::try_from(deadline.duration_since(Timestamp::now())) {
                if left.is_zero() {
                    break;
                }
                tokio::time::sleep(left.min(Duration::from_secs(60))).await;
            }
        })
    }
}

/// What just happened in a run; all of it commits together.
pub struct Happened<'a> {
    /// The run's first entry: ids, cause, playbook, subject, input.
    pub run: &'a Opened,
    /// How the run looked before; none when it has just been opened.
    pub before: Option<&'a Report>,
    /// How it looks after.
    pub after: &'a Report,
    /// The journal entries.
    pub events: &'a [Event],
    /// Handoffs and events that the playbook emits at its end.
    pub emissions: &'a [Emission],
    /// Events that an action tells, with the step instance that did.
    pub domain: &'a [DomainEvent],
}

/// Who turns what happens into messages, metrics and logs.
pub trait Hooks: Send + Sync + 'static {
    /// The messages that commit together with it. An error (say, a handoff that its own schema refuses) stops the run.
    fn outgoing(&self, happened: &Happened<'_>) -> Result<Vec<Outgoing>, Failure>;

    /// Changes of the inventory that commit together with it. They come without preconditions: a run's end is not
    /// refused because of them.
    fn inventory(&self, _happened: &Happened<'_>) -> Vec<InventoryChange> {
        Vec::new()
    }

    /// It is durable now; the outbox has news.
    fn committed(&self, _happened: &Happened<'_>) {}

    /// A running attempt tells whoever watches; not durable.
    fn progress(&self, _run: Uuid, _step: &str, _text: &str) {}
}
