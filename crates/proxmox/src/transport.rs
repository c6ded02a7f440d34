//! One HTTP/1.1 exchange with one of several endpoints: dial, TLS, keep-alive, fail-over.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{client::conn::http1, ext::ReasonPhrase};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{
    Error, Result,
    error::Kind,
    options::{Endpoint, Options, Timeouts},
    targets::AllowedTargets,
    trust,
};

/// Proxmox closes a connection that was idle for 5 s (proxmox.md 1.1); ours must be the shorter patience.
const IDLE_SECONDS: u64 = 4;
/// Proxmox serves 100 requests per connection.
const USES: usize = 95;
/// Idle connections kept in all.
const IDLE_MOST: usize = 16;
/// No answer of this API is that large.
const BODY_MOST: usize = 64 << 20;

/// What is sent.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// GET, POST, PUT or DELETE.
    pub(crate) method: http::Method,
    /// `/api2/json/…?…`.
    pub(crate) target: String,
    /// Headers besides `Host` and `Content-Length`.
    pub(crate) headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// A form, or empty.
    pub(crate) body: Bytes,
    /// For errors: method and path, never parameters.
    pub(crate) context: String,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    /// HTTP status, 595 and the like included.
    pub(crate) status: u16,
    /// The status line's text: where Proxmox puts its errors.
    pub(crate) reason: String,
    /// May be empty for any status above 400.
    pub(crate) body: Bytes,
}

/// A connection that is not in use.
struct Idle {
    endpoint: usize,
    since: Instant,
    uses: usize,
    sender: http1::SendRequest<Full<Bytes>>,
}

/// The endpoints, their TLS and their idle connections.
pub(crate) struct Transport {
    endpoints: Vec<Endpoint>,
    preferred: AtomicUsize,
    tls: TlsConnector,
    allowed: AllowedTargets,
    timeouts: Timeouts,
    idle: Mutex<Vec<Idle>>,
    shown: Mutex<BTreeMap<String, CertificateDer<'static>>>,
}

impl Transport {
    pub(crate) fn new(options: &Options) -> std::result::Result<Self, String> {
        if options.endpoints.is_empty() {
            return Err("no endpoint is given".to_owned());
        }
        Ok(Self {
            endpoints: options.endpoints.clone(),
            preferred: AtomicUsize::new(0),
            shown: Mutex::default(),
            tls: TlsConnector::from(Arc::new(trust::client_config(&options.trust)?)),
            allowed: options.allowed_targets.clone(),
            timeouts: options.timeouts,
            idle: Mutex::new(Vec::new()),
        })
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Sends `message` and reads the whole answer.
    ///
    /// Nothing is ever sent twice unless it is certain that it was not sent at all, or it is a GET.
    pub(crate) async fn exchange(&self, message: &Message) -> Result<Reply> {
        match timeout(self.timeouts.request, self.exchange_unbounded(message)).await {
            Ok(reply) => reply,
            Err(_) => {
                self.leave_endpoint();
                let text = format!("no answer within {} s", self.timeouts.request.as_secs_f32());
                Err(Error::new(Kind::ReplyLost, message.context.clone(), text))
            }
        }
    }

    /// The endpoint in use hangs: what is asked next goes to the next one.
    fn leave_endpoint(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let next = |at: usize| (at + 1) % self.endpoints.len();
        let _ = self.preferred.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| Some(next(at)));
    }

    async fn exchange_unbounded(&self, message: &Message) -> Result<Reply> {
        let mut lost = None;
        while let Some(idle) = self.take_idle() {
            match self.send(idle, message).await {
                Ok(reply) => return Ok(reply),
                Err(Undelivered::Never(_)) => {}
                Err(Undelivered::Perhaps(error)) if message.method == http::Method::GET => lost = Some(error),
                Err(Undelivered::Perhaps(error)) => return Err(error),
            }
        }
        let mut failures = BTreeMap::new();
        let first = self.preferred.load(Ordering::Relaxed);
        for offset in 0..self.endpoints.len() {
            let index = (first + offset) % self.endpoints.len();
            let fresh = match self.dial(index, message).await {
                Ok(fresh) => fresh,
                Err(error) => {
                    failures.insert(index, error);
                    continue;
                }
            };
            self.preferred.store(index, Ordering::Relaxed);
            match self.send(fresh, message).await {
                Ok(reply) => return Ok(reply),
                Err(Undelivered::Never(error)) => {
                    failures.insert(index, error);
                }
                Err(Undelivered::Perhaps(error)) if message.method == http::Method::GET => lost = Some(error),
                Err(Undelivered::Perhaps(error)) => return Err(error),
            }
        }
        Err(lost.unwrap_or_else(|| no_endpoint(message, failures)))
    }

    fn take_idle(&self) -> Option<Idle> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.since.elapsed().as_secs() < IDLE_SECONDS && !idle.sender.is_closed());
        idle.pop()
    }

    async fn dial(&self, index: usize, message: &Message) -> Result<Idle> {
        let endpoint = &self.endpoints[index];
        let fail = |kind, text: String| Error::new(kind, message.context.clone(), format!("{endpoint}: {text}"));
        let connect = async {
            let address = self.permitted_address(endpoint).await.map_err(|(kind, text)| fail(kind, text))?;
            let tcp = TcpStream::connect(address).await.map_err(|e| fail(Kind::Unreachable, e.to_string()))?;
            tcp.set_nodelay(true).map_err(|e| fail(Kind::Unreachable, e.to_string()))?;
            let name = ServerName::try_from(endpoint.host.clone())
                .map_err(|e| fail(Kind::Unreachable, format!("no valid server name: {e}")))?;
            let tls = self.tls.connect(name, tcp).await.map_err(|e| {
                let distrusted = e
                    .get_ref()
                    .and_then(|inner| inner.downcast_ref::<rustls::Error>())
                    .is_some_and(|e| matches!(e, rustls::Error::InvalidCertificate(_) | rustls::Error::General(_)));
                fail(if distrusted { Kind::Untrusted } else { Kind::Unreachable }, format!("TLS: {e}"))
            })?;
            self.note(endpoint, tls.get_ref().1.peer_certificates());
            let (sender, connection) = http1::Builder::new()
                .handshake(TokioIo::new(tls))
                .await
                .map_err(|e| fail(Kind::Unreachable, e.to_string()))?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error = %error, "a connection to Proxmox ended");
                }
            });
            Ok(Idle { endpoint: index, since: Instant::now(), uses: 0, sender })
        };
        timeout(self.timeouts.connect, connect)
            .await
            .unwrap_or_else(|_| Err(fail(Kind::Unreachable, "no connection in time".to_owned())))
    }

    fn note(&self, endpoint: &Endpoint, shown: Option<&[CertificateDer<'_>]>) {
        let Some(own) = shown.and_then(<[_]>::first) else { return };
        let mut known = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(endpoint.to_string(), own.clone().into_owned());
    }

    /// The certificate that each endpoint last proved itself with, in DER.
    pub(crate) fn shown(&self) -> BTreeMap<String, CertificateDer<'static>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first resolved address inside the allowed targets.
    async fn permitted_address(&self, endpoint: &Endpoint) -> std::result::Result<SocketAddr, (Kind, String)> {
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port))
            .await
            .map_err(|error| (Kind::Unreachable, format!("cannot be resolved: {error}")))?
            .collect();
        addresses.iter().copied().find(|address| self.allowed.allows(address.ip())).ok_or_else(|| {
            let seen: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
            (Kind::TargetRefused, format!("{} is outside the allowed targets ({})", seen.join(", "), self.allowed))
        })
    }

    async fn send(&self, mut connection: Idle, message: &Message) -> std::result::Result<Reply, Undelivered> {
        let context = || message.context.clone();
        if let Err(error) = connection.sender.ready().await {
            return Err(Undelivered::Never(Error::new(Kind::Unreachable, context(), chain(&error))));
        }
        let request = self.request(connection.endpoint, message).map_err(Undelivered::Perhaps)?;
        let response = match connection.sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                let unsent = error.take_message().is_some();
                let text = chain(error.error());
                return Err(if unsent {
                    Undelivered::Never(Error::new(Kind::Unreachable, context(), text))
                } else {
                    Undelivered::Perhaps(Error::new(Kind::ReplyLost, context(), text))
                });
            }
        };
        let closes = closes(&response);
        let reply =
            read(response).await.map_err(|text| Undelivered::Perhaps(Error::new(Kind::ReplyLost, context(), text)))?;
        connection.uses += 1;
        if !closes && reply.status < 400 && connection.uses < USES {
            connection.since = Instant::now();
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE_MOST {
                idle.push(connection);
            }
        }
        Ok(reply)
    }

    fn request(&self, endpoint: usize, message: &Message) -> Result<Request<Full<Bytes>>> {
        let endpoint = &self.endpoints[endpoint];
        let host = endpoint.to_string();
        let mut builder = Request::builder()
            .method(message.method.clone())
            .uri(&message.target)
            .header(http::header::HOST, host.trim_start_matches("https://"));
        for (name, value) in &message.headers {
            builder = builder.header(name, value);
        }
        // An exact size hint makes hyper send Content-Length: Proxmox refuses chunked requests.
        builder
            .body(Full::new(message.body.clone()))
            .map_err(|error| Error::new(Kind::Protocol, message.context.clone(), error.to_string()))
    }
}

/// Whether a message that got no answer can have arrived.
enum Undelivered {
    /// Not a byte of it was sent.
    Never(Error),
    /// It may have been executed.
    Perhaps(Error),
}

fn closes<B>(response: &Response<B>) -> bool {
    let connection = response.headers().get(http::header::CONNECTION).and_then(|value| value.to_str().ok());
    connection.is_some_and(|value| value.to_ascii_lowercase().contains("close"))
}

async fn read(response: Response<hyper::body::Incoming>) -> std::result::Result<Reply, String> {
    let status = response.status();
    let reason = match response.extensions().get::<ReasonPhrase>() {
        Some(phrase) => String::from_utf8_lossy(phrase.as_bytes()).into_owned(),
        None => status.canonical_reason().unwrap_or_default().to_owned(),
    };
    let body = Limited::new(response.into_body(), BODY_MOST).collect().await.map_err(|error| error.to_string());
    match body {
        Ok(body) => Ok(Reply { status: status.as_u16(), reason, body: body.to_bytes() }),
        // The status line of a failure says it all; Proxmox closes the connection right behind it.
        Err(_) if status.as_u16() >= 400 => Ok(Reply { status: status.as_u16(), reason, body: Bytes::new() }),
        Err(error) => Err(error),
    }
}

/// All failures in the text. As long as one endpoint may come back, the kind is that of one to wait for.
fn no_endpoint(message: &Message, failures: BTreeMap<usize, Error>) -> Error {
    let text = failures.values().map(|error| error.text.clone()).collect::<Vec<_>>().join("; ");
    let unreachable = failures.values().any(|error| error.kind == Kind::Unreachable);
    let kind = failures.into_values().map(|error| error.kind).find(|kind| unreachable == (*kind == Kind::Unreachable));
    Error::new(kind.unwrap_or(Kind::Unreachable), message.context.clone(), text)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
