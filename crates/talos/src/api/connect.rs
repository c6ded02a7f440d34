//! Dialling a node: allowed targets first, then TLS as maintenance mode or mTLS needs it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use rustls::{ClientConfig, ConfigBuilder, client::Resumption, client::WantsClientCert, crypto::ring};
use tokio::time::timeout;
use tonic::transport::Endpoint;

use super::{Client, Error, Fingerprint, Peer, dial::Dialer, sight::Sight, trust::Verifier};
use crate::pki::{self, CertificateAndKey};

/// Where apid listens on every node.
pub const PORT: u16 = 50000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Talos's own trackers ping this often (talos.md 2.1); a node that lost power is missed within twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Networks that may be dialled. Empty means that nothing may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedTargets(Vec<IpNet>);

impl AllowedTargets {
    /// Only these networks.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().collect())
    }

    /// 127.0.0.0/8 and ::1.
    pub fn loopback() -> Self {
        Self::new(["127.0.0.0/8", "::1/128"].map(|text| IpNet::from_str(text).expect("a literal network")))
    }

    /// Whether `address` may be dialled.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl fmt::Display for AllowedTargets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        if names.is_empty() { f.write_str("none") } else { f.write_str(&names.join(", ")) }
    }
}

/// What mTLS needs: the cluster's API authority and a client certificate of it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// PEM of the API authority's certificate.
    pub authority: String,
    /// Our certificate and key.
    pub client: CertificateAndKey,
}

/// Dials nodes.
#[derive(Clone, Debug)]
pub struct Connector {
    allowed: AllowedTargets,
    port: u16,
}

impl Connector {
    /// Dials only `allowed`, on apid's port.
    pub fn new(allowed: AllowedTargets) -> Self {
        Self { allowed, port: PORT }
    }

    /// The same on another port.
    #[must_use]
    pub fn with_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// Connects to a node that has its configuration. The node's certificate must name `address`, and the node must have
    /// taken ours when this returns.
    pub async fn secure(&self, address: IpAddr, credentials: &Credentials) -> Result<Client, Error> {
        self.check(address)?;
        let certificate = credentials.client.certificate()?;
        let ours = Peer::of(&certificate).map(|certificate| (certificate.not_before, certificate.not_after));
        let sight = Arc::new(Sight::new(ours));
        let verifier = Verifier::of_authority(&credentials.authority, Arc::clone(&sight))?;
        let key = credentials.client.private_key()?.to_rustls();
        let tls = trusting(verifier)
            .with_client_auth_cert(vec![certificate], key)
            .map_err(|error| pki::Error::Der(error.to_string()))?;
        self.connect(address, tls, sight).await
    }

    /// Connects to a node in maintenance mode, whose certificate nobody vouches for.
    ///
    /// With `pin` the handshake fails unless the node's key has that fingerprint, which it prints on its console.
    /// Without, the caller must compare something else that only the right machine knows before it sends secrets; the
    /// connection breaks rather than go on with a machine that has another key.
    pub async fn maintenance(&self, address: IpAddr, pin: Option<Fingerprint>) -> Result<Client, Error> {
        self.check(address)?;
        let sight = Arc::new(Sight::new(None));
        let tls = trusting(Verifier::of_key(pin, Arc::clone(&sight))).with_no_client_auth();
        self.connect(address, tls, sight).await
    }

    fn check(&self, address: IpAddr) -> Result<(), Error> {
        if self.allowed.allows(address) {
            Ok(())
        } else {
            Err(Error::Forbidden { address, allowed: self.allowed.to_string() })
        }
    }

    async fn connect(&self, address: IpAddr, mut tls: ClientConfig, sight: Arc<Sight>) -> Result<Client, Error> {
        tls.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would not look at the certificate again.
        tls.resumption = Resumption::disabled();
        let target = SocketAddr::new(address, self.port);
        let dialer = Dialer { target, tls: Arc::new(tls), sight: Arc::clone(&sight), patience: CONNECT_TIMEOUT };
        let connecting = async {
            let connected = endpoint(target)?.connect_with_connector(dialer).await;
            let channel =
                connected.map_err(|error| sight.error(address).unwrap_or_else(|| refused(address, &error)))?;
            if sight.answers().await {
                return Ok(channel);
            }
            let reason = "the connection broke after the TLS handshake".to_owned();
            Err(sight.error(address).unwrap_or(Error::Connect { address, reason }))
        };
        let late = || Error::Connect { address, reason: "no answer to the TLS handshake".to_owned() };
        let channel = timeout(2 * CONNECT_TIMEOUT, connecting).await.map_err(|_| late())??;
        Ok(Client { channel, address, node: None, sight })
    }
}

/// TLS is the dialler's business, so that an alert is seen; the calls name the scheme that servers expect.
fn endpoint(target: SocketAddr) -> Result<Endpoint, Error> {
    let failed = |error: &dyn std::error::Error| refused(target.ip(), error);
    let endpoint = Endpoint::from_shared(format!("http://{target}")).map_err(|error| failed(&error))?;
    let origin = format!("https://{target}").parse().expect("an address makes a URI");
    Ok(endpoint
        .origin(origin)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true))
}

fn trusting(verifier: Verifier) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports the default TLS versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
}

/// The whole chain in one line; transport errors of tonic say nothing by themselves.
fn refused(address: IpAddr, error: &dyn std::error::Error) -> Error {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        source = cause.source();
    }
    Error::Connect { address, reason }
}
