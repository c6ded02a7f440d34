//! `[placement]`: on which host a machine goes.

use messages::schema::Violation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem;

/// What is kept free, and what is avoided.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// Part of a host's memory that machines of ours never use, in percent.
    #[schemars(range(max = 90))]
    pub memory_headroom_percent: u8,
    /// Part of a storage that disks of ours never use, in percent.
    #[schemars(range(max = 90))]
    pub storage_headroom_percent: u8,
    /// Virtual CPUs per core of a host.
    pub cpu_overcommit: f64,
    /// Hosts that get no new machine.
    pub avoid_hosts: Vec<String>,
    /// How often room is looked for while there is none, in seconds.
    #[schemars(range(min = 1, max = 3600))]
    pub look_again_seconds: u64,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            memory_headroom_percent: 10,
            storage_headroom_percent: 10,
            cpu_overcommit: 4.0,
            avoid_hosts: Vec::new(),
            look_again_seconds: 15,
        }
    }
}

impl Placement {
    pub(super) fn problems(&self) -> Vec<Violation> {
        if self.cpu_overcommit.is_finite() && self.cpu_overcommit > 0.0 {
            return Vec::new();
        }
        let got = self.cpu_overcommit.to_string();
        vec![problem("/placement/cpu_overcommit", "minimum", "a number above 0", got)]
    }
}
