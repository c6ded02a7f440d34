//! Questions and answers: NATS services, discoverable with `$SRV.INFO`.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use async_nats::service::ServiceExt;
use bytes::Bytes;
use futures::{StreamExt, stream::SelectAll};
use serde::{Deserialize, Serialize};

use crate::{
    connect::Bus,
    publish::{PublishError, header_map, headers_of, refused},
};

/// What a service says of itself.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    /// `infrastructure-contractor`.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// One sentence.
    pub description: String,
    /// Facts for whoever looks for it.
    pub metadata: BTreeMap<String, String>,
    /// The subjects it answers, each an endpoint named by the subject's last two tokens.
    pub subjects: Vec<String>,
}

/// A running service; dropping it stops it.
pub struct Service {
    inner: async_nats::service::Service,
    calls: SelectAll<async_nats::service::endpoint::Endpoint>,
}

/// One question.
#[derive(Debug)]
pub struct Call {
    /// The subject it came on.
    pub subject: String,
    /// Its headers.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Bytes,
    request: async_nats::service::Request,
}

/// Why a service does not run or an answer was not sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ServiceError(String);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its headers.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nobody listens there: the service does not run.
    #[error("nobody answers on {0}")]
    NobodyThere(String),
    /// The service did not answer in time.
    #[error("no answer on {subject} within {patience:?}")]
    TimedOut {
        /// The subject.
        subject: String,
        /// How long was waited.
        patience: Duration,
    },
    /// This identity may not ask that.
    #[error("the bus refuses subject {0} to this identity")]
    Forbidden(String),
    /// The service answered with an error.
    #[error("{text} ({code})")]
    Refused {
        /// Like HTTP's.
        code: u16,
        /// One sentence.
        text: String,
    },
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// A service that answered `$SRV.INFO`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovered {
    /// Its name.
    pub name: String,
    /// Of this instance.
    pub id: String,
    /// Its version.
    pub version: String,
    /// One sentence.
    #[serde(default)]
    pub description: String,
    /// Facts it tells.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// What it answers.
    #[serde(default)]
    pub endpoints: Vec<DiscoveredEndpoint>,
}

/// One endpoint of a service that answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveredEndpoint {
    /// Its name.
    pub name: String,
    /// Its subject.
    pub subject: String,
}

impl Bus {
    /// Starts a service.
    pub async fn serve(&self, spec: ServiceSpec) -> Result<Service, ServiceError> {
        let failed = |error: async_nats::Error| ServiceError(error.to_string());
        let metadata: HashMap<_, _> = spec.metadata.into_iter().collect();
        let builder = self.client.service_builder().description(spec.description).metadata(metadata);
        let inner = builder.start(spec.name, spec.version).await.map_err(failed)?;
        let mut calls = SelectAll::new();
        for subject in spec.subjects {
            let tokens: Vec<&str> = subject.rsplit('.').take(2).collect();
            let name = tokens.into_iter().rev().collect::<Vec<_>>().join("-");
            calls.push(inner.endpoint_builder().name(name).add(subject).await.map_err(failed)?);
        }
        // A round trip: the server then has the subscriptions, as it takes one thing of a client after the other. The
        // client's `flush` would only empty its socket (reliability.md 0.8).
        self.jetstream.query_account().await.map_err(|error| ServiceError(error.to_string()))?;
        Ok(Service { inner, calls })
    }

    /// Asks and waits for the answer.
    pub async fn request(
        &self,
        subject: &str,
        headers: &BTreeMap<String, String>,
        body: Bytes,
        patience: Duration,
    ) -> Result<Reply, RequestError> {
        let other = |error: PublishError| RequestError::Other(error.to_string());
        let request = async_nats::Request::new()
            .payload(body)
            .headers(header_map(headers).map_err(other)?)
            .timeout(Some(patience));
        let mut violations = self.violations();
        let answer = tokio::select! {
            answer = self.client.send_request(subject.to_owned(), request) => answer,
            _ = refused(&mut violations, subject) => return Err(RequestError::Forbidden(subject.to_owned())),
        };
        let message = answer.map_err(|error| match error.kind() {
            async_nats::RequestErrorKind::NoResponders => RequestError::NobodyThere(subject.to_owned()),
            async_nats::RequestErrorKind::TimedOut => RequestError::TimedOut { subject: subject.to_owned(), patience },
            _ => RequestError::Other(error.to_string()),
        })?;
        let headers = headers_of(message.headers.as_ref());
        let code = headers.get("Nats-Service-Error-Code").and_then(|code| code.parse().ok());
        if let Some(code) = code {
            let text = headers.get("Nats-Service-Error").cloned().unwrap_or_default();
            return Err(RequestError::Refused { code, text });
        }
        Ok(Reply { headers, body: message.payload })
    }

    /// Whether this identity may publish on a subject. A stream that takes it stores nothing: the message expects a
    /// predecessor that there never was.
    ///
    /// # Errors
    /// See [`RequestError`]; it is not known then.
    pub async fn may_publish(&self, subject: &str, patience: Duration) -> Result<bool, RequestError> {
        let expects = ("Nats-Expected-Last-Msg-Id".to_owned(), "asks whether it may, and is never stored".to_owned());
        match self.request(subject, &[expects].into(), Bytes::new(), patience).await {
            Ok(_) | Err(RequestError::NobodyThere(_) | RequestError::Refused { .. }) => Ok(true),
            Err(RequestError::Forbidden(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Publishes outside any stream, to whoever listens now: replies to `cortex-reply-to`. Not kept, not acknowledged.
    pub async fn tell(
        &self,
        subject: &str,
        headers: &BTreeMap<String, String>,
        body: Bytes,
    ) -> Result<(), PublishError> {
        let told = self.client.publish_with_headers(subject.to_owned(), header_map(headers)?, body).await;
        told.map_err(|error| PublishError::Other(error.to_string()))
    }

    /// The services that answer within `patience`, sorted by name.
    pub async fn discover(&self, patience: Duration) -> Result<Vec<Discovered>, RequestError> {
        let other = |text: String| RequestError::Other(text);
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|error| other(error.to_string()))?;
        let asked = self.client.publish_with_reply("$SRV.INFO", inbox, Bytes::new()).await;
        asked.map_err(|error| other(error.to_string()))?;
        let mut found = Vec::new();
        let end = tokio::time::Instant::now() + patience;
        while let Ok(Some(answer)) = tokio::time::timeout_at(end, answers.next()).await {
            match serde_json::from_slice::<Discovered>(&answer.payload) {
                Ok(service) => found.push(service),
                Err(_) if answer.status.is_some() => break,
                Err(error) => tracing::debug!(%error, "a service answered in another shape"),
            }
        }
        found.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(found)
    }
}

impl Service {
    /// The next question; `None` once it was stopped.
    pub async fn next(&mut self) -> Option<Call> {
        let request = self.calls.next().await?;
        Some(Call {
            subject: request.message.subject.to_string(),
            headers: headers_of(request.message.headers.as_ref()),
            body: request.message.payload.clone(),
            request,
        })
    }

    /// Stops answering and leaves discovery.
    pub async fn stop(self) -> Result<(), ServiceError> {
        self.inner.stop().await.map_err(|error| ServiceError(error.to_string()))
    }
}

impl Call {
    /// Answers.
    pub async fn answer(self, body: Bytes) -> Result<(), ServiceError> {
        self.request.respond(Ok(body)).await.map_err(|error| ServiceError(error.to_string()))
    }

    /// Answers with an error of the service protocol (`Nats-Service-Error`).
    pub async fn refuse(self, code: u16, text: &str) -> Result<(), ServiceError> {
        let error = async_nats::service::error::Error { status: text.to_owned(), code: usize::from(code) };
        self.request.respond(Err(error)).await.map_err(|error| ServiceError(error.to_string()))
    }
}
