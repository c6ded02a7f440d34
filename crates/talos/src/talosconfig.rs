//! talosconfig: where the nodes of each cluster are, and with what certificate they are spoken to (talos.md 5.4).

use std::net::IpAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use indexmap::IndexMap;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    api::Credentials,
    pki::{self, CertificateAndKey},
};

/// A talosconfig. `Debug` shows no key.
#[derive(Clone, Debug, Default)]
pub struct TalosConfig {
    /// The current context; empty if there is none.
    pub context: String,
    /// Contexts by name, in the order of the file.
    pub contexts: IndexMap<String, Context>,
}

/// One cluster and one identity.
#[derive(Clone, Debug)]
pub struct Context {
    /// Control planes to connect to: addresses or names, with an optional port.
    pub endpoints: Vec<String>,
    /// Nodes that commands go to when none is named.
    pub nodes: Vec<String>,
    /// The certificates; `None` where another way of authentication is used.
    pub credentials: Option<Credentials>,
    /// What else the file says here, kept as it is.
    pub rest: IndexMap<String, Value>,
}

/// Why a talosconfig cannot be read or written. Shows no content.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not YAML, or of another shape.
    #[error("the talosconfig is not in the expected shape{0}")]
    Shape(String),
    /// A value that is not base64 of PEM text.
    #[error("{field} of context `{context}` is not base64 of PEM text")]
    Encoding { context: String, field: &'static str },
}

#[derive(Serialize, Deserialize)]
struct File {
    #[serde(default)]
    context: String,
    #[serde(default)]
    contexts: IndexMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(default)]
    endpoints: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    ca: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    crt: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    key: String,
    #[serde(flatten)]
    rest: IndexMap<String, Value>,
}

impl TalosConfig {
    /// A file with one context, named like the cluster.
    pub fn new(cluster: &str, endpoints: &[IpAddr], credentials: Credentials) -> Self {
        let context = Context {
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
            nodes: Vec::new(),
            credentials: Some(credentials),
            rest: IndexMap::new(),
        };
        Self { context: cluster.to_owned(), contexts: IndexMap::from([(cluster.to_owned(), context)]) }
    }

    /// Reads a file.
    pub fn from_yaml(text: &str) -> Result<Self, Error> {
        let options = serde_saphyr::options! { with_snippet: false };
        let file: File = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let place = error.location().map(|at| format!(" at line {}, column {}", at.line(), at.column()));
            Error::Shape(place.unwrap_or_default())
        })?;
        let contexts = file.contexts.into_iter().map(|(name, entry)| Ok((name.clone(), entry.decode(&name)?)));
        Ok(Self { context: file.context, contexts: contexts.collect::<Result<_, Error>>()? })
    }

    /// Writes a file.
    pub fn to_yaml(&self) -> Result<SecretString, Error> {
        let contexts = self.contexts.iter().map(|(name, context)| (name.clone(), Entry::encode(context))).collect();
        let file = File { context: self.context.clone(), contexts };
        let options = serde_saphyr::ser_options! { indent_step: 4, prefer_block_scalars: false };
        serde_saphyr::to_string_with_options(&file, options)
            .map(SecretString::from)
            .map_err(|_| Error::Shape(String::new()))
    }

    /// Takes over the contexts of `other`; one whose name is taken is renamed `name-1`, `name-2`, …
    ///
    /// The current context becomes that of `other`, as `talosctl config merge` has it. Returns the renamed pairs.
    pub fn merge(&mut self, other: Self) -> Vec<(String, String)> {
        let mut renamed = Vec::new();
        for (name, context) in other.contexts {
            let free = self.free_name(&name);
            if name == other.context {
                self.context.clone_from(&free);
            }
            self.contexts.insert(free.clone(), context);
            if free != name {
                renamed.push((name, free));
            }
        }
        renamed
    }

    fn free_name(&self, name: &str) -> String {
        let numbered = (1..).map(|number| format!("{name}-{number}"));
        std::iter::once(name.to_owned())
            .chain(numbered)
            .find(|candidate| !self.contexts.contains_key(candidate))
            .expect("numbers do not end")
    }
}

impl Entry {
    fn encode(context: &Context) -> Self {
        let credentials = context.credentials.as_ref();
        let encoded = |text: Option<&str>| text.map(|text| STANDARD.encode(text)).unwrap_or_default();
        Self {
            endpoints: context.endpoints.clone(),
            nodes: context.nodes.clone(),
            ca: encoded(credentials.map(|of| of.authority.as_str())),
            crt: encoded(credentials.map(|of| of.client.crt.as_str())),
            key: encoded(credentials.map(|of| of.client.key.expose_secret())),
            rest: context.rest.clone(),
        }
    }

    fn decode(self, context: &str) -> Result<Context, Error> {
        let decode = |text: &str, field: &'static str| -> Result<String, Error> {
            let bytes = STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            bytes.ok_or_else(|| Error::Encoding { context: context.to_owned(), field })
        };
        let credentials = if self.crt.is_empty() && self.key.is_empty() {
            None
        } else {
            let client = CertificateAndKey { crt: decode(&self.crt, "crt")?, key: decode(&self.key, "key")?.into() };
            Some(Credentials { authority: decode(&self.ca, "ca")?, client })
        };
        Ok(Context { endpoints: self.endpoints, nodes: self.nodes, credentials, rest: self.rest })
    }
}

impl Credentials {
    /// Fresh credentials signed by the cluster's API authority.
    pub fn issue(
        authority: &CertificateAndKey,
        roles: &pki::Roles,
        lifetime: std::time::Duration,
        now: jiff::Timestamp,
    ) -> Result<Self, pki::Error> {
        let client = pki::client_certificate(authority, roles, lifetime, now)?;
        Ok(Self { authority: authority.crt.clone(), client })
    }
}
