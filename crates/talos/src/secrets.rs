//! The secrets bundle of a cluster: what `talosctl gen secrets` makes and `secrets.yaml` holds (talos.md 5.3).

mod file;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use rand::Rng;
use secrecy::SecretString;

use crate::{
    pki::{self, Algorithm, CertificateAndKey, authority, random_bytes},
    version::Minor,
};

/// Everything secret that the machine configurations of one cluster share. `Debug` shows no key and no token.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The cluster's id in the discovery service: base64 of 32 random bytes. Known to every node, not a credential.
    pub cluster_id: String,
    /// Encrypts what the cluster tells the discovery service: base64 of 32 random bytes.
    pub cluster_secret: SecretString,
    /// The Kubernetes bootstrap token, `abcdef.0123456789abcdef`.
    pub bootstrap_token: SecretString,
    /// Encrypts Kubernetes secrets in etcd: base64 of 32 random bytes. Absent in bundles of old contracts.
    pub secretbox_encryption_secret: Option<SecretString>,
    /// The same for the contracts of Talos up to 1.2; read and kept, never generated.
    pub aescbc_encryption_secret: Option<SecretString>,
    /// Lets a worker ask trustd for its certificate, `abcdef.0123456789abcdef`; `machine.token` in configurations.
    pub trustd_token: SecretString,
    /// The authority of etcd.
    pub etcd: CertificateAndKey,
    /// The authority of the Kubernetes API.
    pub kubernetes: CertificateAndKey,
    /// The authority of the aggregation layer (front proxy).
    pub aggregator: CertificateAndKey,
    /// PEM of the key that signs service-account tokens.
    pub service_account_key: SecretString,
    /// The authority of the Talos API.
    pub os: CertificateAndKey,
}

impl Bundle {
    /// A fresh bundle for nodes of `minor`.
    ///
    /// `service_account_key` comes from [`pki::service_account_key`], which is slow, or from a pool of ready ones.
    pub fn generate(minor: Minor, service_account_key: SecretString, now: jiff::Timestamp) -> Result<Self, pki::Error> {
        let alphabet = if minor >= Minor::V1_14 { &STANDARD } else { &URL_SAFE };
        Ok(Self {
            cluster_id: alphabet.encode(random_bytes(32)),
            cluster_secret: random_secret(),
            bootstrap_token: random_token(),
            secretbox_encryption_secret: Some(random_secret()),
            aescbc_encryption_secret: None,
            trustd_token: random_token(),
            etcd: authority(Algorithm::EcdsaP256, Some("etcd"), now)?,
            kubernetes: authority(Algorithm::EcdsaP256, Some("kubernetes"), now)?,
            aggregator: authority(Algorithm::EcdsaP256, None, now)?,
            service_account_key,
            os: authority(Algorithm::Ed25519, Some("talos"), now)?,
        })
    }

    /// Reads `secrets.yaml`.
    pub fn from_yaml(text: &str) -> Result<Self, Error> {
        file::read(text)
    }

    /// Writes `secrets.yaml`.
    pub fn to_yaml(&self) -> Result<SecretString, Error> {
        file::write(self)
    }
}

/// Why a `secrets.yaml` cannot be read or written. Shows no content of the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not YAML, or of another shape.
    #[error("secrets.yaml cannot be read: {0}")]
    Shape(String),
    /// A value that is not base64 of PEM text.
    #[error("{0} is not base64 of PEM text")]
    Encoding(&'static str),
    /// Neither of the two encryption secrets is there.
    #[error("neither secretboxencryptionsecret nor aescbcencryptionsecret is set")]
    NoEncryptionSecret,
}

fn random_secret() -> SecretString {
    SecretString::from(STANDARD.encode(random_bytes(32)))
}

/// `[0-9a-z]{6}.[0-9a-z]{16}`, as kubeadm's tokens are.
fn random_token() -> SecretString {
    const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut random = rand::rng();
    let mut part = |length: usize| -> String {
        (0..length).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
    };
    SecretString::from(format!("{}.{}", part(6), part(16)))
}
