//! An administrator's kubeconfig made from the cluster's secrets, in the shape that Talos hands out (talos.md 3.9).

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use crate::{
    pki::{self, CertificateAndKey},
    secrets::Bundle,
};

/// The group that Kubernetes grants everything.
pub const ADMIN_GROUP: &str = "system:masters";
/// The user that the certificate names.
pub const ADMIN_USER: &str = "admin";

/// The client certificate that a kubeconfig shows, as PEM; none where it shows another proof or cannot be read.
pub fn certificate_of(text: &str) -> Option<String> {
    let config: serde_json::Value = serde_saphyr::from_str(text).ok()?;
    let data = config.pointer("/users/0/user/client-certificate-data")?.as_str()?;
    String::from_utf8(STANDARD.decode(data).ok()?).ok()
}

/// A client certificate `O=system:masters CN=admin` of the cluster's Kubernetes authority.
pub fn admin_certificate(
    bundle: &Bundle,
    lifetime: Duration,
    now: jiff::Timestamp,
) -> Result<CertificateAndKey, pki::Error> {
    pki::kubernetes_client_certificate(&bundle.kubernetes, ADMIN_USER, ADMIN_GROUP, lifetime, now)
}

/// A kubeconfig with the context `admin@<cluster>`; `server` is the cluster's endpoint, `https://10.0.0.10:6443`.
pub fn admin_kubeconfig(
    bundle: &Bundle,
    cluster: &str,
    server: &str,
    lifetime: Duration,
    now: jiff::Timestamp,
) -> Result<SecretString, pki::Error> {
    let client = admin_certificate(bundle, lifetime, now)?;
    let user = format!("{ADMIN_USER}@{cluster}");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": cluster, "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(&bundle.kubernetes.crt),
        }}],
        "users": [{ "name": user, "user": {
            "client-certificate-data": STANDARD.encode(&client.crt),
            "client-key-data": STANDARD.encode(client.key.expose_secret()),
        }}],
        "contexts": [{ "name": user, "context": { "cluster": cluster, "namespace": "default", "user": user } }],
        "current-context": user,
    });
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let text = serde_saphyr::to_string_with_options(&config, options).expect("plain values are written");
    Ok(text.into())
}
