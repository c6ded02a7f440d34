//! Whom a contractor believes: pinned keys by source, freshness, and which source may send what.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use messages::{
    catalogue::{self, Family},
    envelope::{Envelope, Headers, header},
    signature,
    subject::{Party, Subject},
};

/// Commands older than this are stale: whoever asks waits for the answer.
pub const COMMAND_AGE: SignedDuration = SignedDuration::from_mins(5);

/// Pinned keys and rights.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Public nkeys by source; a source that ends in `/*` stands for everything below it.
    pub pinned: BTreeMap<String, Vec<String>>,
    /// Signed messages older than this are stale.
    pub stale_after: SignedDuration,
    /// Request types that unsigned messages may ask for.
    pub anonymous: Vec<String>,
}

/// What a signature is over.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// The subject as the message was published or the call was made.
    pub subject: &'a str,
    /// All headers.
    pub headers: &'a Headers,
    /// The raw body.
    pub body: &'a [u8],
}

/// Why a message is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// No key is pinned for the source.
    #[error("no key is pinned for source {0}")]
    UnknownSource(String),
    /// See the signature's own words.
    #[error("{0}")]
    Signature(signature::Error),
    /// It is older than messages may be.
    #[error("the message is stale: it was made at {made} and may be {limit} old")]
    Stale {
        /// Its `ce-time`.
        made: Timestamp,
        /// How old it may be.
        limit: String,
    },
    /// It claims to be from the future.
    #[error("the message was made at {0}, which is more than five minutes ahead of this clock")]
    FromTheFuture(Timestamp),
    /// The source may not send this.
    #[error("{source_name} may not send {kind} here")]
    WrongSource {
        /// `ce-source`.
        source_name: String,
        /// What it sent.
        kind: String,
    },
    /// Unsigned, and policy gives `anonymous` no right to it.
    #[error("unsigned messages may not ask for {0}")]
    Anonymous(String),
}

impl Trust {
    /// Whether the message may be acted upon.
    ///
    /// # Errors
    /// See [`Distrust`].
    pub fn check(
        &self,
        envelope: &Envelope,
        subject: &Subject,
        signed: Signed<'_>,
        now: Timestamp,
    ) -> Result<(), Distrust> {
        let pinned = self.keys_of(&envelope.source).ok_or_else(|| Distrust::UnknownSource(envelope.source.clone()))?;
        signature::verify(pinned, signed.subject, signed.headers, signed.body).map_err(Distrust::Signature)?;
        check_age(envelope.time, now, self.stale_after)?;
        Self::check_route(&envelope.source, subject)
    }

    /// Whether a command or query comes from whom it says; returns the source.
    ///
    /// # Errors
    /// See [`Distrust`].
    pub fn check_caller(&self, signed: Signed<'_>, now: Timestamp) -> Result<String, Distrust> {
        let header = |name: &str| header(signed.headers, name).unwrap_or_default();
        let source = header("ce-source");
        let pinned = self.keys_of(source).ok_or_else(|| Distrust::UnknownSource(source.to_owned()))?;
        signature::verify(pinned, signed.subject, signed.headers, signed.body).map_err(Distrust::Signature)?;
        let made = header("ce-time").parse().map_err(|_| Distrust::Signature(signature::Error::Malformed))?;
        check_age(made, now, self.stale_after.min(COMMAND_AGE))?;
        Ok(source.to_owned())
    }

    /// Whether an unsigned request may be acted upon.
    ///
    /// # Errors
    /// [`Distrust::Anonymous`].
    pub fn check_anonymous(&self, subject: &Subject) -> Result<(), Distrust> {
        let allowed = matches!(subject, Subject::Request { kind, .. } if self.anonymous.contains(kind));
        if allowed { Ok(()) } else { Err(Distrust::Anonymous(subject.kind().to_owned())) }
    }

    fn check_route(source: &str, subject: &Subject) -> Result<(), Distrust> {
        let Subject::Handoff { to, kind } = subject else { return Ok(()) };
        let givers = catalogue::find(Family::Handoff, kind)
            .into_iter()
            .flat_map(|kind| kind.routes)
            .filter(|(taker, _)| taker == to)
            .flat_map(|(_, givers)| givers.iter().copied().map(Party::source));
        if givers.into_iter().any(|giver| giver == source) {
            Ok(())
        } else {
            Err(Distrust::WrongSource { source_name: source.to_owned(), kind: kind.clone() })
        }
    }

    fn keys_of(&self, source: &str) -> Option<&[String]> {
        let exact = self.pinned.get(source);
        let below = || {
            self.pinned.iter().find_map(|(pinned, keys)| {
                let folder = pinned.strip_suffix('*')?;
                source.starts_with(folder).then_some(keys)
            })
        };
        exact.or_else(below).map(Vec::as_slice)
    }
}

fn check_age(made: Timestamp, now: Timestamp, limit: SignedDuration) -> Result<(), Distrust> {
    let age = now.duration_since(made);
    if age > limit {
        return Err(Distrust::Stale { made, limit: format!("{limit:#}") });
    }
    if age < SignedDuration::from_mins(-5) {
        return Err(Distrust::FromTheFuture(made));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use messages::{catalogue::Kind, signature::sign};
    use nkeys::KeyPair;
    use uuid::Uuid;

    use super::*;

    struct Sent {
        envelope: Envelope,
        subject: Subject,
        headers: Headers,
    }

    fn send(key: &KeyPair, source: &str, subject: &str, at: Timestamp) -> Sent {
        let subject: Subject = subject.parse().unwrap();
        let family = if matches!(subject, Subject::Handoff { .. }) { Family::Handoff } else { Family::Request };
        let kind: &Kind = catalogue::find(family, subject.kind()).unwrap();
        let envelope = Envelope::new(Uuid::from_u128(1), source, kind, at);
        let mut headers = envelope.headers();
        sign(key, &subject.to_string(), &mut headers, b"{}").unwrap();
        Sent { envelope, subject, headers }
    }

    #[test]
    fn only_pinned_fresh_and_entitled_senders_are_believed() {
        let (talos, operator, stranger) = (KeyPair::new_user(), KeyPair::new_user(), KeyPair::new_user());
        let trust = Trust {
            pinned: [("/talos".into(), vec![talos.public_key()]), ("/operator/*".into(), vec![operator.public_key()])]
                .into(),
            stale_after: SignedDuration::from_hours(1),
            anonymous: vec!["scale_request".into()],
        };
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let ready = "cortex.handoff.infrastructure.cluster_ready";
        let ask = "cortex.request.infrastructure.scale_request";
        let old = now - SignedDuration::from_hours(2);
        let cases: [(&KeyPair, &str, &str, Timestamp, Option<&str>); 7] = [
            (&talos, "/talos", ready, now, None),
            (&operator, "/operator/ada", ask, now, None),
            (&stranger, "/talos", ready, now, Some("the key in cortex-key is not pinned for this source")),
            (&operator, "/operator/ada", ready, now, Some("/operator/ada may not send cluster_ready here")),
            (&stranger, "/nobody", ask, now, Some("no key is pinned for source /nobody")),
            (
                &talos,
                "/talos",
                ready,
                old,
                Some("the message is stale: it was made at 2027-01-15T06:00:00Z and may be 1h old"),
            ),
            (
                &talos,
                "/talos",
                ready,
                now + SignedDuration::from_hours(1),
                Some(
                    "the message was made at 2027-01-15T09:00:00Z, which is more than five minutes ahead of this clock",
                ),
            ),
        ];
        for (key, source, subject, at, expected) in cases {
            let sent = send(key, source, subject, at);
            let signed = Signed { subject, headers: &sent.headers, body: b"{}" };
            let found = trust.check(&sent.envelope, &sent.subject, signed, now);
            assert_eq!(found.err().map(|error| error.to_string()).as_deref(), expected, "{source} {subject}");
        }
        assert_eq!(trust.check_anonymous(&ask.parse().unwrap()), Ok(()));
        assert!(trust.check_anonymous(&ready.parse().unwrap()).is_err());
    }
}
