//! Checks of documents that describe volumes.

use crate::config::yaml::{Mapping, Value};
use crate::version::Minor;

use super::{collect, is_empty};

pub(super) fn check(kind: &str, root: &Mapping, minor: Minor) -> Vec<String> {
    match kind {
        "UserVolumeConfig" => user(root, minor),
        "RawVolumeConfig" | "SwapVolumeConfig" => {
            let mut errors = name(root, Some(34));
            errors.extend(provisioning(root, true, true));
            errors.extend(encryption(root));
            errors
        }
        "ExistingVolumeConfig" => existing(root),
        "ExternalVolumeConfig" => external(root),
        "VolumeConfig" => system(root, minor),
        _ => Vec::new(),
    }
}

/// `longest` is absent where any length will do.
fn name(root: &Mapping, longest: Option<usize>) -> Vec<String> {
    let name = root.text("name").unwrap_or_default();
    let is_odd = |character: char| !character.is_ascii_alphanumeric() && character != '-';
    let limit = longest.unwrap_or(usize::MAX);
    collect([
        (name.is_empty(), "name is required".to_owned()),
        (
            longest.is_some() && !(1..=limit).contains(&name.len()),
            format!("name must be between 1 and {limit} characters long"),
        ),
        (
            name.contains(is_odd),
            "name can only contain lowercase and uppercase ASCII letters, digits, and hyphens".to_owned(),
        ),
    ])
}

/// The partition that Talos makes unless `volumeType` says otherwise needs a place and a size.
fn user(root: &Mapping, minor: Minor) -> Vec<String> {
    let mut errors = name(root, Some(34));
    match root.text("volumeType").unwrap_or("partition") {
        "directory" => errors.extend(directory(root, minor)),
        "disk" => {
            errors.extend(provisioning(root, true, false));
            errors.extend(filesystem(root));
            errors.extend(encryption(root));
        }
        "partition" => {
            errors.extend(provisioning(root, true, true));
            errors.extend(filesystem(root));
            errors.extend(encryption(root));
        }
        other => errors.push(format!("unsupported volume type {other:?}")),
    }
    errors
}

fn directory(root: &Mapping, minor: Minor) -> Vec<String> {
    let is_set = |key: &str| root.mapping(key).is_some_and(|section| !section.is_empty());
    // Encryption without a provider and without keys is none.
    let is_encrypted = root.mapping("encryption").is_some_and(|spec| {
        !spec.sequence("keys").is_empty() || !matches!(spec.text("provider"), None | Some("" | "none"))
    });
    let mut errors = collect([
        (is_set("provisioning"), "provisioning spec is invalid for volumeType directory".to_owned()),
        (is_encrypted, "encryption spec is invalid for volumeType directory".to_owned()),
        (is_set("filesystem"), "filesystem spec is invalid for volumeType directory".to_owned()),
    ]);
    if minor >= Minor::V1_14 {
        let mount = root.mapping("mount").is_some_and(|mount| mount.get("disableAccessTime").is_some());
        errors.extend(collect([(mount, "mount.disableAccessTime is invalid for volumeType directory".to_owned())]));
    } else {
        errors.extend(collect([(is_set("mount"), "mount spec is invalid for volumeType directory".to_owned())]));
    }
    errors
}

/// What a volume is made on. CEL expressions are left to the node.
fn provisioning(root: &Mapping, is_required: bool, takes_size: bool) -> Vec<String> {
    let empty = Mapping::default();
    let spec = root.mapping("provisioning").unwrap_or(&empty);
    let has_selector = spec.mapping("diskSelector").is_some_and(|selector| !is_empty(selector, "match"));
    let size = |key: &str| spec.text(key).filter(|text| !text.is_empty());
    let (least, most) = (size("minSize"), size("maxSize"));
    let mut errors = collect([(is_required && !has_selector, "disk selector is required".to_owned())]);
    if takes_size {
        let is_backwards = least.and_then(bytes).zip(most.and_then(bytes)).is_some_and(|(least, most)| least > most);
        errors.extend(collect([
            (is_backwards, "min size is greater than max size".to_owned()),
            (is_required && least.is_none() && most.is_none(), "min size or max size is required".to_owned()),
            (least.is_some_and(|text| text.starts_with('-')), "min size cannot be negative".to_owned()),
        ]));
    } else {
        let is_sized = least.is_some() || most.is_some() || spec.get("grow").is_some();
        errors.extend(collect([(is_sized, "min size, max size and grow are not supported".to_owned())]));
    }
    errors
}

/// A size in bytes; nothing for what is relative or negative.
fn bytes(text: &str) -> Option<f64> {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.' && letter != ',');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.trim().to_lowercase();
    let power = match unit.chars().next() {
        None | Some('b') => 0,
        Some(letter) => i32::try_from("kmgtpe".find(letter)?).ok()? + 1,
    };
    let base: f64 = if unit.contains('i') { 1024.0 } else { 1000.0 };
    Some(number.replace(',', "").parse::<f64>().ok()? * base.powi(power))
}

fn filesystem(root: &Mapping) -> Vec<String> {
    let Some(spec) = root.mapping("filesystem") else { return Vec::new() };
    let kind = spec.text("type").filter(|kind| !kind.is_empty()).unwrap_or("none");
    if !matches!(kind, "none" | "xfs" | "ext4" | "btrfs") {
        return vec![format!("unsupported filesystem type: {kind}")];
    }
    // None means XFS here.
    let is_xfs = matches!(kind, "none" | "xfs");
    let quota = spec.boolean("projectQuotaSupport") == Some(true);
    let mut errors = collect([
        (quota && !is_xfs, "project quota support is only available for xfs filesystem".to_owned()),
        (spec.mapping("xfs").is_some() && !is_xfs, "xfs options are only available for xfs filesystem".to_owned()),
    ]);
    errors.truncate(1);
    errors
}

fn encryption(root: &Mapping) -> Vec<String> {
    let Some(spec) = root.mapping("encryption") else { return Vec::new() };
    let provider = spec.text("provider").filter(|provider| !provider.is_empty()).unwrap_or("none");
    let keys: Vec<&Mapping> = spec.sequence("keys").iter().filter_map(Value::as_mapping).collect();
    if provider == "none" && keys.is_empty() {
        return Vec::new();
    }
    let mut errors = collect([
        (provider != "luks2", format!("unsupported encryption provider: {provider}")),
        (keys.is_empty(), "encryption keys are required".to_owned()),
    ]);
    let mut used = std::collections::HashSet::new();
    for key in keys {
        let slot = key.number("slot").unwrap_or_default();
        let has_kind = ["static", "nodeID", "kms", "tpm"].iter().any(|kind| key.get(kind).is_some());
        let registers =
            key.mapping("tpm").and_then(|tpm| tpm.mapping("options")).map(|options| options.sequence("pcrs"));
        let registers = registers.unwrap_or_default().iter().filter_map(|value| value.as_scalar()?.integer());
        errors.extend(collect([
            (!used.insert(slot), format!("duplicate key slot {slot}")),
            (!has_kind, format!("at least one encryption key type must be specified for slot {slot}")),
        ]));
        let wrong = registers.filter(|register| !(0..=23).contains(register));
        errors.extend(wrong.map(|register| format!("TPM PCR {register} is out of range (0-23)")));
    }
    errors
}

fn existing(root: &Mapping) -> Vec<String> {
    let mut errors = name(root, None);
    let discovery = root.mapping("discovery").and_then(|discovery| discovery.mapping("volumeSelector"));
    let has_selector = discovery.is_some_and(|selector| !is_empty(selector, "match"));
    errors.extend(collect([(!has_selector, "volume selector is required".to_owned())]));
    errors
}

fn external(root: &Mapping) -> Vec<String> {
    let mut errors = name(root, Some(34));
    let kind = root.text("filesystemType").filter(|kind| !kind.is_empty()).unwrap_or("none");
    if kind != "virtiofs" {
        errors.push(format!("invalid filesystem type: {kind}"));
        return errors;
    }
    match root.mapping("mount").and_then(|mount| mount.mapping("virtiofs")) {
        None => errors.push("virtiofs mount spec is required".to_owned()),
        Some(mount) => errors.extend(collect([(is_empty(mount, "tag"), "virtiofs tag is required".to_owned())])),
    }
    errors
}

fn system(root: &Mapping, minor: Minor) -> Vec<String> {
    const KNOWN: [&str; 7] = ["STATE", "EPHEMERAL", "IMAGECACHE", "ETCD", "CRI", "KUBELET", "LOG"];
    let name = root.text("name").unwrap_or_default();
    let known = if minor >= Minor::V1_14 { &KNOWN[..] } else { &KNOWN[..3] };
    if !known.contains(&name) {
        let known: Vec<_> = known.iter().map(|name| format!("{name:?}")).collect();
        return vec![format!("only [{}] volumes are supported", known.join(" "))];
    }
    let has_provisioning = root.mapping("provisioning").is_some_and(|spec| !spec.is_empty());
    let keys = root.mapping("encryption").map(|spec| spec.sequence("keys")).unwrap_or_default();
    let is_locked = |key: &&Value| key.as_mapping().and_then(|key| key.boolean("lockToState")) == Some(true);
    let mut errors = Vec::new();
    if name == "STATE" {
        errors.extend(collect([
            (has_provisioning, format!("provisioning config is not allowed for the {name:?} volume")),
            (
                keys.iter().any(|key| is_locked(&key)),
                format!("state-locked key is not allowed for the {name:?} volume"),
            ),
        ]));
    }
    errors.extend(provisioning(root, false, true));
    errors.extend(encryption(root));
    errors
}
