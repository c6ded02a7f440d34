//! Reading a stream from any point on, without a durable consumer: event tail, dead letters.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream::{
    self,
    consumer::{DeliverPolicy, pull},
};
use bytes::Bytes;
use futures::StreamExt;
use jiff::Timestamp;

use crate::{api::Unanswered, connect::Bus, publish::headers_of};

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailFrom {
    /// With the oldest message that the stream holds.
    Start,
    /// With what comes from now on.
    Now,
    /// With this stream sequence.
    Sequence(u64),
    /// With the first message at or after this time.
    Time(Timestamp),
}

/// A message as a stream recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Where it was published.
    pub subject: String,
    /// Its headers.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Bytes,
    /// Its place in the stream; resume with the next.
    pub sequence: u64,
    /// When the stream took it.
    pub published: Timestamp,
    /// How many follow it now; 0 means that the end is reached. Not known for a single fetch.
    pub pending: u64,
}

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// There is no such message.
    #[error("stream {stream} has no message {sequence}")]
    NotFound {
        /// The stream.
        stream: String,
        /// The sequence.
        sequence: u64,
    },
    /// Anything else.
    #[error("stream {stream} cannot be read: {reason}")]
    Other {
        /// The stream.
        stream: String,
        /// What the server said.
        reason: String,
    },
}

/// A stream being read.
pub struct Tail {
    stream: String,
    /// How many messages there were to read when it began; 0 means that it began at the end.
    pub pending: u64,
    messages: pull::Ordered,
}

impl Bus {
    /// Reads `stream` in order, over lost connections; `filters` are subjects with wildcards, none means all.
    pub async fn tail(&self, stream: &str, from: TailFrom, filters: &[String]) -> Result<Tail, TailError> {
        let failed = |reason: String| TailError::Other { stream: stream.to_owned(), reason };
        let config = pull::OrderedConfig {
            deliver_policy: match from {
                TailFrom::Start => DeliverPolicy::All,
                TailFrom::Now => DeliverPolicy::New,
                TailFrom::Sequence(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence },
                TailFrom::Time(time) => DeliverPolicy::ByStartTime { start_time: date_time(time).map_err(failed)? },
            },
            filter_subjects: filters.to_vec(),
            ..pull::OrderedConfig::default()
        };
        let created = self.ask(stream, self.jetstream.create_consumer_on_stream(config, stream)).await;
        let consumer = created.map_err(|error| failed(error.to_string()))?;
        let pending = consumer.cached_info().num_pending;
        let messages = consumer.messages().await.map_err(|error| failed(error.to_string()))?;
        Ok(Tail { stream: stream.to_owned(), pending, messages })
    }

    /// One message of a stream by its sequence.
    pub async fn fetch(&self, stream: &str, sequence: u64) -> Result<Recorded, TailError> {
        let failed = |reason: String| TailError::Other { stream: stream.to_owned(), reason };
        let handle = self.jetstream.get_stream_no_info(stream).await.map_err(|error| failed(error.to_string()))?;
        let message = self.ask(stream, handle.direct_get(sequence)).await.map_err(|error| match error {
            Unanswered::Failed(error) if error.kind() == jetstream::stream::DirectGetErrorKind::NotFound => {
                TailError::NotFound { stream: stream.to_owned(), sequence }
            }
            other => failed(other.to_string()),
        })?;
        Ok(Recorded {
            subject: message.subject.to_string(),
            headers: headers_of(Some(&message.headers)),
            body: message.payload,
            sequence: message.sequence,
            published: timestamp(message.time).ok_or_else(|| failed("its time is out of range".to_owned()))?,
            pending: 0,
        })
    }
}

impl Tail {
    /// The next message; waits for it.
    pub async fn next(&mut self) -> Result<Recorded, TailError> {
        let failed = |reason: &str| TailError::Other { stream: self.stream.clone(), reason: reason.to_owned() };
        let message = match self.messages.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(failed(&error.to_string())),
            None => return Err(failed("it ended")),
        };
        let info = message.info().map_err(|error| failed(&error.to_string()))?;
        let published = timestamp(info.published).ok_or_else(|| failed("a time is out of range"))?;
        Ok(Recorded {
            subject: message.subject.to_string(),
            headers: headers_of(message.headers.as_ref()),
            sequence: info.stream_sequence,
            published,
            pending: info.pending,
            body: message.payload.clone(),
        })
    }

    /// The next message if one comes within `patience`.
    pub async fn next_within(&mut self, patience: Duration) -> Result<Option<Recorded>, TailError> {
        tokio::time::timeout(patience, self.next()).await.map_or(Ok(None), |next| next.map(Some))
    }
}

pub(crate) fn timestamp(time: async_nats::datetime::DateTime) -> Option<Timestamp> {
    Timestamp::from_nanosecond(time.unix_timestamp_nanos()).ok()
}

fn date_time(time: Timestamp) -> Result<async_nats::datetime::DateTime, String> {
    async_nats::datetime::DateTime::from_unix_timestamp_nanos(time.as_nanosecond()).map_err(|error| error.to_string())
}
