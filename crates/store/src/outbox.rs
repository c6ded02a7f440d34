//! Changes of the outbox that are not commits: published, parked, retried, dropped.

use jiff::Timestamp;

use crate::{
    apply::{Counters, Parked, StoredMessage, put_message},
    commit::{CommitError, Lane},
    draft::Draft,
    keys,
};

/// Rows that one change removes at most; the rest goes with the next.
pub(crate) const BATCH: usize = 500;

pub(crate) enum Change {
    /// The bus has the messages of a lane up to `seq`.
    Published { lane: Lane, seq: u64 },
    /// The bus refuses a message for good.
    Park { lane: Lane, seq: u64, reason: String },
    /// An operator wants a parked message sent after all: it goes to the end of its lane.
    Retry { lane: Lane, seq: u64 },
    /// An operator gives a parked message up.
    Drop { lane: Lane, seq: u64 },
}

impl Change {
    /// Whether it need not be durable when whoever asked is told: a message that a crash brings back into the outbox is
    /// published again with the same id, which the bus and the receiver's inbox know.
    pub(crate) fn can_wait(&self) -> bool {
        matches!(self, Self::Published { .. })
    }

    /// Writes it into `draft`; the sequences that were touched.
    pub(crate) fn draft(self, draft: &mut Draft<'_>, counters: &mut Counters) -> Result<Vec<u64>, CommitError> {
        match self {
            Self::Published { lane, seq } => {
                let gone = draft.stored_keys(&keys::outbox(lane, 0), &keys::outbox(lane, seq), BATCH)?;
                let seqs = gone.iter().filter_map(|key| keys::trailing_seq(key)).collect();
                for key in gone {
                    draft.remove(key);
                }
                Ok(seqs)
            }
            Self::Park { lane, seq, reason } => {
                let Some(stored) = draft.json::<StoredMessage>(&keys::outbox(lane, seq))? else { return Ok(vec![]) };
                draft.remove(keys::outbox(lane, seq));
                let parked = Some(Parked { reason: reason.chars().take(500).collect(), at: Timestamp::now() });
                draft.put_json(keys::parked(lane, seq), &StoredMessage { parked, ..stored }, "parked message")?;
                Ok(vec![seq])
            }
            Self::Retry { lane, seq } => {
                let key = keys::parked(lane, seq);
                let Some(stored) = draft.json::<StoredMessage>(&key)? else { return Ok(vec![]) };
                draft.remove(key);
                Ok(vec![put_message(draft, counters, stored.message, stored.at)?])
            }
            Self::Drop { lane, seq } => {
                let key = keys::parked(lane, seq);
                let known = draft.contains(&key)?;
                draft.remove(key);
                Ok(if known { vec![seq] } else { vec![] })
            }
        }
    }
}
