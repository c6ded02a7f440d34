//! The sections of the configuration file that only infrastructure-contractor has.

mod images;
mod machines;
mod network;
mod placement;
mod proxmox;

use std::path::PathBuf;

use contractor::{config::Common, credentials::CredentialFile};
use messages::schema::Violation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use images::{Images, Method, Template};
pub use machines::{Firmware, Machines};
pub use network::NodeNetwork;
pub use placement::Placement;
pub use proxmox::Proxmox;

/// All of them; every problem is reported at once.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sections {
    /// The hypervisors.
    pub proxmox: Proxmox,
    /// Networks that nodes get their addresses from. The first is the default one.
    #[schemars(length(min = 1))]
    pub network: Vec<NodeNetwork>,
    /// How machines are made.
    #[serde(default)]
    pub machines: Machines,
    /// On which host.
    #[serde(default)]
    pub placement: Placement,
    /// What they boot.
    #[serde(default)]
    pub images: Images,
    /// Who watches them.
    #[serde(default)]
    pub monitoring: Monitoring,
}

/// `[monitoring]`
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Monitoring {
    /// Folder that Prometheus reads with `file_sd_configs`; left out: no files are written.
    #[serde(default)]
    pub folder: Option<PathBuf>,
}

impl contractor::config::Sections for Sections {
    const ENV_PREFIX: &'static str = "INFRASTRUCTURE_CONTRACTOR";

    fn problems(&self, common: &Common) -> Vec<Violation> {
        self.problems_within(&common.allowed_targets)
    }

    fn credential_files(&self) -> Vec<CredentialFile> {
        let mut files = vec![CredentialFile::secret("proxmox.credential_file", &self.proxmox.credential_file)];
        let authorities = [("proxmox.ca_file", &self.proxmox.ca_file), ("images.ca_file", &self.images.ca_file)];
        let authorities = authorities.into_iter().filter_map(|(setting, path)| Some((setting, path.as_deref()?)));
        files.extend(authorities.map(|(setting, path)| CredentialFile::certificates(setting, path)));
        files
    }
}

impl Sections {
    /// Problems that the schema cannot see; `allowed_targets` are the CIDRs of the common part.
    pub fn problems_within(&self, allowed_targets: &[String]) -> Vec<Violation> {
        let mut problems = self.proxmox.problems();
        problems.extend(network::problems(&self.network, allowed_targets));
        problems.extend(self.machines.problems());
        problems.extend(self.placement.problems());
        problems.extend(self.images.problems());
        problems
    }

    /// The network called `name`, or the first.
    pub fn network(&self, name: Option<&str>) -> Option<&NodeNetwork> {
        match name {
            Some(name) => self.network.iter().find(|network| network.name == name),
            None => self.network.first(),
        }
    }
}

fn problem(path: impl Into<String>, rule: &str, expected: &str, got: impl Into<String>) -> Violation {
    Violation { path: path.into(), rule: rule.into(), expected: expected.into(), got: got.into(), did_you_mean: None }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The smallest configuration of the sections, for tests.
    pub(crate) fn smallest() -> Sections {
        toml::from_str(
            r#"
            [proxmox]
            endpoints = ["https://192.168.1.2:8006"]
            credential_file = "/etc/cortex/proxmox-token"
            fingerprints = ["AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB"]

            [[network]]
            name = "lan"
            cidr = "192.168.1.0/24"
            gateway = "192.168.1.1"
            dns_servers = ["1.1.1.1"]
            ranges = ["192.168.1.10-192.168.1.99"]
            exclude = ["192.168.1.50"]
            bridge = "vmbr0"
            "#,
        )
        .unwrap()
    }

    #[test]
    fn the_smallest_configuration_has_no_problem() {
        assert_eq!(smallest().problems_within(&["192.168.0.0/16".to_owned()]), Vec::new());
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let mut sections = smallest();
        sections.proxmox.endpoints = vec!["http://pve1".into()];
        sections.proxmox.fingerprints = vec!["AB:CD".into()];
        sections.network[0].gateway = "10.0.0.1".parse().unwrap();
        sections.network[0].ranges = vec!["192.168.2.1-192.168.2.9".parse().unwrap()];
        sections.placement.cpu_overcommit = 0.0;
        sections.images.factory = "factory.talos.dev".into();
        sections.images.talos_version = Some("1.9.2".into());
        sections.machines.first_vmid = 5000;
        sections.machines.last_vmid = 200;
        let paths: Vec<_> =
            sections.problems_within(&["10.0.0.0/8".to_owned()]).into_iter().map(|problem| problem.path).collect();
        assert_eq!(
            paths,
            [
                "/proxmox/endpoints/0",
                "/proxmox/fingerprints/0",
                "/network/0/gateway",
                "/network/0/ranges/0",
                "/network/0/cidr",
                "/machines/first_vmid",
                "/placement/cpu_overcommit",
                "/images/factory",
                "/images/talos_version",
            ]
        );
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let text = toml::to_string(&smallest()).unwrap().replace("[proxmox]", "[proxmox]\nverify_tls = false");
        assert!(toml::from_str::<Sections>(&text).unwrap_err().to_string().contains("verify_tls"));
    }
}
