//! Read-only questions to the other contractor, answered at once: work passes by handoff, knowledge by query.

use std::time::Duration;

use bus::Bus;
use messages::{
    query::{Answer, Refusal},
    subject::Party,
};
use serde_json::Value;

/// How long an answer may take where nobody says otherwise.
const PATIENCE: Duration = Duration::from_secs(20);

/// The other contractor, as somebody to ask. A cheap clone.
#[derive(Clone)]
pub struct Counterpart {
    bus: Bus,
    party: Party,
    patience: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// It says why it does not answer.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// It is not there, or what it says is no answer.
    #[error("{party}-contractor does not answer {query}: {reason}")]
    Silent {
        /// Who was asked.
        party: Party,
        /// What it was asked.
        query: String,
        /// What came instead of an answer.
        reason: String,
    },
}

impl Counterpart {
    /// Asks `party` over `bus`.
    pub fn new(bus: Bus, party: Party) -> Self {
        Self { bus, party, patience: PATIENCE }
    }

    /// The same with another patience; twenty seconds otherwise.
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Asks a query of `messages::service` and waits for the answer.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn ask(&self, query: &str, arguments: &Value) -> Result<Value, Unanswered> {
        let silent = |reason: String| Unanswered::Silent { party: self.party, query: query.to_owned(), reason };
        let subject = format!("cortex.query.{}.{query}", self.party);
        let body = arguments.to_string().into_bytes().into();
        let reply = self.bus.request(&subject, &Default::default(), body, self.patience).await;
        let reply = reply.map_err(|error| silent(error.to_string()))?;
        match serde_json::from_slice(&reply.body) {
            Ok(Answer::Ok(value)) => Ok(value),
            Ok(Answer::Error(refusal)) => Err(Unanswered::Refused(refusal)),
            Err(error) => Err(silent(format!("what it says is no answer: {error}"))),
        }
    }
}
