//! The cluster's own CA and the certificate that pveproxy shows (proxmox.md 1.6).

use std::{io, net::IpAddr, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;

/// A server certificate ready to be served.
pub(crate) struct Identity {
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) ca_pem: String,
    pub(crate) fingerprint: String,
}

impl Identity {
    /// A new CA and a certificate for an address, TLS 1.2 and 1.3, HTTP/1.1 only.
    pub(crate) fn generate(address: IpAddr) -> io::Result<Self> {
        let (ca_pem, issuer) = authority().map_err(io::Error::other)?;
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationalUnitName, "PVE Cluster Node");
        params.distinguished_name.push(DnType::OrganizationName, "Proxmox Virtual Environment");
        params.distinguished_name.push(DnType::CommonName, "pve1.lab.internal");
        params.subject_alt_names = vec![SanType::IpAddress(address)];
        for name in ["localhost", "pve1", "pve1.lab.internal"] {
            params.subject_alt_names.push(SanType::DnsName(name.try_into().map_err(io::Error::other)?));
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &issuer).map_err(io::Error::other)?;
        let digest = Sha256::digest(certificate.der());
        let fingerprint = digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS12, &TLS13])
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), ca_pem, fingerprint })
    }
}

fn authority() -> Result<(String, Issuer<'static, KeyPair>), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Proxmox Virtual Environment");
    params.distinguished_name.push(DnType::OrganizationName, "PVE Cluster Manager CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), Issuer::new(params, key)))
}
