//! A TLS server that records requests and answers with canned bytes.

use std::{sync::Arc, time::Duration};

use proxmox::{
    options::{Credentials, Options, Timeouts},
    targets::AllowedTargets,
    trust::{Fingerprint, Trust},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// What the server does with the next request it reads.
pub(crate) enum Answer {
    /// Sends these bytes and keeps the connection.
    Say(String),
    /// Sends these bytes and closes.
    SayAndClose(String),
    /// Closes without an answer.
    Drop,
    /// Neither answers nor closes.
    Hang,
}

/// A TLS server that records requests and answers by script.
pub(crate) struct Script {
    endpoint: String,
    pub(crate) fingerprint: Fingerprint,
    requests: mpsc::UnboundedReceiver<(usize, String)>,
    _serving: JoinHandle<()>,
}

impl Script {
    pub(crate) async fn start(answers: Vec<Answer>) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key is made");
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).expect("an address is a name");
        let certificate = params.self_signed(&key).expect("a certificate is made");
        let der: CertificateDer<'static> = certificate.der().clone();
        let fingerprint = Fingerprint::of(&der);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions")
            .with_no_client_auth()
            .with_single_cert(vec![der], key)
            .expect("key and certificate belong together");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let endpoint = format!("https://{}", listener.local_addr().expect("it is bound"));
        let (sender, requests) = mpsc::unbounded_channel();
        let serving = tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), answers, sender));
        Self { endpoint, fingerprint, requests, _serving: serving }
    }

    /// The next request and the number of the connection it came on.
    pub(crate) async fn request(&mut self) -> (usize, String) {
        self.requests.recv().await.expect("the server still serves")
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            endpoints: vec![self.endpoint.parse().expect("it is an endpoint")],
            credentials: Credentials::parse("cortex@pve!infra=0000-secret").expect("it is a token"),
            trust: Trust::Fingerprints(vec![self.fingerprint]),
            allowed_targets: AllowedTargets::loopback(),
            timeouts: Timeouts { request: Duration::from_secs(10), ..Timeouts::default() },
        }
    }
}

async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    answers: Vec<Answer>,
    requests: mpsc::UnboundedSender<(usize, String)>,
) {
    let mut answers = answers.into_iter().peekable();
    let mut connection = 0;
    while answers.peek().is_some() {
        let (tcp, _) = listener.accept().await.expect("a client comes");
        connection += 1;
        let Ok(mut stream) = tls.accept(tcp).await else { continue };
        while let Some(request) = read_request(&mut stream).await {
            requests.send((connection, request)).expect("the test listens");
            match answers.next() {
                Some(Answer::Say(bytes)) => stream.write_all(bytes.as_bytes()).await.expect("the client reads"),
                Some(Answer::SayAndClose(bytes)) => {
                    stream.write_all(bytes.as_bytes()).await.expect("the client reads");
                    break;
                }
                Some(Answer::Hang) => std::future::pending().await,
                Some(Answer::Drop) | None => break,
            }
        }
    }
}

async fn read_request(stream: &mut TlsStream<tokio::net::TcpStream>) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some(text);
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

/// A success with this body, on a connection that stays open.
pub(crate) fn ok(body: &str) -> Answer {
    Answer::Say(http(200, "OK", body))
}

/// A failure, after which Proxmox closes.
pub(crate) fn refuse(status: u16, reason: &str, body: &str) -> Answer {
    Answer::SayAndClose(http(status, reason, body))
}

fn http(status: u16, reason: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} {reason}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
