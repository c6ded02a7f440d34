//! Talks to the contractors as an operator: signed requests and commands, queries, the event stream.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bus::{Bus, RequestError, Tail, TailError, TailFrom, identity, streams};
use bytes::Bytes;
use jiff::Timestamp;
use messages::{
    catalogue::{self, Family},
    envelope::{Envelope, Headers},
    query::{Accepted, Answer, FlowView, Listing, PlanView, Refusal, RefusalKind},
    signature,
    subject::{Party, Subject},
};
use nkeys::KeyPair;
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

/// The header with `ce-source/ce-id`.
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// Whom to talk to, and as whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// NATS servers, `tls://host:4222`.
    pub servers: Vec<String>,
    /// File with the nkey seed.
    pub seed_file: PathBuf,
    /// PEM file with the certificate authority of the servers.
    pub ca_file: Option<PathBuf>,
    /// PEM files of a certificate and its key, where the server asks for them.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// The identity's name in the server's configuration: `operator`, `coordinator`, …
    pub identity: String,
    /// Who is speaking: `/operator/ada`.
    pub source: String,
    /// How long an answer may take.
    pub patience: Duration,
}

/// A connection; a cheap clone.
#[derive(Clone)]
pub struct Client {
    bus: Bus,
    key: Arc<KeyPair>,
    source: String,
    patience: Duration,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The contractor did not answer.
    #[error("{0}")]
    Request(#[from] RequestError),
    /// The contractor did not answer a request, and knows nothing of it.
    #[error("{to}-contractor did not answer within {patience:?} and knows no flow {flow}: ask again")]
    Unanswered {
        /// Whom.
        to: Party,
        /// The flow that did not begin.
        flow: Uuid,
        /// How long was waited.
        patience: Duration,
    },
    /// The contractor said no.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The answer has another shape.
    #[error("the answer has another shape: {0}")]
    Shape(String),
}

/// What became of a submitted request.
#[derive(Clone, Debug, PartialEq)]
pub enum Submission {
    /// It is on its way.
    Accepted(Accepted),
    /// It waits for consent to this plan.
    AwaitsApproval {
        /// The flow that will begin.
        flow: Uuid,
        /// The plan to approve.
        plan: Box<PlanView>,
    },
}

impl Submission {
    /// The flow, whether it has begun or not.
    pub fn flow(&self) -> Uuid {
        match self {
            Self::Accepted(accepted) => accepted.flow,
            Self::AwaitsApproval { flow, .. } => *flow,
        }
    }
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let failed = |text: String| Error::Connect(text);
        let seed = identity::read_seed(&options.seed_file).map_err(|error| failed(error.to_string()))?;
        let key = KeyPair::from_seed(seed.expose_secret())
            .map_err(|_| failed(format!("{} does not hold an nkey seed", options.seed_file.display())))?;
        let bus = Bus::connect(bus::Options {
            servers: options.servers,
            name: format!("cortexctl {}", options.source),
            seed,
            identity: options.identity,
            root_ca: options.ca_file,
            client_certificate: options.client_certificate,
            connect_timeout: Duration::from_secs(10),
        })
        .await
        .map_err(|error| failed(error.to_string()))?;
        Ok(Self { bus, key: Arc::new(key), source: options.source, patience: options.patience })
    }

    /// The bus itself.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Submits a request and waits until it is durable. `flow` is chosen by the caller, so that its events can be
    /// watched from the start. A call's answer may be lost where the request was not (a broker that reads its rights
    /// anew forgets whom it let answer), so without one the contractor is asked for the flow.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn submit(&self, to: Party, name: &str, flow: Uuid, body: &Value) -> Result<Submission, Error> {
        let subject = format!("cortex.cmd.{to}.submit");
        let answer = match self.call(&subject, self.envelope(name, flow, body)?, body).await {
            Err(Error::Request(RequestError::TimedOut { patience, .. })) => {
                return self.begun(to, flow, patience).await;
            }
            answer => answer?,
        };
        if answer.get("awaits_approval").is_some() {
            let plan = shaped(answer.get("plan").cloned().unwrap_or_default())?;
            let flow = shaped(answer.get("flow").cloned().unwrap_or_default())?;
            return Ok(Submission::AwaitsApproval { flow, plan: Box::new(plan) });
        }
        Ok(Submission::Accepted(shaped(answer)?))
    }

    /// What became of a request that was not answered.
    async fn begun(&self, to: Party, flow: Uuid, patience: Duration) -> Result<Submission, Error> {
        let view: FlowView = match self.query(to, "flows.show", json!({ "flow": flow })).await {
            Err(Error::Refused(refusal)) if refusal.kind == RefusalKind::NotFound => {
                return Err(Error::Unanswered { to, flow, patience });
            }
            view => view?,
        };
        match (view.plan, view.runs.first()) {
            (Some(plan), None) => Ok(Submission::AwaitsApproval { flow, plan: Box::new(plan) }),
            (_, run) => {
                let run = run.map(|run| run.run).unwrap_or_default();
                Ok(Submission::Accepted(Accepted { flow, run, duplicate: true }))
            }
        }
    }

    /// Publishes a request into the stream, as coordinators do; returns the message's id when the stream has it. The
    /// contractor's word on it comes as an event: see [`crate::watch::word`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn publish(&self, to: Party, name: &str, flow: Uuid, body: &Value) -> Result<String, Error> {
        let subject = Subject::Request { to, kind: name.to_owned() }.to_string();
        let mut headers = self.envelope(name, flow, body)?;
        let bytes = body.to_string().into_bytes();
        self.sign(&subject, &mut headers, &bytes)?;
        let id = headers.get(MESSAGE_ID).cloned().unwrap_or_default();
        let message = bus::Outgoing { subject, headers, body: bytes.into() };
        self.bus.publish(&message).await.map_err(|error| Error::Connect(error.to_string()))?;
        Ok(id)
    }

    /// The plan of a request, over both contractors.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn plan(&self, to: Party, name: &str, body: &Value) -> Result<PlanView, Error> {
        self.query(to, "plan", json!({ "family": "request", "type": name, "body": body })).await
    }

    /// All rows of a listing, page by page.
    pub async fn list(
        &self,
        to: Party,
        name: &str,
        mut arguments: Value,
    ) -> Result<Vec<BTreeMap<String, Value>>, Error> {
        let mut rows = Vec::new();
        loop {
            let listing: Listing = self.query(to, name, arguments.clone()).await?;
            rows.extend(listing.rows);
            match listing.next {
                Some(next) => arguments["after"] = next.into(),
                None => return Ok(rows),
            }
        }
    }

    /// Asks a question.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn query<T: DeserializeOwned>(&self, to: Party, name: &str, arguments: Value) -> Result<T, Error> {
        shaped(self.call(&format!("cortex.query.{to}.{name}"), self.stamp(), &arguments).await?)
    }

    /// Gives a command.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn command<T: DeserializeOwned>(&self, to: Party, name: &str, arguments: Value) -> Result<T, Error> {
        shaped(self.call(&format!("cortex.cmd.{to}.{name}"), self.stamp(), &arguments).await?)
    }

    /// Events, of one cluster and type if given, from a point of the stream on.
    ///
    /// # Errors
    /// See [`TailError`].
    pub async fn events(&self, from: TailFrom, cluster: Option<&str>, kind: Option<&str>) -> Result<Tail, TailError> {
        let filter = format!("cortex.event.*.{}.{}", cluster.unwrap_or("*"), kind.unwrap_or("*"));
        self.bus.tail(streams::EVENTS, from, &[filter]).await
    }

    async fn call(&self, subject: &str, mut headers: Headers, body: &Value) -> Result<Value, Error> {
        let bytes = body.to_string().into_bytes();
        self.sign(subject, &mut headers, &bytes)?;
        let reply = self.bus.request(subject, &headers, Bytes::from(bytes), self.patience).await?;
        match serde_json::from_slice(&reply.body).map_err(|error| Error::Shape(error.to_string()))? {
            Answer::Ok(value) => Ok(value),
            Answer::Error(refusal) => Err(Error::Refused(refusal)),
        }
    }

    fn envelope(&self, name: &str, flow: Uuid, body: &Value) -> Result<Headers, Error> {
        let kind = catalogue::find(Family::Request, name)
            .ok_or_else(|| Error::Shape(format!("there is no request {name}")))?;
        let mut envelope = Envelope::new(Uuid::now_v7(), self.source.clone(), kind, Timestamp::now());
        envelope.correlation = Some(flow);
        envelope.cluster = body.get("cluster_name").and_then(Value::as_str).and_then(|cluster| cluster.parse().ok());
        Ok(envelope.headers())
    }

    /// Who asks and when; for questions and commands, which are no messages.
    fn stamp(&self) -> Headers {
        Headers::from([
            ("ce-source".to_owned(), self.source.clone()),
            ("ce-id".to_owned(), Uuid::now_v7().to_string()),
            ("ce-time".to_owned(), Timestamp::now().to_string()),
        ])
    }

    fn sign(&self, subject: &str, headers: &mut Headers, body: &[u8]) -> Result<(), Error> {
        signature::sign(&self.key, subject, headers, body).map_err(|error| Error::Connect(error.to_string()))
    }
}

fn shaped<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(|error| Error::Shape(error.to_string()))
}
