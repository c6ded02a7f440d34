//! Who may connect, what each may do, and their key files.

use std::{
    fmt, fs, io,
    io::Write,
    path::{Path, PathBuf},
    str::FromStr,
};

use messages::subject::Party;
use nkeys::KeyPair;
use secrecy::{ExposeSecret, SecretString, zeroize::Zeroize};
use serde::Serialize;

use crate::{
    connect::inbox_prefix,
    streams::{DEADLETTER, EVENTS, HANDOFFS, REQUESTS, handoffs_of, requests_of},
};

/// An identity that the generated server configuration knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// infrastructure-contractor.
    Infrastructure,
    /// talos-contractor.
    Talos,
    /// Agents that ask for clusters.
    Coordinator,
    /// People with `cortexctl`.
    Operator,
    /// The MCP bridge.
    Mcp,
    /// Makes streams and consumers; not for daily use. It could read every stream and delete it.
    Admin,
}

impl Identity {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Infrastructure, Self::Talos, Self::Coordinator, Self::Operator, Self::Mcp, Self::Admin];

    /// As it is written, in file names and inbox prefixes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Infrastructure => "infrastructure",
            Self::Talos => "talos",
            Self::Coordinator => "coordinator",
            Self::Operator => "operator",
            Self::Mcp => "mcp",
            Self::Admin => "admin",
        }
    }

    /// What it may publish and read: the least with which it can work.
    pub fn permissions(self) -> Permissions {
        match self {
            Self::Infrastructure => contractor(Party::Infrastructure, Party::Talos),
            Self::Talos => contractor(Party::Talos, Party::Infrastructure),
            Self::Coordinator => {
                user(self, &["cortex.request.*.*", "cortex.cmd.*.submit", "cortex.query.>"]).tailing(EVENTS)
            }
            Self::Operator => user(self, &["cortex.request.*.*", "cortex.cmd.>", "cortex.query.>"])
                .tailing(EVENTS)
                .tailing(DEADLETTER)
                .fetching(&[REQUESTS, HANDOFFS, EVENTS, DEADLETTER])
                .looking_at_consumers(&[REQUESTS, HANDOFFS]),
            // It plans, submits and looks. Credentials, approvals and stores are an operator's.
            Self::Mcp => {
                user(self, &["cortex.request.*.*", "cortex.cmd.*.submit", "cortex.query.>", "cortex.event.mcp.*.*"])
                    .tailing(EVENTS)
            }
            // It speaks with the server and with nobody else.
            Self::Admin => Permissions {
                publish: vec!["$JS.API.>".to_owned()],
                subscribe: vec![format!("{}.>", inbox_prefix(self.as_str()))],
                allow_responses: false,
            },
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Identity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|identity| identity.as_str() == text);
        found.ok_or_else(|| format!("`{text}` is none of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// Subjects that an identity may use; everything else is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Permissions {
    /// To publish on.
    pub publish: Vec<String>,
    /// To subscribe to.
    pub subscribe: Vec<String>,
    /// Whether it may answer what it is asked, once per question.
    pub allow_responses: bool,
}

impl Permissions {
    /// Reading a stream from any point on, by consumers that vanish with their reader.
    fn tailing(mut self, stream: &str) -> Self {
        self.publish.extend([
            format!("$JS.API.STREAM.INFO.{stream}"),
            format!("$JS.API.CONSUMER.CREATE.{stream}"),
            format!("$JS.API.CONSUMER.CREATE.{stream}.>"),
            format!("$JS.API.CONSUMER.INFO.{stream}.*"),
            format!("$JS.API.CONSUMER.DELETE.{stream}.*"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.*"),
        ]);
        self
    }

    /// Comparing durable consumers with what they should be.
    fn looking_at_consumers(mut self, streams: &[&str]) -> Self {
        self.publish.extend(streams.iter().map(|stream| format!("$JS.API.CONSUMER.INFO.{stream}.*")));
        self
    }

    /// Reading single messages of streams, for dead letters.
    fn fetching(mut self, streams: &[&str]) -> Self {
        for stream in streams {
            self.publish.push(format!("$JS.API.DIRECT.GET.{stream}"));
            self.publish.push(format!("$JS.API.STREAM.INFO.{stream}"));
        }
        self.publish.sort();
        self.publish.dedup();
        self
    }
}

/// A contractor takes its own requests and handoffs, hands to the other, tells its own events, answers its own service.
fn contractor(own: Party, other: Party) -> Permissions {
    let mut publish = vec![
        format!("cortex.handoff.{other}.*"),
        format!("cortex.event.{own}.*.*"),
        format!("cortex.deadletter.{own}"),
        format!("cortex.query.{other}.>"),
        "cortex.reply.>".to_owned(),
        "$JS.API.INFO".to_owned(),
    ];
    for stream in [REQUESTS, HANDOFFS, EVENTS, DEADLETTER] {
        publish.push(format!("$JS.API.STREAM.INFO.{stream}"));
    }
    // What an operator wants taken again is read from where it lies.
    publish.push(format!("$JS.API.DIRECT.GET.{HANDOFFS}"));
    for (stream, durable) in [(REQUESTS, requests_of(own)), (HANDOFFS, handoffs_of(own))] {
        publish.push(format!("$JS.API.CONSUMER.INFO.{stream}.{durable}"));
        publish.push(format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"));
        // Acks in both forms: servers are about to change from the first to the second (reliability.md 0.11).
        publish.push(format!("$JS.ACK.{stream}.{durable}.>"));
        publish.push(format!("$JS.ACK.*.*.{stream}.{durable}.>"));
    }
    let service = format!("{own}-contractor");
    let mut subscribe = vec![
        format!("{}.>", inbox_prefix(own.as_str())),
        format!("cortex.query.{own}.>"),
        format!("cortex.cmd.{own}.>"),
    ];
    for verb in ["PING", "INFO", "STATS"] {
        subscribe.push(format!("$SRV.{verb}"));
        subscribe.push(format!("$SRV.{verb}.{service}"));
        subscribe.push(format!("$SRV.{verb}.{service}.*"));
    }
    Permissions { publish, subscribe, allow_responses: true }
}

/// Somebody who asks and listens.
fn user(identity: Identity, publish: &[&str]) -> Permissions {
    let mut publish: Vec<String> = publish.iter().map(ToString::to_string).collect();
    publish.extend(["$SRV.INFO", "$SRV.PING", "$JS.API.INFO"].map(str::to_owned));
    let subscribe = vec![
        format!("{}.>", inbox_prefix(identity.as_str())),
        format!("cortex.reply.{identity}.>"),
        "cortex.event.>".to_owned(),
    ];
    Permissions { publish, subscribe, allow_responses: false }
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("nkey file {} cannot be used: {reason}", .path.display())]
pub struct KeyError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// Makes the nkey of an identity in a file of mode 0600, unless there is one; returns the public key (`U…`).
pub fn ensure_key(path: &Path) -> Result<String, KeyError> {
    if path.exists() {
        return public_key(&read_seed(path)?, path);
    }
    let failed = |reason: String| KeyError { path: path.to_owned(), reason };
    let pair = KeyPair::new_user();
    let mut seed = pair.seed().map_err(|error| failed(error.to_string()))?;
    let written = write_private(path, format!("{seed}\n").as_bytes());
    seed.zeroize();
    written.map_err(|error| failed(error.to_string()))?;
    Ok(pair.public_key())
}

/// Reads an nkey seed from a file that only its owner may read.
pub fn read_seed(path: &Path) -> Result<SecretString, KeyError> {
    let failed = |reason: String| KeyError { path: path.to_owned(), reason };
    #[cfg(unix)]
    {
        let metadata = fs::metadata(path).map_err(|error| failed(error.to_string()))?;
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
        if mode & 0o077 != 0 {
            return Err(failed(format!("others may read it (mode {mode:o}): `chmod 600` it")));
        }
    }
    let mut text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let seed = SecretString::from(text.trim().to_owned());
    text.zeroize();
    public_key(&seed, path)?;
    Ok(seed)
}

/// The public key (`U…`) of a seed that was read from `path`.
pub fn public_key(seed: &SecretString, path: &Path) -> Result<String, KeyError> {
    let pair = KeyPair::from_seed(seed.expose_secret());
    let pair = pair.map_err(|error| KeyError { path: path.to_owned(), reason: format!("no nkey seed: {error}") })?;
    Ok(pair.public_key())
}

pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use messages::service;

    use super::*;

    /// The broker lets nobody give a command that the contractors would refuse for its source, and everybody else give it.
    #[test]
    fn the_broker_gives_the_rights_to_commands_that_the_contract_gives() {
        for identity in [Identity::Coordinator, Identity::Operator, Identity::Mcp] {
            let publish = identity.permissions().publish;
            for party in [Party::Infrastructure, Party::Talos] {
                for service in service::of(party).filter(|service| !service.reads) {
                    let subjects = ["cortex.cmd.>".to_owned(), service.subject(party).replace(party.as_str(), "*")];
                    let may = subjects.iter().any(|subject| publish.contains(subject));
                    assert_eq!(may, service.may_come_from(&format!("/{identity}/a")), "{identity} {}", service.name);
                }
            }
        }
    }
}
