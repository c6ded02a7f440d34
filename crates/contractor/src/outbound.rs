//! Publishes the outbox: signed, in order, each message until the bus has it.

use std::{sync::Arc, time::Duration};

use bus::{Bus, Outgoing, PublishError};
use futures::{StreamExt, stream};
use messages::signature;
use nkeys::KeyPair;
use store::{Lane, OutboxRow, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::intake::chain;

/// How many messages of a lane are on their way at once.
const IN_FLIGHT: usize = 32;

/// Publishes one lane of the outbox.
pub struct Publisher {
    /// Where the messages wait.
    pub store: Store,
    /// Where they go.
    pub bus: Bus,
    /// Signs them.
    pub key: Arc<KeyPair>,
    /// Which lane.
    pub lane: Lane,
    /// Why nothing is published right now; for `/healthz`.
    pub trouble: watch::Sender<Option<String>>,
}

impl Publisher {
    /// Publishes until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut head = self.store.outbox_head(self.lane);
        let mut backoff = Duration::from_millis(100);
        loop {
            head.mark_unchanged();
            let result = tokio::select! {
                () = stop.cancelled() => return,
                result = self.drain() => result,
            };
            let again = match result {
                Ok(()) => {
                    self.trouble.send_if_modified(|trouble| trouble.take().is_some());
                    backoff = Duration::from_millis(100);
                    None
                }
                Err(reason) => {
                    tracing::warn!(lane = ?self.lane, reason, "messages wait in the outbox");
                    self.trouble.send_replace(Some(format!("messages wait in the outbox: {reason}")));
                    backoff = (backoff * 2).min(Duration::from_secs(5));
                    Some(backoff)
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = head.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(again.unwrap_or(Duration::from_secs(3600))) => {}
            }
        }
    }

    /// Publishes whatever waits.
    async fn drain(&self) -> Result<(), String> {
        loop {
            let rows = self.store.reader().outbox(self.lane, 256).map_err(|error| chain(&error))?;
            if rows.is_empty() {
                return Ok(());
            }
            let width = if self.lane == Lane::Handoff { 1 } else { IN_FLIGHT };
            let mut sent =
                stream::iter(rows).map(|row| async move { (row.seq, self.publish(&row).await) }).buffered(width);
            let mut last = None;
            let mut trouble = None;
            while let Some((seq, result)) = sent.next().await {
                match result {
                    Ok(()) => last = Some(seq),
                    Err(error) if error.is_permanent() => {
                        tracing::error!(lane = ?self.lane, seq, %error, "the bus refuses a message for good");
                        self.store.park(self.lane, seq, &error.to_string()).await.map_err(|error| chain(&error))?;
                    }
                    Err(error) => {
                        trouble = Some(error.to_string());
                        break;
                    }
                }
            }
            if let Some(seq) = last {
                self.store.mark_published(self.lane, seq).await.map_err(|error| chain(&error))?;
            }
            if let Some(trouble) = trouble {
                return Err(trouble);
            }
        }
    }

    async fn publish(&self, row: &OutboxRow) -> Result<(), PublishError> {
        let mut headers = row.message.headers.clone();
        headers.insert("ce-sequence".into(), row.seq.to_string());
        let body = row.message.body.as_bytes();
        signature::sign(&self.key, &row.message.subject, &mut headers, body)
            .map_err(|error| PublishError::Invalid(error.to_string()))?;
        let message = Outgoing {
            subject: row.message.subject.clone(),
            headers,
            body: row.message.body.clone().into_bytes().into(),
        };
        self.bus.publish(&message).await?;
        metrics::counter!("contractor_messages_published_total").increment(1);
        Ok(())
    }
}
