//! The client itself: one call in, typed data or a typed error out.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::{
    Error, Result,
    auth::{self, Ticket},
    error::Kind,
    form::Params,
    options::{Credentials, Options, Timeouts},
    transport::{Message, Reply, Transport},
};

/// A client of one Proxmox VE cluster; a cheap clone.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    transport: Transport,
    credentials: Credentials,
    ticket: Mutex<Option<Ticket>>,
}

/// A list answer with the `total` that Proxmox puts beside `data`.
pub(crate) struct Page<T> {
    pub(crate) data: T,
    pub(crate) total: Option<u64>,
}

impl Client {
    /// A client that has not connected yet. Fails on an unusable CA or a missing endpoint.
    pub fn new(options: Options) -> std::result::Result<Self, String> {
        let transport = Transport::new(&options)?;
        Ok(Self { shared: Arc::new(Shared { transport, credentials: options.credentials, ticket: Mutex::default() }) })
    }

    /// `user@realm!token` or `user@realm`.
    pub fn identity(&self) -> &str {
        self.shared.credentials.identity()
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        self.shared.transport.timeouts()
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str, params: &Params) -> Result<T> {
        Ok(self.call(Method::GET, path, params).await?.data)
    }

    pub(crate) async fn get_page<T: DeserializeOwned>(&self, path: &str, params: &Params) -> Result<Page<T>> {
        self.call(Method::GET, path, params).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, params: &Params) -> Result<T> {
        Ok(self.call(Method::POST, path, params).await?.data)
    }

    pub(crate) async fn put<T: DeserializeOwned>(&self, path: &str, params: &Params) -> Result<T> {
        Ok(self.call(Method::PUT, path, params).await?.data)
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str, params: &Params) -> Result<T> {
        Ok(self.call(Method::DELETE, path, params).await?.data)
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, params: &Params) -> Result<Page<T>> {
        let mut message = message(method, path, params);
        let plain = message.headers.len();
        message.headers.extend(self.credentials(&message.method, false).await?);
        let mut reply = self.shared.transport.exchange(&message).await?;
        if reply.status == 401 && auth::needs_ticket(&self.shared.credentials) {
            message.headers.truncate(plain);
            message.headers.extend(self.credentials(&message.method, true).await?);
            reply = self.shared.transport.exchange(&message).await?;
        }
        tracing::trace!(call = %message.context, status = reply.status, "proxmox answered");
        open(&message.context, reply)
    }

    /// The headers that say who we are; logs in when there is no ticket, when it is due, or when `again`.
    async fn credentials(&self, method: &Method, again: bool) -> Result<Vec<(header::HeaderName, HeaderValue)>> {
        let (user, password) = match &self.shared.credentials {
            Credentials::Token { id, secret } => return Ok(vec![auth::token_header(id, secret)?]),
            Credentials::Password { user, password } => (user, password),
        };
        let mut held = self.shared.ticket.lock().await;
        if let Some(ticket) = held.as_ref().filter(|ticket| !again && !ticket.is_due()) {
            return ticket.headers(method);
        }
        let form = auth::login_form(user, password, held.as_ref().filter(|_| !again));
        let login = message(Method::POST, "/access/ticket", &form);
        let answer: Page<Value> = open(&login.context, self.shared.transport.exchange(&login).await?)?;
        let ticket = Ticket::from_answer(answer.data)?;
        let headers = ticket.headers(method);
        *held = Some(ticket);
        headers
    }
}

/// Form for POST and PUT; query for GET and DELETE, where Proxmox refuses a body (proxmox.md 1.1).
fn message(method: Method, path: &str, params: &Params) -> Message {
    let context = format!("{method} {path}");
    let mut target = format!("/api2/json{path}");
    let mut headers = vec![(header::ACCEPT, HeaderValue::from_static("application/json"))];
    let mut body = Bytes::new();
    if method == Method::POST || method == Method::PUT {
        headers.push((header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded")));
        body = params.encode().into();
    } else if !params.is_empty() {
        target = format!("{target}?{}", params.encode());
    }
    Message { method, target, headers, body, context }
}

/// The body of every answer in `json` format.
#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    data: Value,
    #[serde(default, deserialize_with = "crate::lenient::opt_u64")]
    total: Option<u64>,
    message: Option<String>,
    errors: Option<BTreeMap<String, Value>>,
}

fn open<T: DeserializeOwned>(context: &str, reply: Reply) -> Result<Page<T>> {
    let envelope: Option<Envelope> = serde_json::from_slice(&reply.body).ok();
    if reply.status >= 400 {
        return Err(refused(context, reply, envelope));
    }
    let envelope = envelope.filter(|_| reply.status == 200).ok_or_else(|| {
        let text = format!("HTTP {} {} without the JSON that was asked for", reply.status, reply.reason);
        Error { status: Some(reply.status), ..Error::new(Kind::Protocol, context, text) }
    })?;
    let data = T::deserialize(envelope.data)
        .map_err(|error| Error::new(Kind::Protocol, context, format!("unexpected shape of the answer: {error}")))?;
    Ok(Page { data, total: envelope.total })
}

/// The status line holds the first line of the error; the body, if there is one, holds all of it.
fn refused(context: &str, reply: Reply, envelope: Option<Envelope>) -> Error {
    let (message, errors) = envelope.map(|e| (e.message, e.errors)).unwrap_or_default();
    let text = message.filter(|text| !text.trim().is_empty()).unwrap_or(reply.reason);
    let errors = errors
        .into_iter()
        .flatten()
        .map(|(name, text)| (name, crate::lenient::text(&text).unwrap_or_else(|| text.to_string())))
        .collect();
    Error::answered(context.to_owned(), reply.status, text, errors)
}
