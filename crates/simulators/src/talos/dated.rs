//! Verifiers that know a node's time and look at the dates of the authority, too, as Go's do.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider as _;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::clock::Clock;
use super::tls::{Result, provider, roots};

type Verified<T> = std::result::Result<T, Error>;

/// A verifier that refuses everything while no authority is in its dates.
#[derive(Debug)]
pub(crate) struct Dated<V: ?Sized> {
    /// Begin and end of each authority, in seconds.
    authorities: Vec<(i64, i64)>,
    clock: Clock,
    inner: Arc<V>,
}

/// Verifies the clients of a node.
pub(crate) fn clients(
    inner: Arc<dyn ClientCertVerifier>,
    accepted: &[String],
    clock: &Clock,
) -> Result<Arc<dyn ClientCertVerifier>> {
    Ok(Arc::new(Dated { authorities: dates(accepted)?, clock: clock.clone(), inner }))
}

/// Verifies the servers that a node connects to.
pub(crate) fn node_verifier(accepted: &[String], clock: &Clock) -> Result<Arc<dyn ServerCertVerifier>> {
    let inner: Arc<dyn ServerCertVerifier> =
        WebPkiServerVerifier::builder_with_provider(roots(accepted)?, provider()).build()?;
    Ok(Arc::new(Dated { authorities: dates(accepted)?, clock: clock.clone(), inner }))
}

fn dates(pems: &[String]) -> Result<Vec<(i64, i64)>> {
    let read = |pem: &String| {
        let der = talos::pki::certificate_der(pem)?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        let validity = parsed.validity();
        Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
    };
    pems.iter().map(read).collect()
}

impl<V: ?Sized> Dated<V> {
    fn check(&self) -> Verified<UnixTime> {
        let now = self.clock.current_time().ok_or(Error::FailedToGetCurrentTime)?;
        let second = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if self.authorities.iter().any(|(begin, end)| (*begin..=*end).contains(&second)) {
            return Ok(now);
        }
        let future = self.authorities.iter().any(|(begin, _)| second < *begin);
        Err(Error::InvalidCertificate(if future { CertificateError::NotValidYet } else { CertificateError::Expired }))
    }
}

impl ClientCertVerifier for Dated<dyn ClientCertVerifier> {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Verified<ClientCertVerified> {
        self.inner.verify_client_cert(end_entity, intermediates, self.check()?)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Dated<dyn ServerCertVerifier> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _: UnixTime,
    ) -> Verified<ServerCertVerified> {
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, self.check()?)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
