//! The first look at a message: is it one, from whom, and does it validate?

use bus::Delivery;
use bytes::Bytes;
use jiff::Timestamp;
use messages::{
    catalogue::{self, Family},
    envelope::{Envelope, Headers, header},
    json,
    query::{Refusal, RefusalKind},
    schema::{self, Violation},
    subject::{Party, Subject},
};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    agent::Message,
    trust::{Signed, Trust},
};

/// A message as it came.
#[derive(Clone, Debug)]
pub struct Raw {
    /// The message's subject.
    pub subject: String,
    /// The subject that its signature is over: the same, or that of the service that was called.
    pub signed_subject: String,
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub body: Bytes,
    /// The stream that it came from; empty for a call.
    pub stream: String,
    /// When that stream was made.
    pub stream_created: Timestamp,
    /// Its place there; 0 for a call.
    pub sequence: u64,
    /// When the stream took it, or the call came.
    pub published: Timestamp,
    /// The time by which its age is judged: now, unless an operator brings it again.
    pub judged_at: Timestamp,
}

impl From<&Delivery> for Raw {
    /// A message that a stream delivered, judged now.
    fn from(delivery: &Delivery) -> Self {
        Self {
            subject: delivery.subject.clone(),
            signed_subject: delivery.subject.clone(),
            headers: delivery.headers.clone(),
            body: delivery.body.clone(),
            stream: delivery.stream.clone(),
            stream_created: delivery.stream_created,
            sequence: delivery.sequence,
            published: delivery.published,
            judged_at: Timestamp::now(),
        }
    }
}

impl Raw {
    /// `ce-source/ce-id`, as far as the headers say; else its place in the stream.
    pub fn message_id(&self) -> String {
        match (self.claimed_source(), self.shortened("ce-id")) {
            (Some(source), Some(id)) => format!("{source}/{id}"),
            _ => format!("{}:{}", self.stream, self.sequence),
        }
    }

    /// Who the headers say sent it; nobody has proven that yet.
    pub fn claimed_source(&self) -> Option<String> {
        self.shortened("ce-source")
    }

    /// A header, cut to a length that fits into every record.
    fn shortened(&self, name: &str) -> Option<String> {
        header(&self.headers, name).map(|value| value.chars().take(200).collect())
    }
}

/// Reads, believes and validates messages for one contractor.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Whose messages.
    pub party: Party,
    /// Whom to believe.
    pub trust: Trust,
}

/// A message that did not pass.
#[derive(Debug)]
pub struct Stopped {
    /// Why, with every violation.
    pub refusal: Refusal,
    /// The message, where its sender is believed and only what it says is refused.
    pub believed: Option<Box<Message>>,
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, believed: None }
    }
}

impl Gate {
    /// Lets a message pass.
    ///
    /// # Errors
    /// See [`Stopped`].
    pub fn pass(&self, raw: &Raw) -> Result<Message, Stopped> {
        let invalid = |text: String| Refusal::new(RefusalKind::Invalid, text);
        let subject: Subject = raw.subject.parse().map_err(|error| invalid(format!("{error}")))?;
        let (family, to) = match &subject {
            Subject::Request { to, .. } => (Family::Request, *to),
            Subject::Handoff { to, .. } => (Family::Handoff, *to),
            Subject::Event { .. } | Subject::DeadLetter { .. } => {
                return Err(invalid("only requests and handoffs are taken".into()).into());
            }
        };
        let name = subject.kind().to_owned();
        let kind = catalogue::find(family, &name).filter(|kind| kind.routes.iter().any(|(taker, _)| *taker == to));
        if to != self.party || kind.is_none() {
            let known = catalogue::all()
                .iter()
                .filter(|kind| kind.family == family && kind.routes.iter().any(|(taker, _)| *taker == self.party));
            let known: Vec<&str> = known.map(|kind| kind.name).collect();
            let refusal = invalid(format!("{} takes no {} {name}", self.party, family.as_str()));
            return Err(refusal.with_hint(format!("it takes {}", known.join(", "))).into());
        }
        let envelope = self.believe(raw, &subject)?;
        let body =
            json::parse(&raw.body).map_err(|error| invalid(format!("the body is not acceptable JSON: {error}")))?;
        let valid = self.validate(family, &name, &body).and_then(|()| same_cluster(&envelope, &body));
        let message = Message { family, name, subject, envelope, body };
        match valid {
            Ok(()) => Ok(message),
            Err(refusal) => Err(Stopped { refusal, believed: Some(Box::new(message)) }),
        }
    }

    /// A message that nobody sent, to judge or to plan with. A handoff that is only planned holds `"${…}"` for what is
    /// known later, so only requests are validated.
    ///
    /// # Errors
    /// Why it would be refused.
    pub fn imagine(&self, family: Family, name: &str, body: Value, flow: Option<Uuid>) -> Result<Message, Refusal> {
        let to = self.party;
        let kind = name.to_owned();
        let subject = match family {
            Family::Handoff => Subject::Handoff { to, kind },
            Family::Request | Family::Event => Subject::Request { to, kind },
        };
        if catalogue::find(family, name).is_none() {
            return Err(Refusal::new(RefusalKind::Invalid, format!("there is no {} {name}", family.as_str())));
        }
        if family == Family::Request {
            self.validate(family, name, &body)?;
        }
        let mut envelope = imagined(&subject);
        envelope.correlation = Some(flow.unwrap_or_else(Uuid::now_v7));
        Ok(Message { family, name: name.to_owned(), subject, envelope, body })
    }

    fn believe(&self, raw: &Raw, subject: &Subject) -> Result<Envelope, Refusal> {
        let forbidden = |text: String| Refusal::new(RefusalKind::Forbidden, text);
        let bare = !raw.headers.keys().any(|name| name.to_ascii_lowercase().starts_with("ce-"));
        if bare {
            self.trust.check_anonymous(subject).map_err(|error| {
                forbidden(error.to_string())
                    .with_hint("sign the message, or let policy.anonymous of the contractor name this request")
            })?;
            return Ok(anonymous(raw, subject));
        }
        let envelope = Envelope::parse(&raw.headers, subject)
            .map_err(|error| Refusal::new(RefusalKind::Invalid, format!("the envelope is malformed: {error}")))?;
        let signed = Signed { subject: &raw.signed_subject, headers: &raw.headers, body: &raw.body };
        self.trust.check(&envelope, subject, signed, raw.judged_at).map_err(|error| forbidden(error.to_string()))?;
        Ok(envelope)
    }

    /// Whether a body has the shape of its schema.
    ///
    /// # Errors
    /// Every violation.
    pub fn validate(&self, family: Family, name: &str, body: &Value) -> Result<(), Refusal> {
        schema::validate(family, name, body).map_err(|violations| {
            let count = violations.len();
            let plural = if count == 1 { "" } else { "s" };
            let text = format!("the {} does not validate: {count} violation{plural}", family.as_str());
            Refusal { violations, ..Refusal::new(RefusalKind::Invalid, text) }
        })
    }
}

/// Records, events and whoever filters by it go by the envelope's cluster, the work by the body's: they must be the same.
fn same_cluster(envelope: &Envelope, body: &Value) -> Result<(), Refusal> {
    let named = body.get("cluster_name").and_then(Value::as_str);
    let (Some(cluster), Some(named)) = (&envelope.cluster, named) else { return Ok(()) };
    if cluster.as_str() == named {
        return Ok(());
    }
    let violation = Violation {
        path: "/cluster_name".to_owned(),
        rule: "ce-subject".to_owned(),
        expected: format!("{cluster}, which ce-subject names"),
        got: "another cluster".to_owned(),
        did_you_mean: None,
    };
    let text = format!("envelope and body are about different clusters: {violation}");
    Err(Refusal { violations: vec![violation], ..Refusal::new(RefusalKind::Invalid, text) })
}

/// A bare request has the id of its place in the stream, so that a redelivery is recognised: UUIDv5, below the
/// namespace for URLs, of `stream:creation time of the stream:sequence`, the time as RFC 3339 in UTC.
fn anonymous(raw: &Raw, subject: &Subject) -> Envelope {
    let place = format!("{}:{}:{}", raw.stream, raw.stream_created, raw.sequence);
    let id = if raw.sequence > 0 { Uuid::new_v5(&Uuid::NAMESPACE_URL, place.as_bytes()) } else { Uuid::now_v7() };
    let header = |name: &str| header(&raw.headers, name).map(str::to_owned);
    Envelope {
        id: id.to_string(),
        source: "/anonymous".into(),
        time: raw.published,
        reply_to: header("cortex-reply-to"),
        traceparent: header("traceparent"),
        ..imagined(subject)
    }
}

fn imagined(subject: &Subject) -> Envelope {
    Envelope {
        id: Uuid::now_v7().to_string(),
        source: "/plan".into(),
        kind: subject.ce_type(),
        time: Timestamp::now(),
        cluster: None,
        dataschema: None,
        sequence: None,
        correlation: None,
        causation: None,
        reply_to: None,
        traceparent: None,
    }
}
