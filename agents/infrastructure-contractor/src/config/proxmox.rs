//! `[proxmox]`: where the hypervisors are and who we are there.

use std::path::PathBuf;

use ::proxmox::{options::Endpoint, trust::Fingerprint};
use messages::schema::Violation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem;

/// One Proxmox VE cluster.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Proxmox {
    /// Nodes of the cluster, `https://host:8006`; the next is used when one stops answering.
    #[schemars(length(min = 1))]
    pub endpoints: Vec<String>,
    /// File (mode 0600) with `user@realm!token=secret` or `user@realm:password`.
    pub credential_file: PathBuf,
    /// SHA-256 fingerprints of the nodes' certificates. Exactly one of this and `ca_file`.
    #[serde(default)]
    pub fingerprints: Vec<String>,
    /// PEM file with the authority that signed the nodes' certificates, for example a copy of
    /// `/etc/pve/pve-root-ca.pem`.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Resource pool that new VMs are put into: where a least-privilege token has its rights.
    #[serde(default)]
    pub pool: Option<String>,
    /// VMs that may be created, cloned or started at once on one host.
    #[serde(default = "four")]
    #[schemars(range(min = 1, max = 64))]
    pub parallel_per_host: usize,
    /// Disks that may be written at once to one storage.
    #[serde(default = "four")]
    #[schemars(range(min = 1, max = 64))]
    pub parallel_per_storage: usize,
}

impl Proxmox {
    pub(super) fn problems(&self) -> Vec<Violation> {
        let mut problems = Vec::new();
        for (index, text) in self.endpoints.iter().enumerate() {
            if let Err(reason) = text.parse::<Endpoint>() {
                problems.push(problem(format!("/proxmox/endpoints/{index}"), "url", "https://host:8006", reason));
            }
        }
        for (index, text) in self.fingerprints.iter().enumerate() {
            if let Err(reason) = text.parse::<Fingerprint>() {
                let path = format!("/proxmox/fingerprints/{index}");
                problems.push(problem(path, "sha256", "32 bytes as colon-separated hex", reason));
            }
        }
        if self.fingerprints.is_empty() == self.ca_file.is_none() {
            let got = if self.ca_file.is_none() { "neither" } else { "both" };
            problems.push(problem("/proxmox", "oneOf", "either fingerprints or ca_file", got));
        }
        problems
    }
}

fn four() -> usize {
    4
}
