//! Versions, and what differs between 8.4 and 9.x (proxmox.md 9).

use serde::Deserialize;

use crate::{Client, Error, Result, error::Kind, form::Params};

/// A Proxmox VE version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 8 or 9.
    pub major: u16,
    /// 4, 1, …
    pub minor: u16,
}

impl Version {
    /// Reads `9.1.3` or `8.4-1`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(['.', '-', '~']);
        Some(Self { major: parts.next()?.parse().ok()?, minor: parts.next().and_then(|p| p.parse().ok()).unwrap_or(0) })
    }

    /// Whether a qcow2 or raw image can be fetched into an `import` storage and imported, all by the API (from 8.4).
    pub fn imports_images(self) -> bool {
        self >= Self { major: 8, minor: 4 }
    }

    /// Whether `VM.Monitor` is gone and `VM.GuestAgent.*` took its place.
    pub fn has_guest_agent_privileges(self) -> bool {
        self.major >= 9
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[derive(Deserialize)]
struct Answer {
    version: String,
}

impl Client {
    /// The version of the node that answers.
    pub async fn version(&self) -> Result<Version> {
        let answer: Answer = self.get("/version", &Params::default()).await?;
        Version::parse(&answer.version)
            .ok_or_else(|| Error::new(Kind::Protocol, "GET /version", format!("not a version: {}", answer.version)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_both_lines_are_read() {
        assert_eq!(Version::parse("9.1.3"), Some(Version { major: 9, minor: 1 }));
        assert!(Version::parse("8.4-1").unwrap().imports_images());
        assert!(!Version::parse("8.3.5").unwrap().imports_images());
        assert_eq!(Version::parse("pve"), None);
    }
}
