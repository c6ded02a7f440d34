//! Whom a connection trusts: a cluster's authority, a pinned key, or whoever answered first and nobody else from then on.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    Peer,
    sight::{Sight, Trouble},
};
use crate::pki;

/// SHA-256 of a certificate's SubjectPublicKeyInfo, written as standard base64 (talos.md 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate; `None` if it is not one.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        Some(Self(Sha256::digest(parsed.public_key().raw).into()))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

/// The text is not the base64 of 32 bytes.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not the base64 of a SHA-256")]
pub struct ParseFingerprint(String);

impl FromStr for Fingerprint {
    type Err = ParseFingerprint;

    fn from_str(text: &str) -> Result<Self, ParseFingerprint> {
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| ParseFingerprint(text.to_owned()))
    }
}

/// Checks the certificate of a server and notes what it says.
#[derive(Debug)]
pub(super) struct Verifier {
    trust: Trust,
    sight: Arc<Sight>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Trust {
    /// Certificates of an authority that name the address.
    Authority(Arc<WebPkiServerVerifier>),
    /// One key. Without a pin it is that of the first handshake: a connection that breaks is dialled again by itself, and
    /// whoever answers then must be the one that was looked at before.
    Key(Mutex<Option<Fingerprint>>),
}

impl Verifier {
    /// Trusts what the authorities in this PEM issue.
    pub(super) fn of_authority(pem: &str, sight: Arc<Sight>) -> Result<Self, pki::Error> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| pki::Error::Pem(error.to_string()))?;
            roots.add(certificate).map_err(|error| pki::Error::Der(error.to_string()))?;
        }
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| pki::Error::Pem(error.to_string()))?;
        Ok(Self { trust: Trust::Authority(inner), sight, provider })
    }

    /// Trusts one key, or the first that is seen.
    pub(super) fn of_key(pin: Option<Fingerprint>, sight: Arc<Sight>) -> Self {
        Self { trust: Trust::Key(Mutex::new(pin)), sight, provider: Arc::new(ring::default_provider()) }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let peer = Peer::of(end_entity).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let key = peer.key;
        self.sight.saw(peer);
        let verified = match &self.trust {
            Trust::Authority(inner) => {
                inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            Trust::Key(known) => {
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                if *known.get_or_insert(key) == key {
                    Ok(ServerCertVerified::assertion())
                } else {
                    Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
                }
            }
        };
        if let Err(Error::InvalidCertificate(reason)) = &verified {
            self.sight.refused(trouble(reason, now));
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a certificate was refused for its dates: one of the two clocks is wrong, or it has ended.
pub fn is_about_dates(reason: &CertificateError) -> bool {
    matches!(
        reason,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    )
}

/// Every authority of Talos has the same name, so another one shows by its signature.
fn trouble(reason: &CertificateError, now: UnixTime) -> Trouble {
    match reason {
        reason if is_about_dates(reason) => Trouble::Dates(now),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Trouble::Name,
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Trouble::Authority,
        CertificateError::ApplicationVerificationFailure => Trouble::Key,
        other => Trouble::Other(format!("{other:?}")),
    }
}
