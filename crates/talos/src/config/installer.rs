//! Image Factory: schematics, their ids, and the references of installer images (talos.md 10).

use sha2::{Digest, Sha256};

use super::yaml::{self, Mapping, Value, mapping};

/// The public Image Factory.
pub const FACTORY: &str = "factory.talos.dev";

/// What an image is made of beyond Talos itself. Two schematics with equal content have the same id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schematic {
    pub owner: Option<String>,
    pub overlay: Option<Overlay>,
    pub extra_kernel_args: Vec<String>,
    /// Initial META contents: key and value.
    pub meta: Vec<(u8, String)>,
    /// Official extensions such as `siderolabs/iscsi-tools`; the order counts for the id.
    pub system_extensions: Vec<String>,
    pub secure_boot: Option<SecureBoot>,
    /// `dual-boot`, `sd-boot` or `grub`; the factory's choice if absent.
    pub bootloader: Option<String>,
    /// Sector size of the disk image in bytes.
    pub disk_image_sector_size: Option<u64>,
    pub embedded_machine_configuration: Option<String>,
}

/// A board support overlay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    pub image: String,
    pub name: String,
    pub options: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecureBoot {
    pub enroll_keys: Option<String>,
    pub include_well_known_certificates: bool,
}

impl Schematic {
    /// The schematic of these extensions and nothing else.
    pub fn with_extensions<S: Into<String>>(extensions: impl IntoIterator<Item = S>) -> Self {
        Self { system_extensions: extensions.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// The text the factory hashes: four spaces, empty fields left out except `customization`.
    pub fn to_yaml(&self) -> String {
        yaml::document(&Value::Mapping(self.tree()))
    }

    /// Lower-case hex of the SHA-256 of [`Self::to_yaml`].
    pub fn id(&self) -> String {
        hex::encode(Sha256::digest(self.to_yaml()))
    }

    /// The installer for machines of a platform (`nocloud`, `metal`) at a Talos version with or without its `v`.
    pub fn installer(&self, factory: &str, platform: &str, version: &str) -> String {
        let secure = if self.secure_boot.is_some() { "-secureboot" } else { "" };
        format!("{factory}/{platform}-installer{secure}/{}:v{}", self.id(), version.trim_start_matches('v'))
    }

    /// Where the factory serves a disk image: `nocloud-amd64.raw.xz` and the like.
    pub fn image_url(&self, factory: &str, version: &str, file: &str) -> String {
        format!("https://{factory}/image/{}/v{}/{file}", self.id(), version.trim_start_matches('v'))
    }

    fn tree(&self) -> Mapping {
        let mut root = Mapping::default();
        if let Some(owner) = &self.owner {
            root.set("owner", owner.as_str());
        }
        if let Some(overlay) = &self.overlay {
            let mut tree = mapping! { "image" => overlay.image.as_str(), "name" => overlay.name.as_str() };
            set_if_any(&mut tree, "options", overlay.options.iter().cloned().collect::<Mapping>());
            root.set("overlay", tree);
        }
        root.set("customization", self.customization());
        root
    }

    fn customization(&self) -> Mapping {
        let mut tree = Mapping::default();
        if let Some(config) = &self.embedded_machine_configuration {
            tree.set("embeddedMachineConfiguration", config.as_str());
        }
        if !self.extra_kernel_args.is_empty() {
            tree.set("extraKernelArgs", self.extra_kernel_args.clone());
        }
        if !self.meta.is_empty() {
            let entry = |(key, value): &(u8, String)| mapping! { "key" => i64::from(*key), "value" => value.as_str() };
            tree.set("meta", self.meta.iter().map(entry).collect::<Vec<_>>());
        }
        if !self.system_extensions.is_empty() {
            tree.set("systemExtensions", mapping! { "officialExtensions" => self.system_extensions.clone() });
        }
        if let Some(bootloader) = &self.bootloader {
            tree.set("bootloader", bootloader.as_str());
        }
        if let Some(secure_boot) = &self.secure_boot {
            let mut secure = Mapping::default();
            if let Some(keys) = &secure_boot.enroll_keys {
                secure.set("enrollKeys", keys.as_str());
            }
            if secure_boot.include_well_known_certificates {
                secure.set("includeWellKnownCertificates", true);
            }
            set_if_any(&mut tree, "secureboot", secure);
        }
        if let Some(size) = self.disk_image_sector_size {
            tree.set("diskImage", mapping! { "sectorSize" => i64::try_from(size).unwrap_or(i64::MAX) });
        }
        tree
    }
}

fn set_if_any(tree: &mut Mapping, key: &str, value: Mapping) {
    if !value.is_empty() {
        tree.set(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_schematic_has_the_id_everybody_knows() {
        let empty = Schematic::default();
        assert_eq!(empty.to_yaml(), "customization: {}\n");
        assert_eq!(empty.id(), "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba");
        let installer = empty.installer(FACTORY, "nocloud", "v1.13.9");
        assert_eq!(installer, format!("factory.talos.dev/nocloud-installer/{}:v1.13.9", empty.id()));
    }

    #[test]
    fn ids_equal_those_of_the_factory() {
        let pi =
            Overlay { image: "siderolabs/sbc-raspberrypi".into(), name: "rpi_generic".into(), options: Vec::new() };
        let keys = SecureBoot { include_well_known_certificates: true, ..SecureBoot::default() };
        let cases = [
            (
                Schematic { extra_kernel_args: vec!["noapic".into(), "nolapic".into()], ..Schematic::default() },
                "9cba8e32753f91a16c1837ab8abf356af021706ef284aef07380780177d9a06c",
            ),
            (
                Schematic { meta: vec![(10, "foo".into())], ..Schematic::default() },
                "d308a2a5ee2277bed5fbaa104fcbc8d59122abfa737df987a95b4ca763459a7f",
            ),
            (
                Schematic { overlay: Some(pi), ..Schematic::default() },
                "ee21ef4a5ef808a9b7484cc0dda0f25075021691c8c09a276591eedb638ea1f9",
            ),
            (
                Schematic { secure_boot: Some(keys), ..Schematic::default() },
                "fa8e05f142a851d3ee568eb0a8e5841eaf6b0ebc8df9a63df16ac5ed2c04f3e6",
            ),
            (
                Schematic { disk_image_sector_size: Some(4096), ..Schematic::default() },
                "92833e9ddd9bb9e11b2464fa5525429f01866306d52ebd882ee08d7918f6d1ea",
            ),
        ];
        for (schematic, id) in cases {
            assert_eq!(schematic.id(), id, "{}", schematic.to_yaml());
        }
    }
}
