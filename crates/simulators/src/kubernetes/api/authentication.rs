//! Who sends a request: client certificate, bearer token, or nobody.

use http::HeaderMap;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::error::ApiError;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::text;

/// An authenticated sender.
#[derive(Clone, Debug, Default)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
}

impl User {
    pub(crate) fn is_anonymous(&self) -> bool {
        self.name == "system:anonymous"
    }

    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|it| it == group)
    }

    /// As `TokenReview` and `SelfSubjectReview` show it.
    pub(crate) fn to_json(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = json!(self.uid);
        }
        info
    }

    fn authenticated(name: String, uid: String, mut groups: Vec<String>) -> Self {
        groups.push("system:authenticated".into());
        Self { name, uid, groups }
    }
}

/// Common name and organisations of a client certificate that the TLS handshake verified against the cluster CA.
pub(crate) fn from_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|it| it.as_str().ok().map(str::to_owned)).collect();
    Some(User::authenticated(name, String::new(), groups))
}

/// The sender of a request, from the connection's certificate or the `Authorization` header, with impersonation applied.
///
/// # Errors
/// 401 for a bearer token that is not valid.
pub(crate) fn authenticate(
    cluster: &Cluster,
    certificate: Option<&User>,
    headers: &HeaderMap,
) -> Result<User, ApiError> {
    if let Some(user) = certificate {
        return Ok(user.clone());
    }
    let header = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match header.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(token) => from_token(cluster, token).ok_or_else(ApiError::unauthorized),
        None => Ok(User {
            name: "system:anonymous".into(),
            uid: String::new(),
            groups: vec!["system:unauthenticated".into()],
        }),
    }
}

/// The bearer of a service-account token or of a bootstrap token.
pub(crate) fn from_token(cluster: &Cluster, token: &str) -> Option<User> {
    from_bootstrap_token(cluster, token).or_else(|| from_service_account_token(cluster, token))
}

fn from_bootstrap_token(cluster: &Cluster, token: &str) -> Option<User> {
    let (id, secret) = token.split_once('.')?;
    let stored = cluster.store.get("secrets", "kube-system", &format!("bootstrap-token-{id}"))?;
    let part = |key: &str| cluster_secret(&stored, key);
    let valid = part("token-secret")? == secret && part("usage-bootstrap-authentication")? == "true";
    let mut groups = vec!["system:bootstrappers".to_owned()];
    groups.extend(
        part("auth-extra-groups").into_iter().flat_map(|it| it.split(',').map(str::to_owned).collect::<Vec<_>>()),
    );
    valid.then(|| User::authenticated(format!("system:bootstrap:{id}"), String::new(), groups))
}

/// A decoded value of a Secret.
fn cluster_secret(secret: &Value, key: &str) -> Option<String> {
    use base64::Engine as _;
    let encoded = secret["data"][key].as_str()?;
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(encoded).ok()?).ok()
}

fn from_service_account_token(cluster: &Cluster, token: &str) -> Option<User> {
    let claims = cluster.tokens.as_ref()?.verify(token)?;
    let bound = &claims["kubernetes.io"];
    let (namespace, name) = (text(bound, "/namespace"), text(bound, "/serviceaccount/name"));
    let account = cluster.store.get("serviceaccounts", namespace, name)?;
    let uid = crate::kubernetes::object::uid(&account);
    let groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    (text(bound, "/serviceaccount/uid") == uid)
        .then(|| User::authenticated(text(&claims, "/sub").to_owned(), uid.to_owned(), groups))
}
