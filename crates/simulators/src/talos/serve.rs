//! Accepts TLS connections and serves gRPC on them until the power goes (talos.md 2.1).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::line::Line;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) certificate: Option<CertificateDer<'static>>,
    pub(crate) line: Line,
}

/// Binds a port of a node's address; a predecessor that is just going away is waited for.
pub(crate) async fn bind(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    let mut attempts = 0;
    loop {
        match TcpListener::bind(SocketAddr::new(address, port)).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts < 50 => {
                attempts += 1;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            result => return result,
        }
    }
}

/// Serves until `stop`, which also cuts every open connection.
pub(crate) fn spawn<M, S, B>(listener: TcpListener, tls: Arc<ServerConfig>, make: M, stop: CancellationToken)
where
    M: Fn(Peer) -> S + Clone + Send + Sync + 'static,
    S: Service<http::Request<hyper::body::Incoming>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body_util::BodyExt + hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let acceptor = TlsAcceptor::from(tls);
    tokio::spawn(async move {
        loop {
            let (stream, address) = tokio::select! {
                () = stop.cancelled() => return,
                accepted = sockets::accept(&listener) => accepted,
            };
            let (acceptor, make, stop) = (acceptor.clone(), make.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    // Nothing more may leave the machine once its power is gone.
                    biased;
                    () = stop.cancelled() => {}
                    result = connection(stream, acceptor, make) => {
                        if let Err(error) = result {
                            tracing::debug!(%address, %error, "connection ended");
                        }
                    }
                }
            });
        }
    });
}

async fn connection<M, S, B>(stream: TcpStream, acceptor: TlsAcceptor, make: M) -> super::tls::Result<()>
where
    M: Fn(Peer) -> S,
    S: Service<http::Request<hyper::body::Incoming>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Without this small frames wait for the peer's delayed acknowledgement.
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
    let line = Line::default();
    let peer = Peer { certificate: certificate.map(CertificateDer::into_owned), line: line.clone() };
    let service = TowerToHyperService::new(make(peer));
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    if let Some(served) = line.serve(serving).await {
        served?;
    }
    Ok(())
}
