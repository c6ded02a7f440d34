//! Image Factory schematics: which extensions an image holds, and the id that follows from them (talos.md 10).

use messages::request::Storage;
use sha2::{Digest, Sha256};

/// What Longhorn needs on every node.
const LONGHORN: [&str; 2] = ["siderolabs/iscsi-tools", "siderolabs/util-linux-tools"];
/// What answers Proxmox's guest-agent calls.
const GUEST_AGENT: &str = "siderolabs/qemu-guest-agent";

/// The extensions of a cluster's image: those asked for, and those that its add-ons need; sorted, so that one set has
/// one id.
pub fn extensions(asked: &[String], storage: Option<Storage>, guest_agent: bool) -> Vec<String> {
    let mut all = asked.to_vec();
    if storage == Some(Storage::Longhorn) {
        all.extend(LONGHORN.map(str::to_owned));
    }
    if guest_agent {
        all.push(GUEST_AGENT.to_owned());
    }
    all.sort();
    all.dedup();
    all
}

/// The schematic as the factory marshals it: four spaces, empty fields left out.
pub fn canonical(extensions: &[String]) -> String {
    if extensions.is_empty() {
        return "customization: {}\n".to_owned();
    }
    let mut text = "customization:\n    systemExtensions:\n        officialExtensions:\n".to_owned();
    for extension in extensions {
        text.push_str("            - ");
        text.push_str(extension);
        text.push('\n');
    }
    text
}

/// Its id: SHA-256 of the canonical text, lower-case hex.
pub fn id(extensions: &[String]) -> String {
    hex::encode(Sha256::digest(canonical(extensions)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_schematic_has_the_well_known_id() {
        assert_eq!(id(&[]), "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba");
    }

    #[test]
    fn longhorn_brings_its_extensions_once_and_sorted() {
        let asked = ["siderolabs/util-linux-tools".to_owned(), "siderolabs/gvisor".to_owned()];
        let all = extensions(&asked, Some(Storage::Longhorn), false);
        assert_eq!(all, ["siderolabs/gvisor", "siderolabs/iscsi-tools", "siderolabs/util-linux-tools"]);
    }
}
