//! The envelope: CloudEvents 1.0 in binary mode, as NATS headers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use uuid::Uuid;

use crate::{catalogue::Kind, name::ClusterName, subject::Subject};

/// Who sent what, when, about what, because of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// `ce-id`, unique per source. What we send is a UUID.
    pub id: String,
    /// `ce-source`: `/infrastructure`, `/talos`, `/mcp`, `/operator/<name>`, …
    pub source: String,
    /// `ce-type`: `cortex.handoff.vm_provisioned.v1`.
    pub kind: String,
    /// `ce-time`.
    pub time: Timestamp,
    /// `ce-subject`: the cluster.
    pub cluster: Option<ClusterName>,
    /// `ce-dataschema`.
    pub dataschema: Option<String>,
    /// `ce-sequence`: rises per source and cluster.
    pub sequence: Option<u64>,
    /// `cortex-correlation-id`: the flow.
    pub correlation: Option<Uuid>,
    /// `cortex-causation-id`: `ce-source/ce-id` of the message that caused this one.
    pub causation: Option<String>,
    /// `cortex-reply-to`: where the sender wants to be told that the request was accepted or rejected.
    pub reply_to: Option<String>,
    /// `traceparent` (W3C).
    pub traceparent: Option<String>,
}

/// Why headers are not an envelope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A header that must be there is not.
    #[error("header {0} is missing")]
    Missing(&'static str),
    /// A header has another shape.
    #[error("header {name} must be {expected}")]
    Malformed {
        /// Its name.
        name: &'static str,
        /// What would be right.
        expected: &'static str,
    },
    /// `ce-type` says another message than the subject.
    #[error("ce-type must be {expected} on this subject")]
    OtherType {
        /// What would be right.
        expected: String,
    },
}

/// Bytes of `ce-source` and of `ce-id`.
const LONGEST_NAME: usize = 256;

/// Headers by lower-case name. Values are as on the wire.
pub type Headers = BTreeMap<String, String>;

/// A header's value as on the wire; case does not matter in its name.
pub fn header<'h>(headers: &'h Headers, name: &str) -> Option<&'h str> {
    headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// The trace id of a W3C `traceparent` of version 00, 32 hex digits; `None` where it is not one.
fn trace_of(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.split('-');
    let (version, trace, span, _flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length: usize| {
        text.len() == length
            && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && text.bytes().any(|byte| byte != b'0')
    };
    (version == "00" && is_hex(trace, 32) && is_hex(span, 16)).then_some(trace)
}

impl Envelope {
    /// The trace that the message is part of, as 32 hex digits, if its sender follows one.
    pub fn trace(&self) -> Option<&str> {
        self.traceparent.as_deref().and_then(trace_of)
    }

    /// Makes the message a span of its own in `trace`, or in the trace that every message of its flow is in.
    pub fn follow(&mut self, trace: Option<&str>) {
        let of_flow = || self.correlation.map(|flow| flow.simple().to_string());
        let Some(trace) = trace.map(str::to_owned).or_else(of_flow) else { return };
        let span = Uuid::new_v5(&Uuid::NAMESPACE_OID, self.message_id().as_bytes()).simple().to_string();
        self.traceparent = Some(format!("00-{trace}-{}-01", &span[..16]));
    }

    /// The envelope of a message that begins a flow or tells of one.
    pub fn new(id: Uuid, source: impl Into<String>, kind: &Kind, time: Timestamp) -> Self {
        Self {
            id: id.to_string(),
            source: source.into(),
            kind: kind.ce_type(),
            time,
            cluster: None,
            dataschema: Some(kind.schema_id()),
            sequence: None,
            correlation: None,
            causation: None,
            reply_to: None,
            traceparent: None,
        }
    }

    /// `ce-source/ce-id`: unique in the system, used as `Nats-Msg-Id` and for deduplication.
    pub fn message_id(&self) -> String {
        format!("{}/{}", self.source, self.id)
    }

    /// The headers, `Nats-Msg-Id` included; values percent-encoded as the CloudEvents NATS binding asks.
    pub fn headers(&self) -> Headers {
        let mut headers = Headers::new();
        let mut put = |name: &str, value: &str| {
            headers.insert(name.to_owned(), encode(value));
        };
        put("ce-specversion", "1.0");
        put("ce-id", &self.id);
        put("ce-source", &self.source);
        put("ce-type", &self.kind);
        put("ce-time", &self.time.to_string());
        put("content-type", "application/json");
        let optional = [
            ("ce-subject", self.cluster.as_ref().map(ToString::to_string)),
            ("ce-dataschema", self.dataschema.clone()),
            ("ce-sequence", self.sequence.map(|sequence| sequence.to_string())),
            ("cortex-correlation-id", self.correlation.map(|flow| flow.to_string())),
            ("cortex-causation-id", self.causation.clone()),
            ("cortex-reply-to", self.reply_to.clone()),
            ("traceparent", self.traceparent.clone()),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                put(name, &value);
            }
        }
        headers.insert("Nats-Msg-Id".into(), self.message_id());
        headers
    }

    /// Reads an envelope and compares its type with the subject's.
    ///
    /// # Errors
    /// The first header that is missing or malformed.
    pub fn parse(headers: &Headers, subject: &Subject) -> Result<Self, Error> {
        let raw = |name: &str| header(headers, name).map(decode);
        let required = |name: &'static str| raw(name).filter(|value| !value.is_empty()).ok_or(Error::Missing(name));
        if required("ce-specversion")? != "1.0" {
            return Err(Error::Malformed { name: "ce-specversion", expected: "1.0" });
        }
        let kind = required("ce-type")?;
        if kind != subject.ce_type() {
            return Err(Error::OtherType { expected: subject.ce_type() });
        }
        let source = required("ce-source")?;
        // Both become keys and are told to others: a longer one would fit into no record of its refusal.
        if !source.starts_with('/') || source.len() > LONGEST_NAME {
            let expected = "a path such as /operator/ada, at most 256 bytes";
            return Err(Error::Malformed { name: "ce-source", expected });
        }
        let id = required("ce-id")?;
        if id.len() > LONGEST_NAME {
            return Err(Error::Malformed { name: "ce-id", expected: "at most 256 bytes, such as a UUID" });
        }
        Ok(Self {
            id,
            source,
            kind,
            time: required("ce-time")?
                .parse()
                .map_err(|_| Error::Malformed { name: "ce-time", expected: "an RFC 3339 time" })?,
            cluster: parsed(raw("ce-subject"), "ce-subject", "a cluster name")?,
            dataschema: raw("ce-dataschema"),
            sequence: parsed(raw("ce-sequence"), "ce-sequence", "a whole number")?,
            correlation: parsed(raw("cortex-correlation-id"), "cortex-correlation-id", "a UUID")?,
            causation: raw("cortex-causation-id"),
            reply_to: raw("cortex-reply-to"),
            traceparent: raw("traceparent"),
        })
    }
}

fn parsed<T: std::str::FromStr>(
    value: Option<String>,
    name: &'static str,
    expected: &'static str,
) -> Result<Option<T>, Error> {
    value.map(|value| value.parse().map_err(|_| Error::Malformed { name, expected })).transpose()
}

/// Percent-encodes space, `"`, `%`, control characters and everything beyond ASCII (CloudEvents NATS binding 3.1.3.2).
fn encode(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'"' | b'%' | 0..=b' ' | 0x7f.. => encoded.push_str(&format!("%{byte:02X}")),
            _ => encoded.push(char::from(byte)),
        }
    }
    encoded
}

fn decode(value: &str) -> String {
    let bytes = value.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex =
            value.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(hex.unwrap_or(bytes[at]));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{self, Family};

    fn sample() -> (Envelope, Subject) {
        let kind = catalogue::find(Family::Handoff, "vm_provisioned").unwrap();
        let mut envelope = Envelope::new(Uuid::from_u128(7), "/infrastructure", kind, Timestamp::UNIX_EPOCH);
        envelope.cluster = Some("prod-k8s".parse().unwrap());
        envelope.causation = Some("/operator/Ada Lovelace, 100 %/ü".into());
        (envelope, "cortex.handoff.talos.vm_provisioned".parse().unwrap())
    }

    #[test]
    fn envelopes_round_trip_through_headers() {
        let (envelope, subject) = sample();
        let headers = envelope.headers();
        assert_eq!(headers["Nats-Msg-Id"], "/infrastructure/00000000-0000-0000-0000-000000000007");
        assert!(headers.values().all(|value| value.is_ascii() && !value.contains(' ')));
        assert_eq!(Envelope::parse(&headers, &subject).unwrap(), envelope);
    }

    #[test]
    fn a_type_that_is_not_the_subjects_is_refused() {
        let (envelope, _) = sample();
        let other = "cortex.handoff.infrastructure.cluster_ready".parse().unwrap();
        let error = Envelope::parse(&envelope.headers(), &other).unwrap_err();
        assert_eq!(error.to_string(), "ce-type must be cortex.handoff.cluster_ready.v1 on this subject");
    }
}
