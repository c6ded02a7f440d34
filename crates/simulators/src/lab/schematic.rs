//! Image Factory schematics: the canonical text of a customisation and the id that follows from it (talos.md 10).

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Id of the schematic that customises nothing.
pub const EMPTY: &str = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba";

/// What a schematic may say; anything else is refused.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schematic {
    owner: String,
    overlay: Overlay,
    customization: Customization,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Overlay {
    image: String,
    name: String,
    options: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Customization {
    embedded_machine_configuration: String,
    extra_kernel_args: Vec<String>,
    meta: Vec<Meta>,
    system_extensions: Extensions,
    bootloader: String,
    secureboot: Option<SecureBoot>,
    disk_image: Option<DiskImage>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Extensions {
    official_extensions: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    key: u8,
    value: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct SecureBoot {
    enroll_keys: String,
    include_well_known_certificates: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct DiskImage {
    sector_size: u64,
}

impl Schematic {
    /// Reads YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }

    /// Names of the system extensions.
    pub fn extensions(&self) -> &[String] {
        &self.customization.system_extensions.official_extensions
    }

    /// Lower-case hex SHA-256 of the canonical text.
    pub fn id(&self) -> String {
        hex::encode(Sha256::digest(self.canonical()))
    }

    /// YAML with four spaces, empty fields left out, lists in the order they were sent.
    fn canonical(&self) -> String {
        let mut out = String::new();
        field(&mut out, 0, "owner", &self.owner);
        let overlay = &self.overlay;
        if *overlay != Overlay::default() {
            out.push_str("overlay:\n");
            field(&mut out, 1, "image", &overlay.image);
            field(&mut out, 1, "name", &overlay.name);
            if let Some(Value::Object(options)) = &overlay.options {
                out.push_str("    options:\n");
                options
                    .iter()
                    .for_each(|(key, value)| field(&mut out, 2, key, value.as_str().unwrap_or(&value.to_string())));
            }
        }
        let custom = &self.customization;
        if *custom == Customization::default() {
            return out + "customization: {}\n";
        }
        out.push_str("customization:\n");
        field(&mut out, 1, "embeddedMachineConfiguration", &custom.embedded_machine_configuration);
        list(&mut out, 1, "extraKernelArgs", &custom.extra_kernel_args);
        if !custom.meta.is_empty() {
            out.push_str("    meta:\n");
            for Meta { key, value } in &custom.meta {
                out.push_str(&format!("        - key: {key}\n          value: {}\n", scalar(value)));
            }
        }
        if !self.extensions().is_empty() {
            out.push_str("    systemExtensions:\n");
            list(&mut out, 2, "officialExtensions", self.extensions());
        }
        field(&mut out, 1, "bootloader", &custom.bootloader);
        if let Some(secureboot) = &custom.secureboot {
            out.push_str("    secureboot:\n");
            field(&mut out, 2, "enrollKeys", &secureboot.enroll_keys);
            if secureboot.include_well_known_certificates {
                out.push_str("        includeWellKnownCertificates: true\n");
            }
        }
        if let Some(disk) = custom.disk_image.as_ref().filter(|disk| disk.sector_size > 0) {
            out.push_str(&format!("    diskImage:\n        sectorSize: {}\n", disk.sector_size));
        }
        out
    }
}

fn field(out: &mut String, depth: usize, key: &str, value: &str) {
    if !value.is_empty() {
        out.push_str(&format!("{}{key}: {}\n", "    ".repeat(depth), scalar(value)));
    }
}

fn list(out: &mut String, depth: usize, key: &str, items: &[String]) {
    if !items.is_empty() {
        out.push_str(&format!("{}{key}:\n", "    ".repeat(depth)));
        items.iter().for_each(|item| out.push_str(&format!("{}- {}\n", "    ".repeat(depth + 1), scalar(item))));
    }
}

/// Plain where YAML reads the same text back, quoted elsewhere.
fn scalar(text: &str) -> String {
    let starts_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_');
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./=,+:@".contains(&b)) && !text.ends_with(':');
    let word = matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n"
    );
    if starts_plain && plain && !word { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_factory() {
        assert_eq!(Schematic::default().id(), EMPTY);
        assert_eq!(Schematic::parse("customization: {}\n").unwrap().id(), EMPTY);
        // From the factory's own test table, by reference/talos.md section 10.
        let args = Schematic::parse("customization:\n  extraKernelArgs: [noapic, nolapic]\n").unwrap();
        assert!(args.id().starts_with("9cba8e32"), "{}", args.id());
    }

    #[test]
    fn json_and_yaml_say_the_same_and_unknown_fields_are_refused() {
        let json = r#"{"customization":{"systemExtensions":{"officialExtensions":["siderolabs/iscsi-tools"]}}}"#;
        let yaml = "customization:\n  systemExtensions:\n    officialExtensions:\n      - siderolabs/iscsi-tools\n";
        assert_eq!(Schematic::parse(json).unwrap().id(), Schematic::parse(yaml).unwrap().id());
        assert_eq!(Schematic::parse(yaml).unwrap().extensions(), ["siderolabs/iscsi-tools"]);
        assert!(Schematic::parse("customisation: {}").is_err());
    }
}
