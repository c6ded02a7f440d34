//! The way to a node: TCP and TLS with what is seen on it kept, so that a failure can be told apart later.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::Uri;
use tower::Service;

use super::sight::Sight;

/// Dials one address, however often the connection is to be made again.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) target: SocketAddr,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) sight: Arc<Sight>,
    pub(super) patience: Duration,
}

impl Dialer {
    async fn dial(self) -> io::Result<TokioIo<Line>> {
        self.sight.dials();
        let late = |what: &str| io::Error::new(io::ErrorKind::TimedOut, format!("no answer to the {what}"));
        let connecting = timeout(self.patience, TcpStream::connect(self.target));
        let stream = connecting.await.map_err(|_| late("connection"))??;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.target.ip().into());
        let shaking = timeout(self.patience, TlsConnector::from(self.tls).connect(name, stream));
        let stream = shaking.await.map_err(|_| late("TLS handshake"))??;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the server does not speak HTTP/2"));
        }
        Ok(TokioIo::new(Line { stream, sight: self.sight, heard: false, failed: None }))
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<Line>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().dial())
    }
}

/// An encrypted stream that tells when the first bytes came, and how it broke.
pub(super) struct Line {
    stream: TlsStream<TcpStream>,
    sight: Arc<Sight>,
    heard: bool,
    /// A failed write, until the other side's last words were read.
    failed: Option<io::Error>,
}

impl Line {
    /// A write may fail before the alert that says why was read; it is read first.
    fn last_words<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let Poll::Ready(Err(error)) = written else { return written };
        let mut scratch = [0; 512];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => continue,
                Poll::Ready(Ok(())) => self.sight.broke(Some(&error)),
                Poll::Ready(Err(alert)) => self.sight.broke(Some(&alert)),
                // A socket that failed is about to be readable: its end is.
                Poll::Pending => {
                    self.failed = Some(error);
                    return Poll::Pending;
                }
            }
            return Poll::Ready(Err(error));
        }
    }

    /// The failure that the last words were waited for with.
    fn failure<T>(&mut self) -> Option<Poll<io::Result<T>>> {
        self.failed.take().map(|error| Poll::Ready(Err(error)))
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        match &polled {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                if !self.heard {
                    self.heard = true;
                    self.sight.heard();
                }
            }
            Poll::Ready(Ok(())) => self.sight.broke(None),
            Poll::Ready(Err(error)) => self.sight.broke(Some(error)),
            Poll::Pending => {}
        }
        polled
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.failure().unwrap_or_else(|| Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.last_words(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.failure().unwrap_or_else(|| Pin::new(&mut self.stream).poll_flush(cx));
        self.last_words(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.failure().unwrap_or_else(|| Pin::new(&mut self.stream).poll_write_vectored(cx, slices));
        self.last_words(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
