//! How to reach a Proxmox VE cluster and how hard to press it.

use std::{fmt, str::FromStr, time::Duration};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::{targets::AllowedTargets, trust::Trust};

/// Everything a [`Client`](crate::Client) needs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes of one cluster; the first that answers is used, the next when it stops answering.
    pub endpoints: Vec<Endpoint>,
    /// Who we are.
    pub credentials: Credentials,
    /// Whom we believe.
    pub trust: Trust,
    /// Where connections may go.
    pub allowed_targets: AllowedTargets,
    /// How long to wait for what.
    pub timeouts: Timeouts,
}

/// `https://host[:port]`, port 8006 by default.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: http::Uri = text.parse().map_err(|error| format!("{text:?} is not a URL: {error}"))?;
        match uri.scheme_str() {
            Some("https") => {}
            Some(other) => return Err(format!("{text:?}: Proxmox VE speaks https only, not {other}")),
            None => return Err(format!("{text:?} needs the form https://host:8006")),
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(format!("{text:?}: leave out everything after the port, the client adds /api2/json"));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| format!("{text:?} has no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: uri.port_u16().unwrap_or(8006) })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "https://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "https://{}:{}", self.host, self.port)
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

/// Who we are.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// An API token: no renewal, no CSRF.
    Token {
        /// `user@realm!token`.
        id: String,
        /// Its UUID.
        secret: SecretString,
    },
    /// A password, exchanged for a ticket that is renewed before its two hours end.
    Password {
        /// `user@realm`.
        user: String,
        /// The password.
        password: SecretString,
    },
}

impl Credentials {
    /// Reads `user@realm!token=secret`, as Proxmox shows it, or `user@realm:password`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let text = text.strip_prefix("PVEAPIToken=").unwrap_or(text);
        let form = "expected user@realm!token=secret or user@realm:password";
        if let Some((id, secret)) = text.split_once('=').filter(|(id, _)| id.contains('!') && id.contains('@')) {
            if secret.is_empty() {
                return Err(format!("the token's secret is empty; {form}"));
            }
            return Ok(Self::Token { id: id.to_owned(), secret: secret.to_owned().into() });
        }
        match text.split_once(':') {
            Some((user, password)) if user.contains('@') && !password.is_empty() => {
                Ok(Self::Password { user: user.to_owned(), password: password.to_owned().into() })
            }
            _ => Err(form.to_owned()),
        }
    }

    /// `user@realm!token` or `user@realm`.
    pub fn identity(&self) -> &str {
        match self {
            Self::Token { id, .. } => id,
            Self::Password { user, .. } => user,
        }
    }
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// TCP and TLS together, per endpoint.
    pub connect: Duration,
    /// From the first byte sent to the last received. Proxmox's own node-to-node proxy gives up after 30 s, and locks
    /// are waited for 10 s inside a call.
    pub request: Duration,
    /// Shortest pause between two looks at a running task; grows with the task's age.
    pub poll_least: Duration,
    /// Longest pause between two looks.
    pub poll_most: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(45),
            poll_least: Duration::from_millis(50),
            poll_most: Duration::from_secs(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn endpoints_are_urls_without_a_path() {
        let endpoint: Endpoint = "https://pve1.example".parse().unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.port), ("pve1.example", 8006));
        assert_eq!("https://[fd00::1]:443".parse::<Endpoint>().unwrap().to_string(), "https://[fd00::1]:443");
        for text in ["pve1:8006", "http://pve1:8006", "https://pve1:8006/api2/json"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_credential_is_read_as_proxmox_shows_it() {
        let token = Credentials::parse("PVEAPIToken=cortex@pve!infra=12345678-1234\n").unwrap();
        let Credentials::Token { id, secret } = &token else { panic!("a token") };
        assert_eq!((id.as_str(), secret.expose_secret()), ("cortex@pve!infra", "12345678-1234"));
        assert!(!format!("{token:?}").contains("12345678-1234"));
        assert!(matches!(Credentials::parse("root@pam:pass=word!"), Ok(Credentials::Password { .. })));
        assert!(Credentials::parse("nonsense").is_err());
    }
}
