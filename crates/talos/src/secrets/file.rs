//! `secrets.yaml`: PEM texts as base64, tokens and random secrets as they are.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{Bundle, Error};
use crate::pki::CertificateAndKey;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cluster: Cluster,
    secrets: Secrets,
    trustdinfo: Trustd,
    certs: Certificates,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    id: String,
    secret: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Secrets {
    bootstraptoken: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    aescbcencryptionsecret: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secretboxencryptionsecret: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trustd {
    token: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificates {
    etcd: Pair,
    k8s: Pair,
    k8saggregator: Pair,
    k8sserviceaccount: Key,
    os: Pair,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    crt: String,
    key: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    key: String,
}

pub(super) fn read(text: &str) -> Result<Bundle, Error> {
    let options = serde_saphyr::options! { with_snippet: false };
    let file: File = serde_saphyr::from_str_with_options(text, options).map_err(|error| Error::Shape(place(&error)))?;
    if file.secrets.aescbcencryptionsecret.is_none() && file.secrets.secretboxencryptionsecret.is_none() {
        return Err(Error::NoEncryptionSecret);
    }
    Ok(Bundle {
        cluster_id: file.cluster.id,
        cluster_secret: file.cluster.secret.into(),
        bootstrap_token: file.secrets.bootstraptoken.into(),
        secretbox_encryption_secret: file.secrets.secretboxencryptionsecret.map(SecretString::from),
        aescbc_encryption_secret: file.secrets.aescbcencryptionsecret.map(SecretString::from),
        trustd_token: file.trustdinfo.token.into(),
        etcd: file.certs.etcd.decode("certs.etcd")?,
        kubernetes: file.certs.k8s.decode("certs.k8s")?,
        aggregator: file.certs.k8saggregator.decode("certs.k8saggregator")?,
        service_account_key: decode(&file.certs.k8sserviceaccount.key, "certs.k8sserviceaccount")?.into(),
        os: file.certs.os.decode("certs.os")?,
    })
}

/// Where reading stopped; the parser's own text might quote the value.
fn place(error: &serde_saphyr::Error) -> String {
    match error.location() {
        Some(location) => format!("another shape at line {}, column {}", location.line(), location.column()),
        None => "not a secrets bundle".to_owned(),
    }
}

pub(super) fn write(bundle: &Bundle) -> Result<SecretString, Error> {
    let exposed = |secret: &SecretString| secret.expose_secret().to_owned();
    let file = File {
        cluster: Cluster { id: bundle.cluster_id.clone(), secret: exposed(&bundle.cluster_secret) },
        secrets: Secrets {
            bootstraptoken: exposed(&bundle.bootstrap_token),
            aescbcencryptionsecret: bundle.aescbc_encryption_secret.as_ref().map(exposed),
            secretboxencryptionsecret: bundle.secretbox_encryption_secret.as_ref().map(exposed),
        },
        trustdinfo: Trustd { token: exposed(&bundle.trustd_token) },
        certs: Certificates {
            etcd: Pair::encode(&bundle.etcd),
            k8s: Pair::encode(&bundle.kubernetes),
            k8saggregator: Pair::encode(&bundle.aggregator),
            k8sserviceaccount: Key { key: STANDARD.encode(bundle.service_account_key.expose_secret()) },
            os: Pair::encode(&bundle.os),
        },
    };
    let options = serde_saphyr::ser_options! { indent_step: 4, prefer_block_scalars: false };
    let text = serde_saphyr::to_string_with_options(&file, options)
        .map_err(|_| Error::Shape("it cannot be written".to_owned()))?;
    Ok(text.into())
}

impl Pair {
    fn encode(pair: &CertificateAndKey) -> Self {
        Self { crt: STANDARD.encode(&pair.crt), key: STANDARD.encode(pair.key.expose_secret()) }
    }

    fn decode(&self, at: &'static str) -> Result<CertificateAndKey, Error> {
        Ok(CertificateAndKey { crt: decode(&self.crt, at)?, key: decode(&self.key, at)?.into() })
    }
}

fn decode(text: &str, at: &'static str) -> Result<String, Error> {
    let bytes = STANDARD.decode(text).map_err(|_| Error::Encoding(at))?;
    String::from_utf8(bytes).map_err(|_| Error::Encoding(at))
}
