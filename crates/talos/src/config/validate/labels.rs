//! Node labels, annotations and taints, by the rules of Kubernetes.

use crate::config::yaml::Mapping;

use super::Errors;

const ANNOTATION_LIMIT: usize = 256 << 10;
const RESERVED_ANNOTATIONS: [&str; 3] =
    ["talos.dev/owned-annotations", "talos.dev/owned-labels", "talos.dev/owned-taints"];
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

fn sorted(map: &Mapping) -> Vec<(&str, &str)> {
    let mut entries: Vec<_> = map.iter().map(|(key, value)| (key, value.text().unwrap_or_default())).collect();
    entries.sort_unstable();
    entries
}

pub(super) fn check_labels(labels: &Mapping) -> Errors {
    let mut errors = Errors::default();
    for (key, value) in sorted(labels) {
        [check_qualified_name(key), check_value(value)].into_iter().flatten().for_each(|error| errors.add(error));
    }
    errors
}

pub(super) fn check_annotations(annotations: &Mapping) -> Errors {
    let mut errors = Errors::default();
    let mut size = 0;
    for (key, value) in sorted(annotations) {
        check_qualified_name(key).into_iter().for_each(|error| errors.add(error));
        errors.add_if(RESERVED_ANNOTATIONS.contains(&key), format!("annotation {key:?} is reserved"));
        size += key.len() + value.len();
    }
    let too_large = format!("total annotation size exceeds limit of {ANNOTATION_LIMIT} bytes");
    errors.add_if(size > ANNOTATION_LIMIT, too_large);
    errors
}

/// Taints are `key: value:Effect` or `key: Effect`.
pub(super) fn check_taints(taints: &Mapping) -> Errors {
    let mut errors = Errors::default();
    for (key, taint) in sorted(taints) {
        let (value, effect) = taint.split_once(':').unwrap_or(("", taint));
        let error = check_qualified_name(key)
            .or_else(|| (!EFFECTS.contains(&effect)).then(|| format!("invalid taint effect: {effect:?}")))
            .or_else(|| check_value(value));
        error.into_iter().for_each(|error| errors.add(error));
    }
    errors
}

fn check_qualified_name(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        ["", _] => return Some(format!("prefix cannot be empty: {text:?}")),
        [prefix, name] => {
            if let Some(error) = check_subdomain(prefix) {
                return Some(format!("prefix {prefix:?} is invalid: {error}"));
            }
            name
        }
        _ => return Some(format!("invalid format: too many slashes: {text:?}")),
    };
    match name.len() {
        0 => Some(format!("name cannot be empty: {text:?}")),
        64.. => Some(format!("name is too long: {text:?} (limit is 63)")),
        _ => (!is_qualified(name)).then(|| format!("name {name:?} is invalid")),
    }
}

fn check_value(value: &str) -> Option<String> {
    if value.len() > 63 {
        return Some(format!("label value length exceeds limit of 63: {value:?}"));
    }
    (!value.is_empty() && !is_qualified(value)).then(|| format!("label value {value:?} is invalid"))
}

fn check_subdomain(text: &str) -> Option<String> {
    if text.len() > 253 {
        return Some(format!("domain name length exceeds limit of 253: {text:?}"));
    }
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.first().is_some_and(|byte| lower(*byte))
            && bytes.last().is_some_and(|byte| lower(*byte))
            && bytes.iter().all(|byte| lower(*byte) || *byte == b'-')
    };
    (!text.split('.').all(is_label)).then(|| format!("domain doesn't match required format: {text:?}"))
}

fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}
