//! What is forgotten when: archived runs and inbox rows have an age at which they go.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    archive,
    commit::{CommitError, InboxKey},
    draft::Draft,
    keys,
    rows::RunRow,
};

/// Rows that one batch removes at most. sled frees nothing of what a batch replaces before its end, so that large ones cost
/// megabytes for a moment, of which the allocator keeps most.
const BATCH: usize = 48;

/// How long to keep what is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Archived runs, since their last event.
    pub runs: Duration,
    /// Inbox rows; must be longer than any sender's outbox can hold a message.
    pub inbox: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self { runs: 90 * DAY, inbox: 30 * DAY }
    }
}

/// How much was forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Archived runs.
    pub runs: u64,
    /// Inbox rows.
    pub inbox: u64,
}

impl Pruned {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.inbox += other.inbox;
    }
}

/// One batch of forgetting; nothing left to forget when it is empty.
pub(crate) fn prune_some(draft: &mut Draft<'_>, retention: &Retention) -> Result<Pruned, CommitError> {
    let mut pruned = Pruned::default();
    if let Some(before) = ago(retention.inbox) {
        let keys = draft.stored_keys(keys::INBOX_TIME, &keys::inbox_time_end(before), BATCH)?;
        for key in keys {
            if let Some((source, id)) = keys::inbox_of_time(&key) {
                draft.remove(keys::inbox(&InboxKey { source, id }));
            }
            draft.remove(key);
            pruned.inbox += 1;
        }
    }
    if let Some(before) = ago(retention.runs) {
        let first = keys::index_time();
        let last = keys::indexed(&first, before, uuid::Uuid::max());
        for key in draft.stored_keys(&first, &last, usize::MAX)? {
            if pruned.runs as usize >= BATCH / 4 {
                break;
            }
            let Some(run) = keys::indexed_run(&key) else { continue };
            // What cannot be read is no reason to forget nothing; whoever verifies the store is told of it.
            let row = match draft.json::<RunRow>(&keys::run(run)) {
                Err(CommitError::Damaged(_)) => continue,
                row => row?,
            };
            let Some(row) = row else { continue };
            if row.archived && row.updated_at < before {
                archive::unindex(draft, &row);
                draft.remove_all(&keys::archive_of(run))?;
                draft.remove(keys::run(run));
                pruned.runs += 1;
            }
        }
    }
    Ok(pruned)
}

fn ago(age: Duration) -> Option<Timestamp> {
    Timestamp::now().checked_sub(jiff::SignedDuration::try_from(age).ok()?).ok()
}
