//! Stand-ins for Talos images: small, well-formed files that say which Talos they stand for, and how to read them back.

use serde::{Deserialize, Serialize};

use crate::machine::ImageRef;

/// Virtual size of the nocloud image of Talos 1.13 (proxmox.md 3.4).
pub const VIRTUAL_SIZE: u64 = 4_453_302_272;

const CLUSTER: usize = 1 << 16;
const MAGIC: &[u8; 4] = b"QFI\xfb";
const HEADER_LENGTH: u32 = 104;
/// Type of the header extension that carries the label; unknown types are skipped by readers of qcow2.
const EXTENSION: u32 = 0x5441_4C4F;
/// Where an ISO's volume descriptor begins, and where the label stands in a stand-in.
const ISO_DESCRIPTOR: usize = 32_768;
const ISO_LABEL: usize = 40_960;

/// What a stand-in says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    pub talos_version: String,
    pub schematic: String,
    pub platform: String,
}

/// What a file turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// Bytes of the disk inside; the file's own size when it is no qcow2.
    pub virtual_size: u64,
    /// The Talos image it is, if it is one.
    pub image: Option<ImageRef>,
}

/// An empty qcow2 disk of Talos's size with a label in a header extension.
pub fn qcow2(label: &Label) -> Vec<u8> {
    let text = serde_json::to_vec(label).unwrap_or_default();
    let l1_entries = VIRTUAL_SIZE.div_ceil((CLUSTER as u64 / 8) << 16) as u32;
    let mut file = vec![0; 4 * CLUSTER];
    let mut header = Vec::new();
    header.extend(MAGIC);
    let words: [u32; 5] = [3, 0, 0, 0, 16];
    words.iter().for_each(|word| header.extend(word.to_be_bytes()));
    header.extend(VIRTUAL_SIZE.to_be_bytes());
    header.extend(0_u32.to_be_bytes());
    header.extend(l1_entries.to_be_bytes());
    header.extend((3 * CLUSTER as u64).to_be_bytes());
    header.extend((CLUSTER as u64).to_be_bytes());
    header.extend(1_u32.to_be_bytes());
    header.extend([0; 12]);
    header.extend([0; 24]);
    header.extend(4_u32.to_be_bytes());
    header.extend(HEADER_LENGTH.to_be_bytes());
    header.extend(EXTENSION.to_be_bytes());
    header.extend((text.len() as u32).to_be_bytes());
    header.extend(&text);
    file[..header.len()].copy_from_slice(&header);
    // The refcount table names one refcount block, which counts the four clusters of this file.
    file[CLUSTER..CLUSTER + 8].copy_from_slice(&(2 * CLUSTER as u64).to_be_bytes());
    for cluster in 0..4 {
        let at = 2 * CLUSTER + 2 * cluster;
        file[at..at + 2].copy_from_slice(&1_u16.to_be_bytes());
    }
    file
}

/// A file with an ISO 9660 volume descriptor and a label behind it.
pub fn iso(label: &Label) -> Vec<u8> {
    let mut file = vec![0; 65_536];
    file[ISO_DESCRIPTOR] = 1;
    file[ISO_DESCRIPTOR + 1..ISO_DESCRIPTOR + 6].copy_from_slice(b"CD001");
    let text = serde_json::to_vec(label).unwrap_or_default();
    file[ISO_LABEL..ISO_LABEL + text.len()].copy_from_slice(&text);
    file
}

/// Reads a file; the hint is its URL or name, for real images that carry no label.
pub fn inspect(bytes: &[u8], file_name: &str, hint: &str) -> Inspected {
    let virtual_size = match bytes.starts_with(MAGIC) {
        true => number(bytes, 24, 8).unwrap_or(bytes.len() as u64),
        false => bytes.len() as u64,
    };
    let label = qcow2_label(bytes).or_else(|| iso_label(bytes));
    let image = match label {
        Some(Label { talos_version, schematic, platform }) => Some(ImageRef {
            file_name: file_name.to_owned(),
            talos_version: Some(talos_version),
            schematic: Some(schematic),
            platform,
        }),
        None => guess(file_name, hint),
    };
    Inspected { virtual_size, image }
}

fn qcow2_label(bytes: &[u8]) -> Option<Label> {
    if !bytes.starts_with(MAGIC) {
        return None;
    }
    let mut at = number(bytes, 100, 4)? as usize;
    loop {
        let (kind, length) = (number(bytes, at, 4)? as u32, number(bytes, at + 4, 4)? as usize);
        if kind == EXTENSION {
            return serde_json::from_slice(bytes.get(at + 8..at + 8 + length)?).ok();
        }
        if kind == 0 || length > bytes.len() {
            return None;
        }
        at += 8 + length.next_multiple_of(8);
    }
}

fn iso_label(bytes: &[u8]) -> Option<Label> {
    let text = bytes.get(ISO_LABEL..)?;
    let end = text.iter().position(|byte| *byte == 0)?;
    serde_json::from_slice(&text[..end]).ok()
}

fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let digits = bytes.get(at..at + size)?;
    Some(digits.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Version and schematic from an Image Factory address or a telling file name.
fn guess(file_name: &str, hint: &str) -> Option<ImageRef> {
    let words = || hint.split(['/', '-', '_']).chain(file_name.split(['/', '-', '_']));
    let is_version = |word: &&str| {
        let mut parts = word.strip_prefix('v').unwrap_or_default().splitn(3, '.');
        let mut numeric = || parts.next().is_some_and(|part| part.starts_with(|c: char| c.is_ascii_digit()));
        numeric() && numeric() && numeric()
    };
    let version = words().find(is_version)?;
    let version = ["qcow2", "raw", "iso", "img"]
        .iter()
        .fold(version, |word, suffix| word.trim_end_matches(suffix).trim_end_matches('.'));
    if !file_name.contains("talos") && !hint.contains("nocloud") && !hint.contains("metal") {
        return None;
    }
    let schematic = words().find(|word| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit()));
    let platform = if hint.contains("metal") || file_name.contains("metal") { "metal" } else { "nocloud" };
    Some(ImageRef {
        file_name: file_name.to_owned(),
        talos_version: Some(version.to_owned()),
        schematic: schematic.map(str::to_owned),
        platform: platform.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stand_ins_say_what_they_stand_for() {
        let label = Label { talos_version: "v1.13.9".into(), schematic: "ab".repeat(32), platform: "nocloud".into() };
        let seen = inspect(&qcow2(&label), "talos.qcow2", "");
        assert_eq!(seen.virtual_size, VIRTUAL_SIZE);
        assert_eq!(seen.image.unwrap().talos_version.as_deref(), Some("v1.13.9"));
        assert_eq!(inspect(&iso(&label), "x.iso", "").image.unwrap().schematic, Some("ab".repeat(32)));
    }

    #[test]
    fn real_images_are_known_by_their_address_and_others_are_not_talos() {
        let url = format!("https://factory.talos.dev/image/{}/v1.13.9/nocloud-amd64.qcow2", "cd".repeat(32));
        let image = inspect(b"anything", "talos.qcow2", &url).image.unwrap();
        assert_eq!((image.talos_version.as_deref(), image.schematic), (Some("v1.13.9"), Some("cd".repeat(32))));
        assert_eq!(inspect(b"x", "debian-12.iso", "http://mirror/debian-12.iso").image, None);
        let named = inspect(b"x", "talos-v1.12.3.qcow2", "").image.unwrap();
        assert_eq!(named.talos_version.as_deref(), Some("v1.12.3"));
    }
}
