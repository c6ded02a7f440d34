//! Takes a message again that the bus gave up: an operator brings it, its sender's signature still counts.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use messages::{
    envelope::Headers,
    query::{Answer, Refusal, RefusalKind},
};
use serde_json::Value;

use super::{Desk, argument};
use crate::{agent::Asked, inbound::answer, intake::Raw};

impl Desk {
    /// Whether it was stale is asked of the time at which the stream took it: since then it lay there.
    pub(super) async fn redeliver(&self, asked: &Asked) -> Result<Value, Refusal> {
        let subject: String = argument(asked, "subject")?;
        let headers: Headers = argument(asked, "headers")?;
        let body: String = argument(asked, "body")?;
        let published: Timestamp = argument(asked, "published")?;
        let body = BASE64_STANDARD
            .decode(body)
            .map_err(|error| Refusal::new(RefusalKind::Invalid, format!("argument `body`: {error}")))?;
        let stream: String = argument(asked, "stream")?;
        let stream_created = self.bus.created(&stream).await;
        let stream_created = stream_created.map_err(|reason| Refusal::new(RefusalKind::Unavailable, reason))?;
        let raw = Raw {
            signed_subject: subject.clone(),
            subject,
            headers,
            body: body.into(),
            stream,
            stream_created,
            sequence: argument(asked, "sequence")?,
            published,
            judged_at: published,
        };
        tracing::info!(subject = raw.subject, message = raw.message_id(), by = asked.by, "message taken again");
        let verdict = self.intake.take_again(&raw).await;
        let verdict = verdict.map_err(|reason| Refusal::new(RefusalKind::Unavailable, reason.to_string()))?;
        match answer(verdict) {
            Answer::Ok(told) => Ok(told),
            Answer::Error(refusal) => Err(refusal),
        }
    }
}
