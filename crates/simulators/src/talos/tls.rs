//! TLS of the Talos API: self-signed in maintenance, mutual with the cluster's CA afterwards (talos.md 2.2, 2.3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use talos::pki::{self, Algorithm, CertificateAndKey, PrivateKey, ServerNames};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::clock::Clock;
use super::config::Pair;
use super::dated;

/// Everything that can go wrong with a certificate here; the node then has none.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A pair as the PKI crate takes it; `None` without a key.
pub(crate) fn authority(pair: &Pair) -> Option<CertificateAndKey> {
    let key = pair.key.clone()?;
    Some(CertificateAndKey { crt: pair.crt.clone(), key: SecretString::from(key) })
}

/// The certificate of maintenance mode: made by a CA of its own, per boot.
pub(crate) fn maintenance_certificate(
    hostname: &str,
    addresses: &[IpAddr],
    now: jiff::Timestamp,
) -> Result<CertificateAndKey> {
    let authority = pki::authority(Algorithm::Ed25519, Some("talos"), now)?;
    let mut all = addresses.to_vec();
    all.extend([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
    let names = ServerNames {
        common_name: "maintenance-service.talos.dev".to_owned(),
        dns: vec![hostname.to_owned()],
        addresses: all,
    };
    Ok(pki::server_certificate(&authority, Algorithm::Ed25519, &names, now)?)
}

/// Standard base64 of SHA-256 over the leaf's public key info: what the console shows and `--cert-fingerprint` takes.
pub(crate) fn fingerprint(certificate: &CertificateAndKey) -> Result<String> {
    let der = certificate.certificate()?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
    Ok(base64::engine::general_purpose::STANDARD.encode(Sha256::digest(parsed.public_key().raw)))
}

/// A server without client certificates: maintenance, or trustd.
pub(crate) fn open_server(shown: &Arc<Shown>) -> Result<Arc<ServerConfig>> {
    let shown = Arc::clone(shown) as Arc<dyn ResolvesServerCert>;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(finish(builder.with_no_client_auth().with_cert_resolver(shown)))
}

/// A server that demands client certificates of these CAs, valid by its own clock.
pub(crate) fn mutual_server(shown: &Arc<Shown>, accepted: &[String], clock: &Clock) -> Result<Arc<ServerConfig>> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(accepted)?, provider()).build()?;
    let verifier = dated::clients(verifier, accepted, clock)?;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let shown = Arc::clone(shown) as Arc<dyn ResolvesServerCert>;
    Ok(finish(builder.with_client_cert_verifier(verifier).with_cert_resolver(shown)))
}

/// The certificate that a server shows; it can be exchanged while it serves.
#[derive(Debug, Default)]
pub(crate) struct Shown(Mutex<Option<Arc<CertifiedKey>>>);

impl Shown {
    pub(crate) fn new(certificate: &CertificateAndKey) -> Result<Arc<Self>> {
        let shown = Self::default();
        shown.set(certificate)?;
        Ok(Arc::new(shown))
    }

    /// Shows another certificate from the next connection on.
    pub(crate) fn set(&self, certificate: &CertificateAndKey) -> Result<()> {
        let (chain, key) = identity(certificate)?;
        let key = CertifiedKey::from_der(chain, key, &provider())?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(key));
        Ok(())
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(super) fn roots(pems: &[String]) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for pem in pems {
        roots.add(pki::certificate_der(pem)?)?;
    }
    Ok(Arc::new(roots))
}

fn finish(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Arc::new(config)
}

fn identity(certificate: &CertificateAndKey) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    Ok((vec![certificate.certificate()?], certificate.private_key()?.to_rustls()))
}

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A key under the standard PEM label, which is all that most libraries read; an RSA key stays as it is.
pub(crate) fn standard_pem(key: &str) -> String {
    let Ok(PrivateKeyDer::Pkcs8(der)) = PrivateKey::from_pem(key).map(|key| key.to_rustls()) else {
        return key.to_owned();
    };
    let body = base64::engine::general_purpose::STANDARD.encode(der.secret_pkcs8_der());
    let lines: Vec<&str> = (0..body.len()).step_by(64).map(|at| &body[at..(at + 64).min(body.len())]).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

/// A certificate and key for tonic.
pub(crate) fn tonic_identity(certificate: &CertificateAndKey) -> tonic::transport::Identity {
    tonic::transport::Identity::from_pem(&certificate.crt, standard_pem(certificate.key.expose_secret()))
}

/// The organizations of a certificate, if it may be used by clients of apid: EKU exactly clientAuth.
pub(crate) fn client_organizations(certificate: &CertificateDer<'_>) -> Option<Vec<String>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let usage = parsed.extended_key_usage().ok()??.value;
    let only_client = usage.client_auth
        && !(usage.any || usage.server_auth || usage.code_signing || usage.email_protection)
        && !(usage.time_stamping || usage.ocsp_signing)
        && usage.other.is_empty();
    let organizations = parsed.subject().iter_organization().filter_map(|name| name.as_str().ok().map(str::to_owned));
    only_client.then(|| organizations.collect())
}

/// A certificate request as a worker sends it to trustd, with the key it keeps.
pub(crate) fn certificate_request(names: &ServerNames) -> Result<(String, PrivateKey)> {
    let key = PrivateKey::generate(Algorithm::Ed25519)?;
    let mut params = rcgen::CertificateParams::new(names.dns.clone())?;
    params.subject_alt_names.extend(names.addresses.iter().map(|address| rcgen::SanType::IpAddress(*address)));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, names.common_name.clone());
    let pem = params.serialize_request(&key.signer()?)?.pem()?;
    Ok((pem, key))
}

/// Signs a worker's request: only server authentication, a day from now on.
pub(crate) fn sign_request(authority: &CertificateAndKey, request: &str, now: jiff::Timestamp) -> Result<String> {
    let mut request = rcgen::CertificateSigningRequestParams::from_pem(request)?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = std::time::Duration::from_secs(u64::try_from(now.as_second())?);
    request.params.not_before = epoch + now;
    request.params.not_after = epoch + now + pki::SERVER_LIFETIME;
    request.params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    request.params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    request.params.use_authority_key_identifier_extension = true;
    let signer = authority.private_key()?.signer()?;
    let issuer = rcgen::Issuer::from_ca_cert_der(&authority.certificate()?, signer)?;
    Ok(request.signed_by(&issuer)?.pem())
}
