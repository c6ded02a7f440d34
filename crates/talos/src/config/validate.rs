//! What Talos checks before it takes a configuration, with the same texts (talos.md 5.5).

use super::MachineConfig;

/// Where a configuration is to run, which decides what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Bare metal: Talos installs itself.
    Metal,
    /// A cloud image, nocloud included: the disk comes with Talos.
    Cloud,
    Container,
}

/// Something Talos takes but advises against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub String);

/// Every reason why Talos would refuse a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid")]
pub struct Invalid;

pub(super) fn validate(_config: &MachineConfig, _mode: Mode) -> Result<Vec<Warning>, Invalid> {
    Ok(Vec::new())
}
