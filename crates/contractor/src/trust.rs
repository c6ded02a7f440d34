//! Whom a contractor believes: pinned keys by source, freshness, and which source may send what.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use messages::{
    catalogue::{self, Family},
    envelope::{Envelope, Headers, header},
    service::Service,
    signature,
    subject::{Party, Subject},
};

/// Commands older than this are stale: whoever asks waits for the answer.
pub const COMMAND_AGE: SignedDuration = SignedDuration::from_mins(5);
/// How far a sender's clock may be ahead of ours.
pub const AHEAD: SignedDuration = SignedDuration::from_mins(5);

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

/// Who asks, as a signature proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// `ce-source`.
    pub source: String,
    /// The last 8 characters of the key that signed.
    pub key: String,
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
    /// The source may not give this command.
    #[error("{source_name} may not give the command {command}; {givers} may")]
    NotEntitled {
        /// `ce-source`.
        source_name: String,
        /// The command's name.
        command: &'static str,
        /// Who may.
        givers: String,
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

    /// Whether a command or query comes from whom it says, and from somebody who may give it.
    ///
    /// # Errors
    /// See [`Distrust`].
    pub fn check_caller(&self, signed: Signed<'_>, service: &Service, now: Timestamp) -> Result<Caller, Distrust> {
        let header = |name: &str| header(signed.headers, name).unwrap_or_default();
        let source = header("ce-source").to_owned();
        let pinned = self.keys_of(&source).ok_or_else(|| Distrust::UnknownSource(source.clone()))?;
        signature::verify(pinned, signed.subject, signed.headers, signed.body).map_err(Distrust::Signature)?;
        let made = header("ce-time").parse().map_err(|_| Distrust::Signature(signature::Error::Malformed))?;
        check_age(made, now, self.stale_after.min(COMMAND_AGE))?;
        if !service.may_come_from(&source) {
            let givers = service.givers.join(", ");
            return Err(Distrust::NotEntitled { source_name: source, command: service.name, givers });
        }
        Ok(Caller { source, key: signature::key_end(signed.headers).unwrap_or_default() })
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

    /// The entry of the pinned keys that a source falls under.
    pub fn root_of(&self, source: &str) -> Option<&str> {
        self.entry_of(source).map(|(root, _)| root)
    }

    fn keys_of(&self, source: &str) -> Option<&[String]> {
        self.entry_of(source).map(|(_, keys)| keys)
    }

    fn entry_of(&self, source: &str) -> Option<(&str, &[String])> {
        let exact = self.pinned.get_key_value(source);
        let is_above = |pinned: &str| pinned.strip_suffix('*').is_some_and(|folder| source.starts_with(folder));
        let found = exact.or_else(|| self.pinned.iter().find(|(pinned, _)| is_above(pinned)));
        found.map(|(pinned, keys)| (pinned.as_str(), keys.as_slice()))
    }
}

fn check_age(made: Timestamp, now: Timestamp, limit: SignedDuration) -> Result<(), Distrust> {
    let age = now.duration_since(made);
    if age > limit {
        return Err(Distrust::Stale { made, limit: format!("{limit:#}") });
    }
    if age < -AHEAD {
        return Err(Distrust::FromTheFuture(made));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use messages::{catalogue::Kind, service, signature::sign};
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

    #[test]
    fn a_command_is_taken_from_who_may_give_it_and_nobody_else() {
        let (operator, coordinator) = (KeyPair::new_user(), KeyPair::new_user());
        let trust = Trust {
            pinned: [
                ("/operator/*".into(), vec![operator.public_key()]),
                ("/coordinator/*".into(), vec![coordinator.public_key()]),
            ]
            .into(),
            stale_after: SignedDuration::from_hours(1),
            anonymous: Vec::new(),
        };
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let check = |key: &KeyPair, source: &str, name: &str, reads: bool| {
            let service = service::find(Party::Talos, name, reads).unwrap();
            let subject = service.subject(Party::Talos);
            let mut headers =
                Headers::from([("ce-source".to_owned(), source.to_owned()), ("ce-time".to_owned(), now.to_string())]);
            sign(key, &subject, &mut headers, b"{}").unwrap();
            let signed = Signed { subject: &subject, headers: &headers, body: b"{}" };
            trust.check_caller(signed, service, now).map_err(|error| error.to_string())
        };
        let key = operator.public_key()[48..].to_owned();
        let ada = Caller { source: "/operator/ada".into(), key };
        assert_eq!(check(&operator, "/operator/ada", "kubeconfig", false), Ok(ada));
        for name in ["approve", "kubeconfig", "talosconfig", "redeliver", "store.export", "flows.cancel"] {
            let why = format!("/coordinator/cortex may not give the command {name}; /operator/* may");
            assert_eq!(check(&coordinator, "/coordinator/cortex", name, false), Err(why));
        }
        assert!(check(&coordinator, "/coordinator/cortex", "clusters.list", true).is_ok());
        assert_eq!(trust.root_of("/operator/ada"), Some("/operator/*"));
        assert_eq!(trust.root_of("/operators/ada"), None);
    }
}
