//! Commands that were heard: each is carried out once, however often the broker brings it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use bus::Call;
use jiff::{SignedDuration, Timestamp};

use crate::trust::COMMAND_AGE;

/// Signatures of the commands of the last minutes; older ones are refused as stale.
#[derive(Debug, Default)]
pub struct Heard(Mutex<HashMap<String, Timestamp>>);

impl Heard {
    /// Whether this command, whose signature was found right, comes for the first time.
    pub(super) fn is_new(&self, call: &Call, now: Timestamp) -> bool {
        let signature = call.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("cortex-signature"));
        let signature = signature.map(|(_, value)| value.clone()).unwrap_or_default();
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock may be as far ahead as one may be behind.
        let kept = COMMAND_AGE + COMMAND_AGE + SignedDuration::from_mins(1);
        heard.retain(|_, at| now.duration_since(*at) < kept);
        heard.insert(signature, now).is_none()
    }
}
