//! Which Proxmox VE release is simulated, and what differs between the two (proxmox.md 9).

use std::{fmt, str::FromStr};

/// A simulated Proxmox VE release line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// 8.4, the last release of the 8 line.
    V8,
    /// 9.1, the newest release of the reference.
    #[default]
    V9,
}

impl Version {
    /// The full version as `GET /version` reports it.
    pub(crate) fn full(self) -> &'static str {
        match self {
            Self::V8 => "8.4.17",
            Self::V9 => "9.1.3",
        }
    }

    /// Major and minor only.
    pub(crate) fn release(self) -> &'static str {
        match self {
            Self::V8 => "8.4",
            Self::V9 => "9.1",
        }
    }

    pub(crate) fn repoid(self) -> &'static str {
        match self {
            Self::V8 => "c8c39014680186a7",
            Self::V9 => "8d7fcc1e2ab3c4d5",
        }
    }

    pub(crate) fn qemu(self) -> &'static str {
        match self {
            Self::V8 => "9.2.0",
            Self::V9 => "10.1.2",
        }
    }

    pub(crate) fn kernel(self) -> &'static str {
        match self {
            Self::V8 => "6.8.12-15-pve",
            Self::V9 => "6.17.2-1-pve",
        }
    }

    pub(crate) fn is_8(self) -> bool {
        self == Self::V8
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "8" | "8.4" => Ok(Self::V8),
            "9" | "9.1" => Ok(Self::V9),
            _ => Err(format!("unknown Proxmox VE version {text:?}, expected 8.4 or 9.1")),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.release())
    }
}
