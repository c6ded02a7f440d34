//! Connecting: nkey and TLS, a private inbox, jittered reconnects, a server that is new enough.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_nats::jetstream;
use rand::Rng;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{broadcast, watch};

use crate::{
    link::{Link, Observer, Violation},
    shown::Shown,
};

/// The oldest server that is safe: older ones lose or ignore what is asked of them (reliability.md 0.4, 2.3).
pub const MINIMUM_SERVER: (u64, u64, u64) = (2, 14, 6);
/// The JetStream API level of that server.
const MINIMUM_LEVEL: usize = 4;
/// Two unanswered pings mean that the peer is gone; the client's default would notice after three minutes.
const PING: Duration = Duration::from_secs(5);
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(4);
/// How long a publish waits for its ack, and a JetStream API call for its answer.
pub(crate) const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// Whom to connect to, and as whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// `tls://host:port`, several for a cluster; servers that the cluster announces are not dialled.
    pub servers: Vec<String>,
    /// The client's name, as `nats-server` shows it.
    pub name: String,
    /// The nkey seed of the identity.
    pub seed: SecretString,
    /// The identity's name: replies come to `_INBOX.<identity>.…`, which nobody else may read.
    pub identity: String,
    /// PEM file of the CA that the server's certificate must come from, over TLS whatever the URL says. Without it a
    /// `tls://` server is checked against the system's authorities, and a `nats://` one is encrypted only if it asks for it.
    pub root_ca: Option<PathBuf>,
    /// PEM files of certificate and key, where the server asks for them.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// How long the first connection may take.
    pub connect_timeout: Duration,
}

/// A connection to the bus; a cheap clone. It reconnects for ever.
#[derive(Clone)]
pub struct Bus {
    pub(crate) client: async_nats::Client,
    pub(crate) jetstream: jetstream::Context,
    observer: Arc<Observer>,
    shown: Shown,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("state", &self.client.connection_state()).finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A certificate or key file cannot be used.
    #[error("{} cannot be used: {reason}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No server answered or accepted.
    #[error("no connection to {}: {reason}", .servers.join(", "))]
    Unreachable {
        /// Who was tried.
        servers: Vec<String>,
        /// What the last one said.
        reason: String,
    },
    /// The server does not know the identity.
    #[error("{} does not accept the nkey of identity `{identity}`", .servers.join(", "))]
    NotAccepted {
        /// Who was tried.
        servers: Vec<String>,
        /// As whom.
        identity: String,
    },
    /// The server is too old.
    #[error("nats-server {version} (API level {level}) is too old: at least 2.14.6 (level {MINIMUM_LEVEL}) is needed")]
    TooOld {
        /// Its version.
        version: String,
        /// Its JetStream API level, 0 when it has none.
        level: usize,
    },
    /// JetStream did not answer.
    #[error("JetStream does not answer: {0}")]
    NoJetStream(String),
}

impl Bus {
    /// Connects once, and checks the server; afterwards the connection renews itself.
    pub async fn connect(options: Options) -> Result<Self, ConnectError> {
        let observer = Arc::new(Observer::new());
        let watching = Arc::clone(&observer);
        let mut connect = async_nats::ConnectOptions::new()
            .name(&options.name)
            .nkey(options.seed.expose_secret().to_owned())
            .custom_inbox_prefix(inbox_prefix(&options.identity))
            .ping_interval(PING)
            .connection_timeout(options.connect_timeout)
            .request_timeout(Some(ACK_TIMEOUT))
            .ignore_discovered_servers()
            .reconnect_delay_callback(jittered)
            .event_callback(move |event| {
                let watching = Arc::clone(&watching);
                async move { watching.observe(event) }
            });
        let shown = Shown::default();
        if let Some(root_ca) = &options.root_ca {
            let config = tls(root_ca, options.client_certificate.as_ref(), &shown)?;
            connect = connect.require_tls(true).tls_client_config(config);
        }
        let unreachable = |reason: String| ConnectError::Unreachable { servers: options.servers.clone(), reason };
        let client = tokio::time::timeout(options.connect_timeout, connect.connect(options.servers.as_slice()))
            .await
            .map_err(|_| unreachable(format!("no answer within {:?}", options.connect_timeout)))?
            .map_err(|error| match error.kind() {
                async_nats::ConnectErrorKind::AuthorizationViolation | async_nats::ConnectErrorKind::Authentication => {
                    ConnectError::NotAccepted { servers: options.servers.clone(), identity: options.identity.clone() }
                }
                _ => unreachable(error.to_string()),
            })?;
        observer.set(Link::Up);
        let jetstream = jetstream::ContextBuilder::new()
            .timeout(ACK_TIMEOUT)
            .ack_timeout(ACK_TIMEOUT)
            .backpressure_on_inflight(false)
            .build(client.clone());
        let bus = Self { client, jetstream, observer, shown };
        bus.check_server().await?;
        Ok(bus)
    }

    /// Refuses servers that silently ignore what is asked of them.
    async fn check_server(&self) -> Result<(), ConnectError> {
        let version = self.client.server_info().version;
        let account = self.ask("", self.jetstream.query_account()).await;
        let account = account.map_err(|error| ConnectError::NoJetStream(error.to_string()))?;
        let level = account.requests.level;
        if level < MINIMUM_LEVEL || parse_version(&version).is_some_and(|version| version < MINIMUM_SERVER) {
            return Err(ConnectError::TooOld { version, level });
        }
        Ok(())
    }

    /// Whether the connection is up, and when that changes.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.observer.link()
    }

    /// The last subject that the server refused to this identity: a configuration error that must be shown.
    pub fn violation(&self) -> watch::Receiver<Option<Arc<Violation>>> {
        self.observer.last_violation()
    }

    /// Every subject that the server refuses to this identity from now on.
    pub fn violations(&self) -> broadcast::Receiver<Arc<Violation>> {
        self.observer.violations()
    }

    /// Leaves the connection for a new one, on which everything is subscribed to anew: a subscription that the server took
    /// away when its right was gone does not come back with the right.
    pub async fn renew(&self) {
        if let Err(error) = self.client.force_reconnect().await {
            tracing::warn!(%error, "the connection could not be renewed");
        }
    }

    /// The server's version.
    pub fn server_version(&self) -> String {
        self.client.server_info().version
    }

    /// Bytes of the largest message that the server takes.
    pub fn max_payload(&self) -> usize {
        self.client.server_info().max_payload
    }

    /// The certificate that the server last proved itself with, in DER; none without TLS.
    pub fn server_certificate(&self) -> Option<CertificateDer<'static>> {
        self.shown.get()
    }

    /// Hands out what is queued and closes; after this nothing is sent or received.
    pub async fn close(&self) {
        let drained = tokio::time::timeout(Duration::from_secs(2), self.client.drain()).await;
        if !matches!(drained, Ok(Ok(()))) {
            tracing::debug!("the bus was closed without draining");
        }
    }
}

/// Where replies to an identity come.
pub(crate) fn inbox_prefix(identity: &str) -> String {
    format!("_INBOX.{identity}")
}

/// Full jitter up to 2^n × 25 ms, at most four seconds: a herd of clients does not come back as one.
fn jittered(attempts: usize) -> Duration {
    let exponent = u32::try_from(attempts.min(10)).unwrap_or(10);
    let ceiling = Duration::from_millis(25).saturating_mul(2_u32.pow(exponent)).min(MAX_RECONNECT_DELAY);
    rand::rng().random_range(Duration::ZERO..=ceiling)
}

fn tls(
    root_ca: &PathBuf,
    client: Option<&(PathBuf, PathBuf)>,
    shown: &Shown,
) -> Result<rustls::ClientConfig, ConnectError> {
    let failed = |path: &PathBuf, reason: String| ConnectError::File { path: path.clone(), reason };
    let roots = roots(root_ca)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = shown.noted(roots, &provider).map_err(|error| failed(root_ca, error.to_string()))?;
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(root_ca, error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some((certificate, key)) = client else { return Ok(config.with_no_client_auth()) };
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(key, error.to_string()))?;
    config.with_client_auth_cert(chain, private).map_err(|error| failed(certificate, error.to_string()))
}

/// The authorities in a PEM file, of which there must be one.
pub(crate) fn roots(path: &PathBuf) -> Result<rustls::RootCertStore, ConnectError> {
    let failed = |reason: String| ConnectError::File { path: path.clone(), reason };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(failed("it holds no certificate".to_owned()));
    }
    Ok(roots)
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let failed = |reason: String| ConnectError::File { path: path.clone(), reason };
    let found = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
    found.map(|certificate| certificate.map_err(|error| failed(error.to_string()))).collect()
}

fn parse_version(text: &str) -> Option<(u64, u64, u64)> {
    let mut parts = text.split(['-', '+']).next()?.split('.').map(str::parse);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) => Some((major, minor, patch)),
        _ => None,
    }
}
