//! Publishing into a stream, with an id and an awaited ack.

use std::{collections::BTreeMap, sync::Arc};

use async_nats::jetstream::{self, context::PublishErrorKind, message::PublishMessage};
use bytes::Bytes;
use tokio::sync::broadcast;

use crate::{connect::Bus, link::Violation};

/// The header by which the server recognises a message that it has already.
pub(crate) const MESSAGE_ID: &str = "Nats-Msg-Id";

/// A message to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where it goes.
    pub subject: String,
    /// Its headers; `Nats-Msg-Id` must be among them, or publishing again would store it again.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Bytes,
}

/// The stream has it, on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The stream.
    pub stream: String,
    /// Its place in the stream.
    pub sequence: u64,
    /// Whether the stream had it already.
    pub duplicate: bool,
}

/// Why a message is not known to be in a stream.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No ack came. It may be in the stream: publish it again, with the same id.
    #[error("no acknowledgement: {0}")]
    Unknown(String),
    /// The stream takes no more (full disk or quota); nothing was stored.
    #[error("the stream takes no more: {0}")]
    Full(String),
    /// No stream takes the subject: `cortexctl bus init` was not run.
    #[error("no stream takes subject {0}")]
    NoStream(String),
    /// This identity may not publish there: configuration.
    #[error("the bus refuses subject {} to this identity: {}", .0.subject, .0.text)]
    Forbidden(Arc<Violation>),
    /// It is larger than server or stream allow; will not change.
    #[error("the message is too large: {0}")]
    TooLarge(String),
    /// It can never be published as it is.
    #[error("not a message: {0}")]
    Invalid(String),
    /// Anything else; publish it again later.
    #[error("not published: {0}")]
    Other(String),
}

impl PublishError {
    /// Whether publishing the same message again can never succeed: it must be taken out of the way.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::TooLarge(_) | Self::Invalid(_))
    }
}

impl Bus {
    /// Publishes and waits for the ack, which comes after the server's fsync. Publishing twice stores once, as long as
    /// the server's duplicate window lasts.
    pub async fn publish(&self, message: &Outgoing) -> Result<Published, PublishError> {
        if !message.headers.keys().any(|name| name.eq_ignore_ascii_case(MESSAGE_ID)) {
            return Err(PublishError::Invalid(format!("it has no {MESSAGE_ID}")));
        }
        let headers = header_map(&message.headers)?;
        let publish = PublishMessage::build().payload(message.body.clone()).headers(headers);
        let mut violations = self.violations();
        let send = async {
            let ack = self.jetstream.send_publish(message.subject.clone(), publish).await?;
            ack.await
        };
        tokio::select! {
            acked = send => match acked {
                Ok(ack) => Ok(Published { stream: ack.stream, sequence: ack.sequence, duplicate: ack.duplicate }),
                Err(error) => Err(classify(&message.subject, &error)),
            },
            violation = refused(&mut violations, &message.subject) => Err(PublishError::Forbidden(violation)),
        }
    }
}

/// Resolves when the server refuses `subject`: the client itself would only see a timeout (reliability.md 2.4).
pub(crate) async fn refused(violations: &mut broadcast::Receiver<Arc<Violation>>, subject: &str) -> Arc<Violation> {
    refused_where(violations, |refused| refused == subject).await
}

/// Resolves when the server refuses a subject that `is_ours`.
pub(crate) async fn refused_where(
    violations: &mut broadcast::Receiver<Arc<Violation>>,
    is_ours: impl Fn(&str) -> bool,
) -> Arc<Violation> {
    loop {
        match violations.recv().await {
            Ok(violation) if violation.verb == "publish" && is_ours(&violation.subject) => return violation,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

pub(crate) fn header_map(headers: &BTreeMap<String, String>) -> Result<async_nats::HeaderMap, PublishError> {
    let mut map = async_nats::HeaderMap::new();
    for (name, value) in headers {
        let invalid = || PublishError::Invalid(format!("header {name} cannot be sent"));
        let header: async_nats::HeaderName = name.parse().map_err(|_| invalid())?;
        let value: async_nats::HeaderValue = value.parse().map_err(|_| invalid())?;
        map.insert(header, value);
    }
    Ok(map)
}

/// Headers by name; of several values the first counts.
pub(crate) fn headers_of(map: Option<&async_nats::HeaderMap>) -> BTreeMap<String, String> {
    let all = map.into_iter().flat_map(async_nats::HeaderMap::iter);
    all.filter_map(|(name, values)| Some((name.to_string(), values.first()?.as_str().to_owned()))).collect()
}

fn classify(subject: &str, error: &jetstream::context::PublishError) -> PublishError {
    let text = error.to_string();
    match error.kind() {
        PublishErrorKind::StreamNotFound => PublishError::NoStream(subject.to_owned()),
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe | PublishErrorKind::MaxAckPending => {
            PublishError::Unknown(text)
        }
        PublishErrorKind::MaxPayloadExceeded => PublishError::TooLarge(text),
        _ => {
            let source = std::error::Error::source(error);
            let code = source.and_then(|source| source.downcast_ref::<jetstream::Error>()).map(|error| error.code());
            // Server error codes: 10054 message size exceeds maximum; 10077 stream store failed (maximum bytes or
            // messages exceeded); 10023 insufficient resources; 10047 no storage left.
            match error_code(source) {
                Some(10_054) => PublishError::TooLarge(text),
                Some(10_023 | 10_047 | 10_077) => PublishError::Full(text),
                _ if code == Some(503) => PublishError::Full(text),
                _ => PublishError::Other(text),
            }
        }
    }
}

fn error_code(source: Option<&(dyn std::error::Error + 'static)>) -> Option<u64> {
    source.and_then(|source| source.downcast_ref::<jetstream::Error>()).map(|error| error.error_code().0)
}
