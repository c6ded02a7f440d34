//! `[images]`: where Talos comes from.

use std::{collections::BTreeMap, path::PathBuf};

use messages::schema::Violation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use talos::version::Minor;

use super::problem;
use crate::inventory::Image;

/// How a machine's disk gets its content.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Images {
    /// By importing a downloaded image, or by cloning a template.
    pub method: Method,
    /// Image Factory, or a mirror of it.
    pub factory: String,
    /// PEM file with the authority of the factory's certificate; default: the system's.
    pub ca_file: Option<PathBuf>,
    /// Storage of content type `import` that images are downloaded to.
    pub storage: String,
    /// Talos release without `v` where a request names none; default: the newest supported 1.13.
    pub talos_version: Option<String>,
    /// SHA-256 of images by `<schematic>/<talos version>`. What is not listed is hashed once, by fetching it.
    pub checksums: BTreeMap<String, String>,
    /// Whether Proxmox checks the certificate of the factory when it downloads.
    pub verify_certificates: bool,
    /// Templates, for the method `clone`.
    pub templates: Vec<Template>,
}

/// Where a disk's content comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// `download-url` into an `import` storage, then `import-from`. Needs Proxmox VE 8.4.
    #[default]
    Import,
    /// Clone of a template that somebody made.
    Clone,
}

/// A template VM with a Talos nocloud image on `scsi0`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The host that has it. Left out: its disks are on shared storage, and any host may clone it.
    #[serde(default)]
    pub host: Option<String>,
    /// Its VMID.
    pub vmid: u32,
    /// Talos release on its disk, without `v`.
    pub talos_version: String,
    /// Schematic of the image on its disk.
    pub schematic: String,
}

impl Template {
    /// Whether its disk holds `image`.
    pub fn holds(&self, image: &Image) -> bool {
        self.talos_version == image.talos_version && self.schematic == image.schematic
    }
}

impl Default for Images {
    fn default() -> Self {
        Self {
            method: Method::Import,
            factory: "https://factory.talos.dev".into(),
            ca_file: None,
            storage: "local".into(),
            talos_version: None,
            checksums: BTreeMap::new(),
            verify_certificates: true,
            templates: Vec::new(),
        }
    }
}

impl Images {
    /// The release where a request names none, without `v`.
    pub fn default_talos_version(&self) -> String {
        let newest = || Minor::V1_13.newest().trim_start_matches('v').to_owned();
        self.talos_version.clone().unwrap_or_else(newest)
    }

    pub(super) fn problems(&self) -> Vec<Violation> {
        let mut problems = Vec::new();
        if !(self.factory.starts_with("https://") || self.factory.starts_with("http://")) {
            problems.push(problem("/images/factory", "url", "an http:// or https:// URL", self.factory.clone()));
        }
        if let Some(version) = self.talos_version.as_deref().filter(|version| Minor::of(version).is_err()) {
            problems.push(problem("/images/talos_version", "supported", "Talos 1.12, 1.13 or 1.14", version));
        }
        for (image, sum) in &self.checksums {
            if sum.len() != 64 || !sum.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                let path = format!("/images/checksums/{}", image.replace('~', "~0").replace('/', "~1"));
                problems.push(problem(path, "sha256", "64 hex digits", "another text"));
            }
        }
        if self.method == Method::Clone && self.templates.is_empty() {
            problems.push(problem("/images/templates", "minItems", "a template for the method clone", "none"));
        }
        problems
    }
}
