//! Dialling a node: allowed targets first, then TLS as maintenance mode or mTLS needs it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use secrecy::ExposeSecret;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::{Client, Error, Fingerprint, trust};
use crate::pki::{self, CertificateAndKey, encode_pem};

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

    /// Connects to a node that has its configuration. The node's certificate must name `address`.
    pub async fn secure(&self, address: IpAddr, credentials: &Credentials) -> Result<Client, Error> {
        let endpoint = self.endpoint(address)?;
        let tls = ClientTlsConfig::new()
            .domain_name(address.to_string())
            .ca_certificate(Certificate::from_pem(&credentials.authority))
            .identity(identity(&credentials.client)?);
        let endpoint = endpoint.tls_config(tls).map_err(|error| refused(address, &error))?;
        self.connect(address, endpoint).await
    }

    /// Connects to a node in maintenance mode, whose certificate nobody vouches for.
    ///
    /// With `pin` the handshake fails unless the node's key has that fingerprint, which it prints on its console.
    /// Without, the caller must compare something else that only the right machine knows before it sends secrets.
    pub async fn maintenance(&self, address: IpAddr, pin: Option<Fingerprint>) -> Result<Client, Error> {
        let endpoint = self.endpoint(address)?;
        let tls = ClientTlsConfig::new().domain_name(address.to_string());
        let verifier = Arc::new(trust::Unverified::new(pin));
        let endpoint = endpoint.tls_config_with_verifier(tls, verifier).map_err(|error| refused(address, &error))?;
        self.connect(address, endpoint).await
    }

    fn endpoint(&self, address: IpAddr) -> Result<Endpoint, Error> {
        if !self.allowed.allows(address) {
            return Err(Error::Forbidden { address, allowed: self.allowed.to_string() });
        }
        let uri = format!("https://{}", SocketAddr::new(address, self.port));
        let endpoint = Endpoint::from_shared(uri).map_err(|error| refused(address, &error))?;
        Ok(endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true))
    }

    async fn connect(&self, address: IpAddr, endpoint: Endpoint) -> Result<Client, Error> {
        let connecting = tokio::time::timeout(2 * CONNECT_TIMEOUT, endpoint.connect()).await;
        let channel = connecting
            .map_err(|_| Error::Connect { address, reason: "no answer to the TLS handshake".to_owned() })?
            .map_err(|error| refused(address, &error))?;
        Ok(Client { channel, address, node: None })
    }
}

/// rustls reads the standard key labels only.
fn identity(pair: &CertificateAndKey) -> Result<Identity, pki::Error> {
    let key = pair.private_key()?.to_rustls();
    let PrivateKeyDer::Pkcs8(key) = &key else { unreachable!("keys are kept as PKCS#8") };
    let pem = secrecy::SecretString::from(encode_pem("PRIVATE KEY", key.secret_pkcs8_der().to_vec()));
    debug_assert!(PrivateKeyDer::from_pem_slice(pem.expose_secret().as_bytes()).is_ok());
    Ok(Identity::from_pem(&pair.crt, pem.expose_secret()))
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
