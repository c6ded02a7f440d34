//! Commands that were heard: each is carried out once, however often the broker brings it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use messages::envelope::{Headers, header};

use crate::trust::COMMAND_AGE;

/// Why a rightly signed command is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Again {
    /// Its signature was seen before.
    #[error("this very command was carried out before; ask again to have it done again")]
    Heard,
    /// It may have been carried out before a restart, of which nothing is remembered here.
    #[error(
        "this command was made at {made}, before this contractor started at {since}: ask again (if it was made just now, a clock is wrong)"
    )]
    Older {
        /// When the sender says that it made it.
        made: Timestamp,
        /// Since when commands are remembered.
        since: Timestamp,
    },
}

/// Signatures of the commands of the last minutes; older ones are refused as stale.
#[derive(Debug)]
pub(super) struct Heard {
    since: Timestamp,
    signatures: Mutex<HashMap<String, Timestamp>>,
}

impl Heard {
    /// Remembers from `since` on, the start of the process.
    pub(super) fn since(since: Timestamp) -> Self {
        Self { since, signatures: Mutex::default() }
    }

    /// Takes a command, whose signature over these headers was found right, if it comes for the first time.
    ///
    /// # Errors
    /// See [`Again`].
    pub(super) fn first(&self, headers: &Headers, now: Timestamp) -> Result<(), Again> {
        let header = |name: &str| header(headers, name).unwrap_or_default();
        let made = header("ce-time").parse().unwrap_or(Timestamp::MIN);
        if made < self.since {
            return Err(Again::Older { made, since: self.since });
        }
        let mut signatures = self.signatures.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock may be as far ahead as one may be behind.
        let kept = COMMAND_AGE + COMMAND_AGE + SignedDuration::from_mins(1);
        signatures.retain(|_, at| now.duration_since(*at) < kept);
        match signatures.insert(header("cortex-signature").to_owned(), now) {
            None => Ok(()),
            Some(_) => Err(Again::Heard),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_taken_once_and_none_of_before_the_start() {
        let started: Timestamp = "2026-11-28T12:00:00Z".parse().unwrap();
        let heard = Heard::since(started);
        let signed = |made: Timestamp, signature: &str| {
            Headers::from([
                ("Ce-Time".to_owned(), made.to_string()),
                ("Cortex-Signature".to_owned(), signature.to_owned()),
            ])
        };
        let (before, after) = (started - SignedDuration::from_secs(1), started + SignedDuration::from_secs(1));
        assert_eq!(heard.first(&signed(before, "a"), after), Err(Again::Older { made: before, since: started }));
        assert_eq!(heard.first(&signed(after, "b"), after), Ok(()));
        assert_eq!(heard.first(&signed(after, "b"), after), Err(Again::Heard));
        assert_eq!(heard.first(&signed(after, "c"), after), Ok(()));
        // Half an hour later the signature is forgotten; its age refuses the command then.
        let later = after + SignedDuration::from_mins(30);
        assert_eq!(heard.first(&signed(later, "d"), later), Ok(()));
        assert_eq!(heard.signatures.lock().unwrap().len(), 1);
    }
}
