//! What is told of rows that cannot be read, and what to do about them.

use std::error::Error;

use messages::query::{Refusal, RefusalKind};
use store::{CommitError, ReadError};

use crate::intake::chain;

/// What to do about a store whose rows cannot be read.
pub(crate) const REMEDY: &str = "`cortexctl store verify` says what is damaged; with the daemon stopped, `cortexctl store \
                                 import --folder STORE.PATH --replace FILE` restores the last export";

/// That something could not be done, now; with what to do where rows of the store are damaged.
pub fn unavailable(error: &(dyn Error + 'static)) -> Refusal {
    let refusal = Refusal::new(RefusalKind::Unavailable, chain(error));
    if is_damage(error) { refusal.with_hint(REMEDY) } else { refusal }
}

/// Why a daemon does not start, in one line.
pub(crate) fn reason(error: &(dyn Error + 'static)) -> String {
    if is_damage(error) { format!("{}; {REMEDY}", chain(error)) } else { chain(error) }
}

fn is_damage(error: &(dyn Error + 'static)) -> bool {
    let of_read = error.downcast_ref().is_some_and(|error| !matches!(error, ReadError::Sealed { .. }));
    of_read || matches!(error.downcast_ref(), Some(CommitError::Damaged(_)))
}
