//! The subjects of the bus, as a type; nothing else builds or takes apart their text.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::name::ClusterName;

/// Who owns a contractor's end of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Party {
    /// infrastructure-contractor.
    Infrastructure,
    /// talos-contractor.
    Talos,
    /// The MCP bridge.
    Mcp,
}

impl Party {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Infrastructure, Self::Talos, Self::Mcp];

    /// The token in a subject.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Infrastructure => "infrastructure",
            Self::Talos => "talos",
            Self::Mcp => "mcp",
        }
    }

    /// The `ce-source` of what it sends.
    pub fn source(self) -> String {
        format!("/{}", self.as_str())
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Party {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::ALL.into_iter().find(|party| party.as_str() == text).ok_or_else(|| ParseError(text.to_owned()))
    }
}

/// One subject on which messages travel (design: section 5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// `cortex.request.<to>.<type>`
    Request {
        /// Who is asked.
        to: Party,
        /// What is asked.
        kind: String,
    },
    /// `cortex.handoff.<to>.<type>`
    Handoff {
        /// Who takes over.
        to: Party,
        /// What is handed over.
        kind: String,
    },
    /// `cortex.event.<from>.<cluster or _>.<type>`
    Event {
        /// Who tells.
        from: Party,
        /// The cluster it is about.
        cluster: Option<ClusterName>,
        /// What happened.
        kind: String,
    },
    /// `cortex.deadletter.<at>`
    DeadLetter {
        /// Who refused.
        at: Party,
    },
}

impl Subject {
    /// The message type at its end; a dead letter's is `dead_letter`.
    pub fn kind(&self) -> &str {
        match self {
            Self::Request { kind, .. } | Self::Handoff { kind, .. } | Self::Event { kind, .. } => kind,
            Self::DeadLetter { .. } => "dead_letter",
        }
    }

    /// The `ce-type` of a message on it, version 1: `cortex.handoff.vm_provisioned.v1`.
    pub fn ce_type(&self) -> String {
        let family = match self {
            Self::Request { .. } => "request",
            Self::Handoff { .. } => "handoff",
            Self::Event { .. } | Self::DeadLetter { .. } => "event",
        };
        format!("cortex.{family}.{}.v1", self.kind())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { to, kind } => write!(f, "cortex.request.{to}.{kind}"),
            Self::Handoff { to, kind } => write!(f, "cortex.handoff.{to}.{kind}"),
            Self::Event { from, cluster, kind } => {
                let cluster = cluster.as_ref().map_or("_", ClusterName::as_str);
                write!(f, "cortex.event.{from}.{cluster}.{kind}")
            }
            Self::DeadLetter { at } => write!(f, "cortex.deadletter.{at}"),
        }
    }
}

/// The text is not one of the project's subjects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a subject of this system: {0:?}")]
pub struct ParseError(String);

impl FromStr for Subject {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parts: Vec<&str> = text.split('.').collect();
        let wrong = || ParseError(text.chars().take(200).collect());
        let party = |text: &str| text.parse::<Party>().map_err(|_| wrong());
        let kind = |text: &str| {
            let good =
                !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if good { Ok(text.to_owned()) } else { Err(wrong()) }
        };
        match parts.as_slice() {
            ["cortex", "request", to, of] => Ok(Self::Request { to: party(to)?, kind: kind(of)? }),
            ["cortex", "handoff", to, of] => Ok(Self::Handoff { to: party(to)?, kind: kind(of)? }),
            ["cortex", "event", from, cluster, of] => {
                let cluster = match *cluster {
                    "_" => None,
                    name => Some(name.parse().map_err(|_| wrong())?),
                };
                Ok(Self::Event { from: party(from)?, cluster, kind: kind(of)? })
            }
            ["cortex", "deadletter", at] => Ok(Self::DeadLetter { at: party(at)? }),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_round_trip() {
        for text in [
            "cortex.request.infrastructure.provision_cluster",
            "cortex.handoff.talos.vm_provisioned",
            "cortex.event.talos.prod-k8s.step_started",
            "cortex.event.infrastructure._.rejected",
            "cortex.deadletter.mcp",
        ] {
            assert_eq!(text.parse::<Subject>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn foreign_subjects_are_refused() {
        for text in
            ["", "cortex", "cortex.request.nobody.x", "cortex.request.talos.*", "cortex.event.talos.UP.x", "a.b.c.d"]
        {
            assert!(text.parse::<Subject>().is_err(), "{text}");
        }
    }
}
