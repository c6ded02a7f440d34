//! What an operator can set for this contractor's own work; read once, at start.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// This contractor's own sections of the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sections {
    /// Clusters and their nodes.
    pub talos: TalosSettings,
    /// The add-on catalogue.
    pub addons: AddonSettings,
}

/// The section `[talos]` of the configuration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TalosSettings {
    /// Hand configurations to machines whose handoff names no SMBIOS UUID. They hold the cluster's keys.
    pub accept_unproven_nodes: bool,
    /// How many ready RSA service-account keys are kept, sealed: as many as clusters are asked for at once. One takes about a
    /// second of CPU.
    #[schemars(range(max = 1000))]
    pub service_account_keys: usize,
    /// Host of installer images.
    pub image_factory: String,
}

impl Default for TalosSettings {
    fn default() -> Self {
        Self { accept_unproven_nodes: false, service_account_keys: 2, image_factory: "factory.talos.dev".to_owned() }
    }
}

/// The section `[addons]`: where the add-on catalogue comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AddonSettings {
    /// Manifests by add-on name, pinned by SHA-256: `local-path`, `longhorn`.
    pub manifests: BTreeMap<String, Manifest>,
    /// How Cilium is installed.
    pub cilium: Cilium,
    /// Image of the smoke test's pod; it must have a shell.
    pub smoke_image: String,
}

/// A file of Kubernetes objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Where it is fetched.
    pub url: String,
    /// SHA-256 of the file, 64 lower-case hex digits; another content is refused.
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
    pub sha256: String,
    /// The version, for people.
    pub version: String,
}

/// How Cilium is installed: by a Job of ours that runs the pinned command-line tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cilium {
    /// Image of the tool.
    pub cli_image: String,
    /// Version of Cilium to install, without `v`.
    pub version: String,
}

impl Default for Cilium {
    fn default() -> Self {
        Self { cli_image: "quay.io/cilium/cilium-cli:v0.18.7".to_owned(), version: "1.18.2".to_owned() }
    }
}

impl Default for AddonSettings {
    fn default() -> Self {
        Self {
            manifests: BTreeMap::new(),
            cilium: Cilium::default(),
            smoke_image: "docker.io/library/busybox:1.37".to_owned(),
        }
    }
}
