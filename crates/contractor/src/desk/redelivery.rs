//! Takes a handoff again that the bus gave up: an operator names its place, its sender's signature still counts.

use bus::{TailError, streams};
use jiff::Timestamp;
use messages::{
    envelope::header,
    query::{Answer, Refusal, RefusalKind},
};
use serde_json::Value;

use super::{Desk, argument};
use crate::{agent::Asked, inbound::answer, intake::Raw};

impl Desk {
    /// Whether it was stale is asked of the time at which the stream took it: since then it lay there. Message and time come
    /// from the stream and not from whoever asks, who could else have any old message pass for a fresh one.
    pub(super) async fn redeliver(&self, asked: &Asked) -> Result<Value, Refusal> {
        let unavailable = |reason: String| Refusal::new(RefusalKind::Unavailable, reason);
        let found = self.bus.fetch(streams::HANDOFFS, argument(asked, "sequence")?).await;
        let found = found.map_err(|error| match error {
            TailError::NotFound { .. } => Refusal::new(RefusalKind::NotFound, error.to_string()),
            TailError::Other { .. } => unavailable(error.to_string()),
        })?;
        let stream_created = self.bus.created(streams::HANDOFFS).await.map_err(unavailable)?;
        let raw = Raw {
            signed_subject: found.subject.clone(),
            subject: found.subject,
            headers: found.headers,
            body: found.body,
            stream: streams::HANDOFFS.to_owned(),
            stream_created,
            sequence: found.sequence,
            published: found.published,
            judged_at: found.published,
        };
        self.is_remembered(&raw)?;
        tracing::info!(subject = raw.subject, message = raw.message_id(), by = asked.by, "message taken again");
        let verdict = self.intake.take_again(&raw).await.map_err(|reason| unavailable(reason.to_string()))?;
        match answer(verdict) {
            Answer::Ok(told) => Ok(told),
            Answer::Error(refusal) => Err(refusal),
        }
    }

    /// A message that is older than what the inbox remembers may have been taken and done.
    fn is_remembered(&self, raw: &Raw) -> Result<(), Refusal> {
        let made = header(&raw.headers, "ce-time").and_then(|time| time.parse::<Timestamp>().ok());
        match made.filter(|made| Timestamp::now().duration_since(*made) > self.remembers) {
            None => Ok(()),
            Some(made) => {
                let text = format!("the handoff was made at {made}: whether it was taken then is no longer remembered");
                Err(Refusal::new(RefusalKind::Forbidden, text).with_hint("its sender must hand it over anew"))
            }
        }
    }
}
