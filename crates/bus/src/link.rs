//! What the connection says of itself: up or down, and what the server refused.

use std::sync::Arc;

use async_nats::{ClientError, ConnectErrorKind, Event, ServerError};
use tokio::sync::{broadcast, watch};

/// Whether messages can flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Yes.
    Up,
    /// No; it is being connected again, for ever.
    Down,
    /// The server does not accept the identity.
    Refused(String),
}

/// The server refused a subject to this identity: configuration, never chance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `publish` or `subscribe`.
    pub verb: &'static str,
    /// The subject; empty when the server's text could not be read.
    pub subject: String,
    /// The server's text.
    pub text: String,
}

/// Takes the client's events apart; one per connection.
pub(crate) struct Observer {
    link: watch::Sender<Link>,
    last: watch::Sender<Option<Arc<Violation>>>,
    each: broadcast::Sender<Arc<Violation>>,
}

impl Observer {
    pub(crate) fn new() -> Self {
        Self { link: watch::Sender::new(Link::Down), last: watch::Sender::new(None), each: broadcast::Sender::new(256) }
    }

    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    pub(crate) fn last_violation(&self) -> watch::Receiver<Option<Arc<Violation>>> {
        self.last.subscribe()
    }

    pub(crate) fn violations(&self) -> broadcast::Receiver<Arc<Violation>> {
        self.each.subscribe()
    }

    pub(crate) fn set(&self, link: Link) {
        self.link.send_replace(link);
    }

    pub(crate) fn observe(&self, event: Event) {
        match event {
            Event::Connected => {
                tracing::info!("connected to the bus");
                self.set(Link::Up);
            }
            Event::Disconnected => {
                tracing::warn!("the bus is away, connecting again");
                self.set(Link::Down);
            }
            Event::ServerError(ServerError::AuthorizationViolation) => self.not_accepted("authorization violation"),
            // So the client tells of a connection that it wanted to renew and that the server refused.
            Event::ClientError(ClientError::Other(text)) if is_not_accepted(&text) => self.not_accepted(&text),
            Event::ServerError(ServerError::Other(text)) => self.refused(text),
            Event::SlowConsumer(subscription) => tracing::warn!(subscription, "messages were dropped, too many wait"),
            Event::LameDuckMode => tracing::warn!("the bus announced that it stops"),
            other => tracing::debug!(event = %other, "bus event"),
        }
    }

    /// It is tried again and again: told once.
    fn not_accepted(&self, text: &str) {
        let refused = Link::Refused(text.to_owned());
        if *self.link.borrow() != refused {
            tracing::error!("the bus does not accept this identity");
            self.set(refused);
        }
    }

    fn refused(&self, text: String) {
        let Some(violation) = parse(&text) else {
            tracing::warn!(text, "the bus reported an error");
            return;
        };
        tracing::error!(verb = violation.verb, subject = violation.subject, "the bus refused a subject");
        let violation = Arc::new(violation);
        self.last.send_replace(Some(Arc::clone(&violation)));
        // Nobody may be waiting for it.
        let _ = self.each.send(violation);
    }
}

fn is_not_accepted(text: &str) -> bool {
    [ConnectErrorKind::AuthorizationViolation, ConnectErrorKind::Authentication].iter().any(|it| it.to_string() == text)
}

/// `Permissions Violation for Publish to "a.b"`, `… for Subscription to "a.b" using queue "q"`.
fn parse(text: &str) -> Option<Violation> {
    let lower = text.to_ascii_lowercase();
    let rest = lower.find("permissions violation for ").map(|at| &lower[at + "permissions violation for ".len()..])?;
    let verb = if rest.starts_with("publish") { "publish" } else { "subscribe" };
    let subject = text.split('"').nth(1).unwrap_or_default().to_owned();
    Some(Violation { verb, subject, text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_are_read_from_the_servers_texts() {
        let seen = parse(r#"Permissions Violation for Publish to "cortex.handoff.talos.x""#).unwrap();
        assert_eq!((seen.verb, seen.subject.as_str()), ("publish", "cortex.handoff.talos.x"));
        let seen = parse(r#"Permissions Violation for Subscription to "$SRV.PING" using queue "q""#).unwrap();
        assert_eq!((seen.verb, seen.subject.as_str()), ("subscribe", "$SRV.PING"));
        assert_eq!(parse("Stale Connection"), None);
    }
}
