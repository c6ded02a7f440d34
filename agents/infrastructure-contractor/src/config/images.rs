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
    /// Image Factory, or a mirror of it; `http://` on this machine, or where `checksums` pins every image.
    pub factory: String,
    /// PEM file with the authority of the factory's certificate; default: the system's.
    pub ca_file: Option<PathBuf>,
    /// Storage of content type `import` that images are downloaded to.
    pub storage: String,
    /// Talos release without `v` where a request names none; default: the newest supported 1.13.
    pub talos_version: Option<String>,
    /// SHA-256 of images by `<schematic>/<talos version>`. What is not listed is hashed once, by fetching it
    /// over `https://`.
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
        } else if self.method == Method::Import
            && self.checksums.is_empty()
            && bus::leaves_in_plain(&self.factory, false)
        {
            let expected =
                "https://, or every image pinned in images.checksums, for a server that is not on this machine";
            problems.push(problem("/images/factory", "tls", expected, "http://, which is not encrypted"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factory_without_encryption_needs_pinned_images_unless_it_is_on_this_machine() {
        let pinned = BTreeMap::from([("a/1.13.9".to_owned(), "0".repeat(64))]);
        let refused = "/images/factory: expected https://, or every image pinned in images.checksums, for a server that is \
                       not on this machine, got http://, which is not encrypted";
        for (factory, checksums, method, expected) in [
            ("https://factory.talos.dev", BTreeMap::new(), Method::Import, None),
            ("http://127.16.0.2:8080", BTreeMap::new(), Method::Import, None),
            ("http://10.20.0.5:8080", BTreeMap::new(), Method::Import, Some(refused)),
            ("http://mirror.example.org", BTreeMap::new(), Method::Import, Some(refused)),
            ("http://10.20.0.5:8080", pinned, Method::Import, None),
        ] {
            let images = Images { factory: factory.to_owned(), checksums, method, ..Images::default() };
            let problems: Vec<String> = images.problems().iter().map(ToString::to_string).collect();
            assert_eq!(problems.first().map(String::as_str), expected, "{factory}");
        }
    }
}
