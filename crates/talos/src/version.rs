//! Versions of Talos: which lines are supported, which Kubernetes each can run (talos.md 1).

use std::{fmt, str::FromStr};

/// A line of Talos releases. Machine configuration, secrets and the API differ between lines, not inside one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Minor {
    V1_12,
    V1_13,
    /// Facts of 1.14 are those of its rc.1.
    V1_14,
}

impl Minor {
    /// All supported lines, oldest first.
    pub const ALL: [Self; 3] = [Self::V1_12, Self::V1_13, Self::V1_14];

    /// The line of a version such as `v1.13.9`, `1.13.9` or `v1.14.0-rc.1`.
    pub fn of(version: &str) -> Result<Self, Unsupported> {
        let parsed = semver::Version::parse(version.trim_start_matches('v'));
        match parsed.map(|parsed| (parsed.major, parsed.minor)) {
            Ok((1, 12)) => Ok(Self::V1_12),
            Ok((1, 13)) => Ok(Self::V1_13),
            Ok((1, 14)) => Ok(Self::V1_14),
            _ => Err(Unsupported(version.to_owned())),
        }
    }

    /// The minor number, 13 for 1.13.
    pub fn number(self) -> u64 {
        match self {
            Self::V1_12 => 12,
            Self::V1_13 => 13,
            Self::V1_14 => 14,
        }
    }

    /// True if Kubernetes is configured by documents of its own instead of the main one (talos.md 5.2).
    pub fn has_kubernetes_documents(self) -> bool {
        self >= Self::V1_14
    }

    /// The newest release of the line that this crate was checked against.
    pub fn newest(self) -> &'static str {
        match self {
            Self::V1_12 => "v1.12.11",
            Self::V1_13 => "v1.13.9",
            Self::V1_14 => "v1.14.0-rc.1",
        }
    }

    /// The Kubernetes version that this line installs by default.
    pub fn default_kubernetes(self) -> &'static str {
        match self {
            Self::V1_12 => "1.35.4",
            Self::V1_13 => "1.36.3",
            Self::V1_14 => "1.37.0-rc.0",
        }
    }

    /// The Kubernetes minors (of major 1) that this line runs, first and last.
    pub fn kubernetes_minors(self) -> (u64, u64) {
        match self {
            Self::V1_12 => (30, 35),
            Self::V1_13 => (31, 36),
            Self::V1_14 => (32, 37),
        }
    }

    /// Whether this line runs the given Kubernetes version, `1.36.3` or `v1.36.3`.
    pub fn runs_kubernetes(self, version: &str) -> bool {
        let (first, last) = self.kubernetes_minors();
        semver::Version::parse(version.trim_start_matches('v'))
            .is_ok_and(|version| version.major == 1 && (first..=last).contains(&version.minor))
    }
}

impl fmt::Display for Minor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1_12 => "1.12",
            Self::V1_13 => "1.13",
            Self::V1_14 => "1.14",
        })
    }
}

impl FromStr for Minor {
    type Err = Unsupported;

    fn from_str(text: &str) -> Result<Self, Unsupported> {
        Self::ALL
            .into_iter()
            .find(|minor| minor.to_string() == text.trim_start_matches('v'))
            .map_or_else(|| Self::of(text), Ok)
    }
}

/// A version of Talos that this crate has no facts about.
#[derive(Debug, thiserror::Error)]
#[error("Talos `{0}` is not supported; 1.12, 1.13 and 1.14 are")]
pub struct Unsupported(pub String);
