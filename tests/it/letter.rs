//! Messages as a contractor, a coordinator, or somebody with their key, would sign them.

use bus::{
    Outgoing,
    identity::{self, Identity},
};
use jiff::Timestamp;
use messages::{
    catalogue::{self, Family},
    envelope::{Envelope, Headers},
    signature,
    subject::Subject,
};
use nkeys::KeyPair;
use secrecy::ExposeSecret;
use serde_json::Value;
use uuid::Uuid;

use crate::scenario::Scenario;

/// A message before it is signed; a case spoils what it wants to spoil.
#[derive(Clone)]
pub(crate) struct Letter {
    pub(crate) subject: String,
    pub(crate) source: String,
    pub(crate) time: Timestamp,
    pub(crate) body: Vec<u8>,
    /// Headers that are other than they would be.
    pub(crate) changed: Vec<(&'static str, String)>,
    /// What is done to it after it was signed.
    pub(crate) altered: Option<fn(&mut Headers, &mut Vec<u8>)>,
}

impl Letter {
    pub(crate) fn new(subject: &str, source: &str, body: &Value) -> Self {
        Self {
            subject: subject.to_owned(),
            source: source.to_owned(),
            time: Timestamp::now(),
            body: body.to_string().into_bytes(),
            changed: Vec::new(),
            altered: None,
        }
    }

    pub(crate) fn of(self, flow: Uuid) -> Self {
        self.with("cortex-correlation-id", flow.to_string())
    }

    pub(crate) fn with(mut self, header: &'static str, value: impl Into<String>) -> Self {
        self.changed.push((header, value.into()));
        self
    }

    pub(crate) fn signed(self, key: &KeyPair) -> Outgoing {
        let mut headers = self.envelope();
        headers.extend(self.changed.into_iter().map(|(name, value)| (name.to_owned(), value)));
        signature::sign(key, &self.subject, &mut headers, &self.body).unwrap();
        let mut body = self.body;
        if let Some(alter) = self.altered {
            alter(&mut headers, &mut body);
        }
        Outgoing { subject: self.subject, headers, body: body.into() }
    }

    fn envelope(&self) -> Headers {
        let subject: Subject = self.subject.parse().unwrap();
        let family = if matches!(subject, Subject::Handoff { .. }) { Family::Handoff } else { Family::Request };
        // Of a message that there is not, the rest is as of one that there is.
        let known = catalogue::find(family, subject.kind());
        let kind = known.unwrap_or_else(|| catalogue::find(Family::Handoff, "cluster_removed").unwrap());
        Envelope::new(Uuid::now_v7(), self.source.as_str(), kind, self.time).headers()
    }
}

pub(crate) fn key_of(scenario: &Scenario, identity: Identity) -> KeyPair {
    let seed = identity::read_seed(&scenario.world.nats.setup().keys[&identity]).unwrap();
    KeyPair::from_seed(seed.expose_secret()).unwrap()
}

/// A connection with nothing of ours between the test and the broker's client.
pub(crate) async fn raw_client(scenario: &Scenario, identity: Identity) -> async_nats::Client {
    let setup = scenario.world.nats.setup();
    let seed = identity::read_seed(&setup.keys[&identity]).unwrap();
    async_nats::ConnectOptions::with_nkey(seed.expose_secret().to_owned())
        .add_root_certificates(setup.root_ca.clone())
        .require_tls(true)
        .custom_inbox_prefix(format!("_INBOX.{identity}"))
        .connect(scenario.world.nats.url())
        .await
        .unwrap()
}
