//! Receives requests and handoffs: each delivery is answered when what it caused is durable.

use std::{pin::pin, sync::Arc, time::Duration};

use bus::{Bus, Delivery, streams::MAX_DELIVERIES};
use bytes::Bytes;
use messages::{
    envelope::header,
    query::{Accepted, Answer, Refusal, RefusalKind},
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::intake::{Intake, NotNow, Raw, Verdict};

/// How often the broker hears that a message is in hand, well below the time after which it comes again; and how often it
/// is looked whether the store has room again.
const AGAIN: Duration = Duration::from_secs(2);

/// Receives one durable consumer's messages.
pub struct Receiver {
    /// Where they come from.
    pub bus: Bus,
    /// Takes them.
    pub intake: Arc<Intake>,
    /// The stream.
    pub stream: String,
    /// The durable consumer on it.
    pub durable: String,
    /// Why nothing is received right now; for `/healthz`.
    pub trouble: watch::Sender<Option<String>>,
}

impl Receiver {
    /// Receives until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut deliveries = loop {
            match self.bus.deliveries(&self.stream, &self.durable).await {
                Ok(deliveries) => {
                    self.trouble.send_replace(None);
                    break deliveries.telling(self.trouble.clone());
                }
                Err(error) => {
                    self.trouble.send_replace(Some(error.to_string()));
                    tracing::warn!(stream = self.stream, %error, "cannot receive; trying again");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    }
                }
            }
        };
        loop {
            while self.has_no_room() {
                deliveries.let_go();
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
            let delivery = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                delivery = deliveries.next() => delivery,
            };
            let raw = Raw::from(&delivery);
            let taken = loop {
                let taken = self.take(&raw, &delivery).await;
                if taken.is_ok() || !self.has_no_room() {
                    break self.or_give_up(taken, &raw, &delivery).await;
                }
                deliveries.let_go();
                if !self.keep_in_hand(&delivery, &stop).await {
                    return;
                }
            };
            self.answer(delivery, &raw, taken).await;
        }
    }

    /// Takes a message. The broker hears that it is in hand for as long as that takes.
    async fn take(&self, raw: &Raw, delivery: &Delivery) -> Result<Verdict, NotNow> {
        let mut taking = pin!(self.intake.take(raw));
        loop {
            tokio::select! {
                taken = &mut taking => return taken,
                () = tokio::time::sleep(AGAIN) => still_at_it(delivery).await,
            }
        }
    }

    /// What did not become possible over all its deliveries is refused with the last one: the broker would give it up
    /// without a word to whoever waits for it.
    async fn or_give_up(
        &self,
        taken: Result<Verdict, NotNow>,
        raw: &Raw,
        delivery: &Delivery,
    ) -> Result<Verdict, NotNow> {
        match taken {
            Err(reason) if delivery.attempt >= u64::from(MAX_DELIVERIES) => {
                tracing::error!(subject = raw.subject, %reason, "message given up after all its deliveries");
                self.intake.give_up(raw, &reason).await
            }
            taken => taken,
        }
    }

    fn has_no_room(&self) -> bool {
        self.intake.store.short_of_room().is_some()
    }

    /// Waits until the store has room for a message that it had none for, without using up a delivery of it; false when
    /// the contractor stops before.
    async fn keep_in_hand(&self, delivery: &Delivery, stop: &CancellationToken) -> bool {
        tracing::warn!(subject = delivery.subject, "message kept in hand until the store has room");
        while self.has_no_room() {
            still_at_it(delivery).await;
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
        true
    }

    async fn answer(&self, delivery: Delivery, raw: &Raw, taken: Result<Verdict, NotNow>) {
        let answered = match &taken {
            Ok(Verdict::Accepted(accepted)) => {
                tracing::info!(subject = raw.subject, flow = %accepted.flow, duplicate = accepted.duplicate, "message accepted");
                delivery.ack().await
            }
            Ok(Verdict::AwaitsApproval { flow, .. }) => {
                tracing::info!(subject = raw.subject, %flow, "message waits for approval");
                delivery.ack().await
            }
            Ok(Verdict::Refused(refusal)) => {
                tracing::warn!(subject = raw.subject, reason = refusal.message, "message refused");
                delivery.reject(&refusal.message).await
            }
            Err(reason) => {
                tracing::warn!(subject = raw.subject, %reason, "message not taken now");
                delivery.retry_later(Duration::from_secs(2)).await
            }
        };
        if let Err(error) = answered {
            tracing::debug!(%error, "the delivery comes again");
        }
        if let Ok(verdict) = taken {
            self.reply(raw, verdict).await;
        }
    }

    /// Tells the sender, if it asked to be told and named an inbox.
    async fn reply(&self, raw: &Raw, verdict: Verdict) {
        let subject = header(&raw.headers, "cortex-reply-to").filter(|subject| subject.starts_with("cortex.reply."));
        let Some(subject) = subject else { return };
        let body = Bytes::from(answer_text(&answer(verdict)));
        if let Err(error) = self.bus.tell(subject, &Default::default(), body).await {
            tracing::debug!(%error, "the sender could not be told");
        }
    }
}

async fn still_at_it(delivery: &Delivery) {
    if let Err(error) = delivery.in_progress().await {
        tracing::debug!(%error, "the broker does not hear that the message is in hand");
    }
}

/// What a submitter is told.
pub fn answer(verdict: Verdict) -> Answer {
    match verdict {
        Verdict::Accepted(accepted) => Answer::Ok(accepted_value(&accepted)),
        Verdict::AwaitsApproval { flow, plan } => {
            Answer::Ok(json!({ "flow": flow, "awaits_approval": true, "plan": *plan }))
        }
        Verdict::Refused(refusal) => Answer::Error(refusal),
    }
}

/// An answer as bytes go out.
pub fn answer_text(answer: &Answer) -> Vec<u8> {
    serde_json::to_vec(answer).unwrap_or_else(|error| {
        let refusal = Refusal::new(RefusalKind::Unavailable, format!("the answer is not JSON: {error}"));
        serde_json::to_vec(&Answer::Error(refusal)).unwrap_or_default()
    })
}

fn accepted_value(accepted: &Accepted) -> Value {
    serde_json::to_value(accepted).unwrap_or_default()
}
