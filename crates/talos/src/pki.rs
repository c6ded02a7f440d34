//! Certificates and keys as Talos makes them: algorithms, names, extensions, lifetimes and PEM labels (talos.md 2.2).

mod client;
mod key;
mod service_account;

use std::{fmt, net::IpAddr, time::Duration};

use rand::RngCore;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use secrecy::{ExposeSecret, SecretString};

pub use client::{Role, Roles, client_certificate};
pub use key::{Algorithm, PrivateKey};
pub use service_account::{ServiceAccountKey, service_account_key};

/// Ten years of 365 days: how long every authority lives.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A year of 365 days: how long the administrator's certificates live.
pub const ADMIN_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// A day: how long an API server's certificate lives; Talos renews it every twelve hours.
pub const SERVER_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// What went wrong with a certificate or key. Never prints key material.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not PEM, or has another label than those Talos writes.
    #[error("not a PEM block of the expected kind: {0}")]
    Pem(String),
    /// The key or certificate inside the PEM block cannot be read.
    #[error("the DER content cannot be read: {0}")]
    Der(String),
    /// Signing or generating failed.
    #[error("the certificate cannot be made")]
    Rcgen(#[from] rcgen::Error),
    /// A name that an X.509 PrintableString cannot hold.
    #[error("`{0}` cannot stand in a certificate's subject")]
    Name(String),
    /// A role that Talos does not know.
    #[error("`{0}` is no Talos role")]
    Role(String),
    /// The key could not be generated.
    #[error("the key cannot be generated: {0}")]
    Generate(String),
}

/// A certificate and its private key, as PEM with Talos's labels.
#[derive(Clone)]
pub struct CertificateAndKey {
    /// `CERTIFICATE` PEM.
    pub crt: String,
    /// The key's PEM: `ED25519 PRIVATE KEY`, `EC PRIVATE KEY` or `RSA PRIVATE KEY`.
    pub key: SecretString,
}

impl fmt::Debug for CertificateAndKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAndKey").field("crt", &self.crt).finish_non_exhaustive()
    }
}

impl CertificateAndKey {
    /// The certificate's DER.
    pub fn certificate(&self) -> Result<CertificateDer<'static>, Error> {
        certificate_der(&self.crt)
    }

    /// The key, ready to sign or to serve TLS.
    pub fn private_key(&self) -> Result<PrivateKey, Error> {
        PrivateKey::from_pem(self.key.expose_secret())
    }
}

/// Reads the first `CERTIFICATE` block.
pub fn certificate_der(text: &str) -> Result<CertificateDer<'static>, Error> {
    let block = pem::parse(text).map_err(|error| Error::Pem(error.to_string()))?;
    if block.tag() != "CERTIFICATE" {
        return Err(Error::Pem(format!("CERTIFICATE expected, got {}", block.tag())));
    }
    Ok(CertificateDer::from(block.into_contents()))
}

/// A self-signed authority whose subject is `O=<organization>`, or empty, as the aggregator's is.
pub fn authority(
    algorithm: Algorithm,
    organization: Option<&str>,
    now: jiff::Timestamp,
) -> Result<CertificateAndKey, Error> {
    let key = PrivateKey::generate(algorithm)?;
    let mut params = profile(now, AUTHORITY_LIFETIME)?;
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, printable(organization)?);
    }
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = false;
    params.key_identifier_method = KeyIdMethod::PreSpecified(random_bytes(20));
    let certificate = params.self_signed(&key.signer()?)?;
    Ok(CertificateAndKey { crt: encode_pem("CERTIFICATE", certificate.der().to_vec()), key: key.to_pem() })
}

/// What a server certificate says.
#[derive(Clone, Debug, Default)]
pub struct ServerNames {
    /// Common name, usually the host's name.
    pub common_name: String,
    /// DNS names for the SAN extension.
    pub dns: Vec<String>,
    /// Addresses for the SAN extension.
    pub addresses: Vec<IpAddr>,
}

/// A server certificate like that of apid: EKU serverAuth only, SANs of the node.
pub fn server_certificate(
    authority: &CertificateAndKey,
    algorithm: Algorithm,
    names: &ServerNames,
    now: jiff::Timestamp,
) -> Result<CertificateAndKey, Error> {
    let key = PrivateKey::generate(algorithm)?;
    let mut params = profile(now, SERVER_LIFETIME)?;
    params.distinguished_name.push(DnType::CommonName, printable(&names.common_name)?);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let dns = names.dns.iter().map(|name| Ok(SanType::DnsName(name.as_str().try_into()?)));
    let addresses = names.addresses.iter().map(|address| Ok(SanType::IpAddress(*address)));
    params.subject_alt_names = dns.chain(addresses).collect::<Result<_, rcgen::Error>>()?;
    let certificate = params.signed_by(&key.signer()?, &issuer(authority)?)?;
    Ok(CertificateAndKey { crt: encode_pem("CERTIFICATE", certificate.der().to_vec()), key: key.to_pem() })
}

/// A Kubernetes client certificate: `O=<group> CN=<user>`, ECDSA P-256, EKU clientAuth.
pub fn kubernetes_client_certificate(
    authority: &CertificateAndKey,
    user: &str,
    group: &str,
    lifetime: Duration,
    now: jiff::Timestamp,
) -> Result<CertificateAndKey, Error> {
    let key = PrivateKey::generate(Algorithm::EcdsaP256)?;
    let mut params = profile(now, lifetime)?;
    params.distinguished_name.push(DnType::OrganizationName, printable(group)?);
    params.distinguished_name.push(DnType::CommonName, printable(user)?);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key.signer()?, &issuer(authority)?)?;
    Ok(CertificateAndKey { crt: encode_pem("CERTIFICATE", certificate.der().to_vec()), key: key.to_pem() })
}

fn issuer(authority: &CertificateAndKey) -> Result<Issuer<'static, KeyPair>, Error> {
    Ok(Issuer::from_ca_cert_der(&authority.certificate()?, authority.private_key()?.signer()?)?)
}

/// Serial, validity and empty subject: what every certificate begins with.
fn profile(now: jiff::Timestamp, lifetime: Duration) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(&random_serial()));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
    params.not_before = epoch + since;
    params.not_after = epoch + since + lifetime;
    Ok(params)
}

fn printable(text: &str) -> Result<DnValue, Error> {
    let string = text.to_owned().try_into().map_err(|_| Error::Name(text.to_owned()))?;
    Ok(DnValue::PrintableString(string))
}

/// 128 random bits, positive and not zero.
fn random_serial() -> Vec<u8> {
    let mut bytes = random_bytes(16);
    bytes[0] = bytes[0] & 0x7f | 0x40;
    bytes
}

pub(crate) fn random_bytes(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

/// PEM with line feeds, as Go writes it.
pub(crate) fn encode_pem(label: &str, der: Vec<u8>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(label, der), config)
}
