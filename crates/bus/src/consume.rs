//! Durable pull consumers: deliveries that can be answered once.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream::{
    AckKind,
    consumer::{PullConsumer, pull},
    message::Acker,
};
use bytes::Bytes;
use futures::StreamExt;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::{connect::Bus, link::Link, publish::headers_of, tail::timestamp};

/// Messages that wait here at most; more would be redelivered while they wait (reliability.md 3).
const BATCH: usize = 8;
/// A consumer that is gone, or a right to it, is missed after this time at the latest.
const EXPIRES: Duration = Duration::from_secs(10);
/// Two missed heartbeats end the pull; it is renewed.
const HEARTBEAT: Duration = Duration::from_secs(5);
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// Longest wait of a message that was put off.
const MAX_PUT_OFF: Duration = Duration::from_secs(120);
const MAX_DELAY: Duration = Duration::from_secs(5);

/// The messages of one durable consumer, for ever.
pub struct Deliveries {
    bus: Bus,
    stream: String,
    durable: String,
    pull: Option<Pull>,
    link: watch::Receiver<Link>,
    delay: Duration,
    /// Told why nothing comes, while the consumer cannot be used.
    trouble: Option<watch::Sender<Option<String>>>,
}

/// An open pull, with when its stream was made.
struct Pull {
    messages: pull::Stream,
    stream_created: Timestamp,
}

/// Why a consumer cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("consumer {durable} of stream {stream} cannot be used: {reason}")]
pub struct ConsumeError {
    /// The stream.
    pub stream: String,
    /// The consumer.
    pub durable: String,
    /// What the server said; a missing one means that `cortexctl bus init` was not run.
    pub reason: String,
}

/// An answer to a delivery could not be sent; the message comes again.
#[derive(Debug, thiserror::Error)]
#[error("the delivery could not be answered: {0}")]
pub struct AckError(String);

/// One message, to be answered once: each answer consumes it. Dropping it answers nothing, and the server sends it again
/// when its wait is over.
pub struct Delivery {
    /// Where it was published.
    pub subject: String,
    /// Its headers; of several values the first.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Bytes,
    /// The stream.
    pub stream: String,
    /// When the stream was made. A stream that was deleted and made again counts from 1 again.
    pub stream_created: Timestamp,
    /// Its place in the stream.
    pub sequence: u64,
    /// When the stream took it.
    pub published: Timestamp,
    /// From 1; more than 1 means redelivered.
    pub attempt: u64,
    client: async_nats::Client,
    reply: async_nats::Subject,
    acker: Acker,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("subject", &self.subject)
            .field("sequence", &self.sequence)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// The messages of a durable consumer, which must exist.
    pub async fn deliveries(&self, stream: &str, durable: &str) -> Result<Deliveries, ConsumeError> {
        let mut deliveries = Deliveries {
            bus: self.clone(),
            stream: stream.to_owned(),
            durable: durable.to_owned(),
            pull: None,
            link: self.link(),
            delay: FIRST_DELAY,
            trouble: None,
        };
        deliveries.pull = Some(deliveries.open().await?);
        Ok(deliveries)
    }

    /// When a stream was made.
    ///
    /// # Errors
    /// What the server said instead, in one line.
    pub async fn created(&self, stream: &str) -> Result<Timestamp, String> {
        let found = self.ask(stream, self.jetstream.get_stream(stream)).await.map_err(|error| error.to_string())?;
        timestamp(found.cached_info().created).ok_or_else(|| "the stream's time of creation is out of range".to_owned())
    }
}

impl Deliveries {
    /// Tells `trouble` why nothing comes while the consumer cannot be used, and `None` when it can again.
    #[must_use]
    pub fn telling(self, trouble: watch::Sender<Option<String>>) -> Self {
        Self { trouble: Some(trouble), ..self }
    }

    /// The next message. Waits as long as it takes, over any number of lost connections; dropping the future loses
    /// nothing.
    pub async fn next(&mut self) -> Delivery {
        loop {
            if self.pull.is_none() {
                match self.open().await {
                    Ok(pull) => {
                        self.tell(None);
                        self.pull = Some(pull);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the consumer is away, trying again");
                        self.tell(Some(error.to_string()));
                        self.pause().await;
                        continue;
                    }
                }
            }
            let Some(pull) = self.pull.as_mut() else { continue };
            // The client itself pulls again after a lost connection.
            match pull.messages.next().await {
                Some(Ok(message)) => {
                    self.delay = FIRST_DELAY;
                    // On another connection the stream may be another one, too; the message is not answered and comes again.
                    if self.link.has_changed().unwrap_or_default() {
                        self.link.mark_unchanged();
                        match self.bus.created(&self.stream).await {
                            Ok(created) => pull.stream_created = created,
                            Err(reason) => {
                                tracing::debug!(reason, durable = self.durable, "renewing the pull");
                                self.pull = None;
                                continue;
                            }
                        }
                    }
                    match delivery(&self.bus, message, pull.stream_created) {
                        Some(delivery) => return delivery,
                        None => tracing::warn!(stream = self.stream, "a message without stream data was skipped"),
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, durable = self.durable, "renewing the pull");
                    self.pull = None;
                    self.pause().await;
                }
                None => self.pull = None,
            }
        }
    }

    /// The next message if one comes within `patience`.
    pub async fn next_within(&mut self, patience: Duration) -> Option<Delivery> {
        tokio::time::timeout(patience, self.next()).await.ok()
    }

    /// Fetches nothing until [`next`](Self::next) is called again; an open pull goes on fetching by itself, and every
    /// delivery counts towards the last one. What was fetched and not handed out comes again.
    pub fn let_go(&mut self) {
        self.pull = None;
    }

    fn tell(&self, reason: Option<String>) {
        if let Some(trouble) = &self.trouble {
            trouble.send_if_modified(|told| {
                let is_news = *told != reason;
                *told = reason;
                is_news
            });
        }
    }

    async fn open(&self) -> Result<Pull, ConsumeError> {
        let failed =
            |reason: String| ConsumeError { stream: self.stream.clone(), durable: self.durable.clone(), reason };
        let stream_created = self.bus.created(&self.stream).await.map_err(failed)?;
        let found: Result<PullConsumer, _> =
            self.bus.ask(&self.stream, self.bus.jetstream.get_consumer_from_stream(&self.durable, &self.stream)).await;
        let consumer = found.map_err(|error| failed(error.to_string()))?;
        let pull = consumer.stream().max_messages_per_batch(BATCH).expires(EXPIRES).heartbeat(HEARTBEAT);
        let messages = pull.messages().await.map_err(|error| failed(error.to_string()))?;
        Ok(Pull { messages, stream_created })
    }

    async fn pause(&mut self) {
        tokio::select! {
            () = tokio::time::sleep(self.delay) => {}
            changed = self.link.changed() => if changed.is_err() { tokio::time::sleep(self.delay).await },
        }
        self.delay = (self.delay * 2).min(MAX_DELAY);
    }
}

impl Delivery {
    /// It is durable here: never send it again.
    pub async fn ack(self) -> Result<(), AckError> {
        self.acker.ack().await.map_err(|error| AckError(error.to_string()))
    }

    /// Like [`ack`](Self::ack), and waits until the server has taken that in.
    pub async fn ack_confirmed(self) -> Result<(), AckError> {
        self.acker.double_ack().await.map_err(|error| AckError(error.to_string()))
    }

    /// Send it again: after `first`, then after twice as long each time, at most two minutes, as every delivery counts
    /// towards the last one.
    pub async fn retry_later(self, first: Duration) -> Result<(), AckError> {
        let doublings = u32::try_from(self.attempt.saturating_sub(1).min(16)).unwrap_or(16);
        let delay = first.saturating_mul(2_u32.pow(doublings)).min(MAX_PUT_OFF);
        self.acker.ack_with(AckKind::Nak(Some(delay))).await.map_err(|error| AckError(error.to_string()))
    }

    /// Never send it again, it is not valid; the server tells the dead letter stream, with the reason.
    pub async fn reject(self, reason: &str) -> Result<(), AckError> {
        // The client's own `Term` takes no reason (reliability.md 3).
        let line: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
        let body = Bytes::from(format!("+TERM {line}"));
        self.client.publish(self.reply, body).await.map_err(|error| AckError(error.to_string()))
    }

    /// Still at it: the server waits for the answer from now on anew.
    pub async fn in_progress(&self) -> Result<(), AckError> {
        self.acker.ack_with(AckKind::Progress).await.map_err(|error| AckError(error.to_string()))
    }
}

fn delivery(bus: &Bus, message: async_nats::jetstream::Message, stream_created: Timestamp) -> Option<Delivery> {
    let info = message.info().ok()?;
    let (stream, sequence) = (info.stream.to_owned(), info.stream_sequence);
    let attempt = u64::try_from(info.delivered).unwrap_or(1).max(1);
    let published = timestamp(info.published)?;
    // Splitting takes the reply subject out of the message.
    let reply = message.reply.clone()?;
    let (message, acker) = message.split();
    Some(Delivery {
        subject: message.subject.to_string(),
        headers: headers_of(message.headers.as_ref()),
        body: message.payload,
        stream,
        stream_created,
        sequence,
        published,
        attempt,
        client: bus.client.clone(),
        reply,
        acker,
    })
}
