//! What becomes of a message that is refused: an event, a letter for the dead, a line of the audit log, and the same answer
//! when it comes again.

use bus::streams::MAX_DELIVERIES;
use jiff::Timestamp;
use messages::{
    envelope::Headers,
    event::{DeadLetter, Rejected},
    query::{Refusal, RefusalKind},
    schema::Violation,
    signature,
};
use serde::Serialize;
use serde_json::json;
use store::Commit;
use uuid::Uuid;

use super::{Intake, NotNow, Raw, Verdict, context_of, flow_of, inbox_key};
use crate::{agent::Message, audit, herald::Context};

/// Bytes of JSON that the violations of one refusal may take: what is said of a message has to fit into a row.
const VIOLATIONS: usize = 24 * 1024;
/// Characters of one sentence.
const SENTENCE: usize = 1000;

impl Intake {
    /// Refuses a message for good. `message` is given where its sender is believed.
    pub(super) async fn refuse(
        &self,
        raw: &Raw,
        message: Option<&Message>,
        refusal: Refusal,
    ) -> Result<Verdict, NotNow> {
        let refusal = bounded(refusal);
        let id = raw.message_id();
        let told = Rejected {
            event_type: "rejected".into(),
            message: id.clone(),
            subject: raw.subject.clone(),
            reason: refusal.message.clone(),
            violations: refusal.violations.clone(),
        };
        let context = message.map_or_else(|| Context { cause: Some(id), ..Context::default() }, context_of);
        let mut commit = Commit::default();
        // A call has no place in a stream: what was refused and when tells two refusals apart.
        let place = format!("refused:{}:{}:{}:{}", raw.stream, raw.sequence, raw.message_id(), raw.published);
        let base = Uuid::new_v5(&Uuid::NAMESPACE_URL, place.as_bytes());
        let event = self.herald.event(Uuid::new_v5(&base, b"event"), "rejected", &context, &told);
        commit.outgoing.push(event.map_err(|failure| NotNow(failure.message))?);
        if raw.sequence > 0 {
            let letter = self.herald.dead_letter(Uuid::new_v5(&base, b"letter"), &self.letter(raw, &refusal));
            commit.outgoing.push(letter.map_err(|failure| NotNow(failure.message))?);
        }
        if let Some(message) = message {
            if let Err(reason) = self.tell_flow(message, &refusal, &mut commit) {
                tracing::error!(%reason, flow = %flow_of(message), "a flow does not hear that its message is refused");
            }
            // A message whose sender is believed is remembered, so that it is refused once.
            commit.inbox = Some(inbox_key(message));
            commit.said = Some(json!(refusal));
        }
        let key = message.and_then(|_| signature::key_end(&raw.headers));
        commit.audit.push(audit::refused(raw.claimed_source(), key, &raw.subject, &refusal));
        self.commit(commit).await?;
        if let Some(message) = message {
            self.herald.flow_changed(flow_of(message));
        }
        metrics::counter!("contractor_messages_refused_total").increment(1);
        Ok(Verdict::Refused(refusal))
    }

    /// Refuses a message that could not be taken over all its deliveries. `redeliver` takes it again.
    ///
    /// # Errors
    /// [`NotNow`] when not even that could be made durable.
    pub async fn give_up(&self, raw: &Raw, reason: &NotNow) -> Result<Verdict, NotNow> {
        let message = match self.gate.pass(raw) {
            Ok(message) => message,
            Err(stopped) => return self.refuse(raw, stopped.believed.as_deref(), stopped.refusal).await,
        };
        let text = format!("it could not be taken in {MAX_DELIVERIES} deliveries: {reason}");
        let refusal = Refusal::new(RefusalKind::Unavailable, text)
            .with_hint("mend what that says, then bring it again: `cortexctl deadletter retry SEQUENCE`");
        self.refuse(raw, Some(&message), refusal).await
    }

    /// What was wrong and where the message is. Its body stays in its stream, which fewer may read and which forgets it
    /// sooner: nobody knows what a body holds that does not validate.
    fn letter(&self, raw: &Raw, refusal: &Refusal) -> DeadLetter {
        DeadLetter {
            event_type: "dead_letter".into(),
            at: self.agent.party().to_string(),
            time: Timestamp::now(),
            subject: raw.subject.clone(),
            headers: harmless(&raw.headers),
            stream: raw.stream.clone(),
            sequence: raw.sequence,
            reason: refusal.message.clone(),
            violations: refusal.violations.clone(),
        }
    }
}

/// The refusal in a size that fits wherever it is kept or told; what is left out is counted.
fn bounded(refusal: Refusal) -> Refusal {
    let (mut kept, mut left_out, mut room) = (Vec::new(), 0_usize, VIOLATIONS);
    for violation in refusal.violations {
        let clipped = Violation {
            path: clip(violation.path),
            rule: clip(violation.rule),
            expected: clip(violation.expected),
            got: clip(violation.got),
            did_you_mean: violation.did_you_mean.map(clip),
        };
        match room.checked_sub(size(&clipped)) {
            Some(rest) if left_out == 0 => {
                room = rest;
                kept.push(clipped);
            }
            _ => left_out += 1,
        }
    }
    let mut message = clip(refusal.message);
    if left_out > 0 {
        message.push_str(&format!(" (the first {} are listed, {left_out} more are not)", kept.len()));
    }
    Refusal { kind: refusal.kind, message, hint: refusal.hint.map(clip), violations: kept }
}

fn clip(text: String) -> String {
    if text.chars().nth(SENTENCE).is_none() {
        return text;
    }
    text.chars().take(SENTENCE).chain(['…']).collect()
}

fn size(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |bytes| bytes.len())
}

/// Headers that may be shown: no signature, no reply subject.
fn harmless(headers: &Headers) -> Headers {
    let shown = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.starts_with("ce-")
            || matches!(name.as_str(), "cortex-correlation-id" | "cortex-causation-id" | "traceparent")
    };
    headers
        .iter()
        .filter(|(name, _)| shown(name))
        .map(|(name, value)| (name.clone(), value.chars().take(500).collect()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_fits_into_a_row_and_counts_what_it_leaves_out() {
        let violation = |number: usize| Violation {
            path: format!("/pools/{number}"),
            rule: "additionalProperties".to_owned(),
            expected: "x".repeat(5_000),
            got: "a string of 3 characters".to_owned(),
            did_you_mean: None,
        };
        let refusal = Refusal {
            violations: (0..400).map(violation).collect(),
            ..Refusal::new(RefusalKind::Invalid, "y".repeat(100_000))
        };
        let bounded = bounded(refusal);
        assert!(size(&bounded) < 28 * 1024, "{}", size(&bounded));
        let kept = bounded.violations.len();
        assert!(kept > 10 && bounded.violations[0].path == "/pools/0");
        assert!(bounded.message.ends_with(&format!("(the first {kept} are listed, {} more are not)", 400 - kept)));
    }
}
