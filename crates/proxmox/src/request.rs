//! The client itself: one call in, typed data or a typed error out.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use rustls_pki_types::CertificateDer;
use secrecy::SecretString;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::{
    Error, Result,
    auth::{self, Ticket},
    cluster::Resource,
    coalesced::Coalesced,
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
    listings: Listings,
}

/// Lists of everything grow with the datacenter, and all who make machines at the same time want them.
#[derive(Default)]
pub(crate) struct Listings {
    pub(crate) guests: Coalesced<[Resource], Error>,
    pub(crate) all: Coalesced<[Resource], Error>,
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
        let credentials = options.credentials;
        let (ticket, listings) = (Mutex::default(), Listings::default());
        Ok(Self { shared: Arc::new(Shared { transport, credentials, ticket, listings }) })
    }

    /// The certificate that each endpoint last proved itself with, in DER; none of those that were not reached yet.
    pub fn server_certificates(&self) -> BTreeMap<String, CertificateDer<'static>> {
        self.shared.transport.shown()
    }

    pub(crate) fn listings(&self) -> &Listings {
        &self.shared.listings
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
        let reply = match &self.shared.credentials {
            Credentials::Token { id, secret } => {
                message.headers.push(auth::token_header(id, secret)?);
                self.shared.transport.exchange(&message).await?
            }
            Credentials::Password { user, password } => {
                let ticket = self.ticket(user, password, None).await?;
                message.headers.extend(ticket.headers(&message.method)?);
                let reply = self.shared.transport.exchange(&message).await?;
                if reply.status == 401 {
                    let fresh = self.ticket(user, password, Some(&ticket)).await?;
                    message.headers.truncate(plain);
                    message.headers.extend(fresh.headers(&message.method)?);
                    self.shared.transport.exchange(&message).await?
                } else {
                    reply
                }
            }
        };
        tracing::trace!(call = %message.context, status = reply.status, "proxmox answered");
        open(&message.context, reply)
    }

    /// A ticket that is not `refused`. Logs in where there is none or it is due; of several calls that were refused with
    /// one ticket only the first does.
    async fn ticket(&self, user: &str, password: &SecretString, refused: Option<&Ticket>) -> Result<Ticket> {
        let mut held = self.shared.ticket.lock().await;
        let current = held.as_ref().filter(|ticket| refused.is_none_or(|refused| !ticket.is(refused)));
        if let Some(ticket) = current.filter(|ticket| !ticket.is_due()) {
            return Ok(ticket.clone());
        }
        let ticket = match self.log_in(user, password, current.filter(|ticket| ticket.is_valid())).await {
            // A ticket ends early where the key that signed it was replaced; the password is good for longer.
            Err(error) if error.kind == Kind::Authentication && current.is_some() => {
                self.log_in(user, password, None).await?
            }
            renewed => renewed?,
        };
        *held = Some(ticket.clone());
        Ok(ticket)
    }

    async fn log_in(&self, user: &str, password: &SecretString, current: Option<&Ticket>) -> Result<Ticket> {
        let login = message(Method::POST, "/access/ticket", &auth::login_form(user, password, current));
        let answer: Page<Value> = open(&login.context, self.shared.transport.exchange(&login).await?)?;
        Ticket::from_answer(answer.data)
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
