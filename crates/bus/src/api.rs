//! Calls of the server's own API, where a missing permission would else look like a server that is slow.

use std::sync::Arc;

use crate::{connect::Bus, link::Violation, publish::refused_where};

/// Why a call of the server's API came to nothing.
#[derive(Debug)]
pub(crate) enum Unanswered<E> {
    /// This identity may not ask that.
    Refused(Arc<Violation>),
    /// The server said no, or nothing.
    Failed(E),
}

impl<E: std::fmt::Display> std::fmt::Display for Unanswered<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(violation) => {
                write!(f, "the bus refuses subject {} to this identity: {}", violation.subject, violation.text)
            }
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl Bus {
    /// Makes a call that is about `stream` (empty: about the account), and hears when the server refuses it.
    pub(crate) async fn ask<T, E>(
        &self,
        stream: &str,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Unanswered<E>> {
        let mut violations = self.violations();
        let is_ours = |subject: &str| {
            let about = |token: &str| stream.is_empty() || token == stream;
            subject.strip_prefix("$JS.API.").is_some_and(|rest| rest.split('.').any(about))
        };
        tokio::select! {
            answer = call => answer.map_err(Unanswered::Failed),
            violation = refused_where(&mut violations, is_ours) => Err(Unanswered::Refused(violation)),
        }
    }
}
