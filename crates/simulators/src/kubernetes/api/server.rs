//! TLS listeners of one API server: accept, authenticate by certificate, answer; everything is cut when it stops.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming as IncomingBody};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::authentication::{User, from_certificate};
use super::error::ApiError;
use super::handler::{Answer, Incoming, ServerFacts, handle};
use super::negotiation::{Encoding, accept};
use crate::faults::FaultAction;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::settings::ApiServerOptions;
use crate::line::Line;

/// The largest body taken, as etcd's request limit makes it (3 MiB).
const BODY_LIMIT: usize = 3 << 20;

type Body = BoxBody<Bytes, Infallible>;

/// One API server with its listeners.
pub(crate) struct Server {
    cluster: Arc<Cluster>,
    facts: Arc<ServerFacts>,
    acceptor: TlsAcceptor,
    listeners: Mutex<HashMap<SocketAddr, CancellationToken>>,
    stop: CancellationToken,
}

impl Server {
    /// Binds the address and starts answering; returns the server and the address with the port that was bound.
    ///
    /// # Errors
    /// When the address cannot be bound or the certificate, key or CA cannot be used.
    pub(crate) async fn start(cluster: Arc<Cluster>, options: &ApiServerOptions) -> io::Result<(Self, SocketAddr)> {
        let config = tls_config(&cluster, options).map_err(io::Error::other)?;
        let listener = TcpListener::bind(options.address).await?;
        let address = listener.local_addr()?;
        let facts = ServerFacts {
            kubernetes_version: options.kubernetes_version.clone(),
            address: address.to_string(),
            frozen: watch::Sender::new(false),
        };
        let server = Self {
            cluster,
            facts: Arc::new(facts),
            acceptor: TlsAcceptor::from(Arc::new(config)),
            listeners: Mutex::new(HashMap::new()),
            stop: CancellationToken::new(),
        };
        server.cluster.api_server_started();
        server.serve(listener, address);
        Ok((server, address))
    }

    /// Listens on one more address.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub(crate) async fn listen(&self, address: SocketAddr) -> io::Result<()> {
        let listener = TcpListener::bind(address).await?;
        let bound = listener.local_addr()?;
        self.serve(listener, bound);
        Ok(())
    }

    /// Lets requests wait, or go on.
    pub(crate) fn set_frozen(&self, frozen: bool) {
        self.facts.frozen.send_replace(frozen);
    }

    /// Stops listening on an address and cuts its connections.
    pub(crate) fn leave(&self, address: SocketAddr) {
        if let Some(token) = self.listeners.lock().expect("no panic while the lock is held").remove(&address) {
            token.cancel();
        }
    }

    fn serve(&self, listener: TcpListener, address: SocketAddr) {
        let token = self.stop.child_token();
        self.listeners.lock().expect("no panic while the lock is held").insert(address, token.clone());
        let connection = Connection {
            cluster: Arc::clone(&self.cluster),
            facts: Arc::clone(&self.facts),
            acceptor: self.acceptor.clone(),
        };
        tokio::spawn(accept_loop(listener, connection, token));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        self.cluster.api_server_stopped();
    }
}

#[derive(Clone)]
struct Connection {
    cluster: Arc<Cluster>,
    facts: Arc<ServerFacts>,
    acceptor: TlsAcceptor,
}

async fn accept_loop(listener: TcpListener, connection: Connection, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            (stream, _) = sockets::accept(&listener) => {
                let (connection, stop) = (connection.clone(), stop.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = connection.run(stream) => {}
                    }
                });
            }
        }
    }
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let Ok(tls) = self.acceptor.accept(stream).await else { return };
        let user = tls.get_ref().1.peer_certificates().and_then(|chain| from_certificate(chain.first()?)).map(Arc::new);
        let line = Line::default();
        let own = line.clone();
        let service = service_fn(move |request| {
            let (cluster, facts, user) = (Arc::clone(&self.cluster), Arc::clone(&self.facts), user.clone());
            let line = own.clone();
            async move {
                // The sender is in these facts, so the wait ends only by its word.
                let _ = facts.frozen.subscribe().wait_for(|frozen| !frozen).await;
                Ok::<_, Infallible>(planned(&cluster, &facts, (user.as_deref(), &line), request).await)
            }
        });
        let builder = auto::Builder::new(TokioExecutor::new());
        if let Some(Err(error)) = line.serve(builder.serve_connection(TokioIo::new(tls), service)).await {
            tracing::trace!(%error, "connection ended");
        }
    }
}

/// Answers a request unless something else is planned for it.
async fn planned(
    cluster: &Arc<Cluster>,
    facts: &Arc<ServerFacts>,
    (user, line): (Option<&User>, &Line),
    request: Request<IncomingBody>,
) -> Response<Body> {
    let name = format!("kube {} {}", request.method(), request.uri().path());
    let planned = cluster.fault(&name);
    match &planned {
        Some(FaultAction::Error { code, message, .. }) => {
            return error_response(&ApiError::planned(*code, message), Encoding::Json);
        }
        Some(FaultAction::Hold) => cluster.lifted(&name).await,
        Some(FaultAction::DropRequest) => line.cut::<()>().await,
        Some(FaultAction::Hang) => std::future::pending().await,
        Some(FaultAction::Delay { milliseconds }) => {
            tokio::time::sleep(std::time::Duration::from_millis(*milliseconds)).await;
        }
        Some(
            FaultAction::DropReply
            | FaultAction::LateError { .. }
            | FaultAction::Break { .. }
            | FaultAction::Warnings { .. },
        )
        | None => {}
    }
    let response = respond(cluster, facts, user, request).await;
    match planned {
        Some(FaultAction::LateError { code, message }) => {
            error_response(&ApiError::planned(code, &message), Encoding::Json)
        }
        Some(FaultAction::DropReply) => line.cut().await,
        Some(FaultAction::Break { frames }) => response.map(|body| line.breaking(body, frames).boxed()),
        _ => response,
    }
}

async fn respond(
    cluster: &Arc<Cluster>,
    facts: &Arc<ServerFacts>,
    user: Option<&User>,
    request: Request<IncomingBody>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let encoding = accept(&parts.headers).map_or(Encoding::Json, |wanted| wanted.encoding);
    let answer = match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => {
            let incoming = Incoming {
                method: &parts.method,
                path: parts.uri.path(),
                query: parts.uri.query(),
                headers: &parts.headers,
                body: body.to_bytes(),
            };
            handle(cluster, facts, user, &incoming).await
        }
        Err(_) => {
            const MESSAGE: &str = "Request entity too large: limit is 3145728";
            Err(ApiError::new(413, "RequestEntityTooLarge", MESSAGE))
        }
    };
    let mut response = answer.map_or_else(|error| error_response(&error, encoding), |answer| write(answer, encoding));
    let audit = uuid::Uuid::new_v4().to_string();
    if let Ok(value) = HeaderValue::from_str(&audit) {
        response.headers_mut().insert("audit-id", value);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

fn error_response(error: &ApiError, encoding: Encoding) -> Response<Body> {
    let mut response = write(Answer::Json(error.code, error.to_status()), encoding);
    let retry = error.details.as_ref().and_then(|details| details["retryAfterSeconds"].as_u64());
    if let Some(seconds) = retry {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn write(answer: Answer, encoding: Encoding) -> Response<Body> {
    match answer {
        Answer::Json(code, value) => match encoding {
            Encoding::Json => full(code, "application/json", value.to_string()),
            Encoding::Yaml => {
                full(code, "application/yaml", serde_saphyr::to_string(&value).unwrap_or_else(|_| value.to_string()))
            }
        },
        Answer::Typed(media_type, value) => full(200, media_type, value.to_string()),
        Answer::Bytes(media_type, bytes) => full(200, media_type, bytes),
        Answer::Text(code, text) => full(code, "text/plain; charset=utf-8", text),
        Answer::Watch(stream) => streaming("application/json", stream),
        Answer::TextStream(stream) => streaming("text/plain", stream),
    }
}

fn full(code: u16, media_type: &'static str, content: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(content.into()).boxed());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn streaming(media_type: &'static str, stream: Pin<Box<dyn Stream<Item = Bytes> + Send>>) -> Response<Body> {
    let frames = SyncStream(Mutex::new(stream)).map(|bytes| Ok(Frame::data(bytes)));
    let mut response = Response::new(http_body_util::BodyExt::boxed(StreamBody::new(frames)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Makes a stream `Sync`, which a boxed body asks for although only one task ever polls it.
struct SyncStream(Mutex<Pin<Box<dyn Stream<Item = Bytes> + Send>>>);

impl Stream for SyncStream {
    type Item = Bytes;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.get_mut().expect("only this stream uses the lock").as_mut().poll_next(context)
    }
}

fn tls_config(cluster: &Cluster, options: &ApiServerOptions) -> Result<ServerConfig, anyhow::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(cluster.identity.ca_certificate_pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let chain =
        CertificateDer::pem_slice_iter(options.serving.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(options.serving.key_pem.as_bytes())?;
    let mut config = ServerConfig::builder_with_details(provider, Arc::clone(&options.time))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
