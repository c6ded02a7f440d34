//! Replaces every key and token of a configuration, by the marks of the catalogue.

use crate::version::Minor;

use super::MachineConfig;
use super::catalogue::{self, Object, Type};
use super::yaml::{Mapping, Scalar, Value};

/// What Talos itself writes in place of a secret (talos.md 5.3).
pub(super) const REDACTED: &str = "******";

pub(super) fn redacted(config: &MachineConfig) -> MachineConfig {
    let mut redacted = config.clone();
    let minor = config.minor;
    for document in &mut redacted.documents {
        let object = document.object();
        redact(document.root_mut(), object, minor);
    }
    redacted
}

fn redact(mapping: &mut Mapping, object: &Object, minor: Minor) {
    for (key, value) in mapping.iter_mut() {
        let Some(field) = object.field(key, minor) else { continue };
        if field.secret {
            replace(value);
        } else if field.secret_query {
            replace_token(value);
        } else {
            redact_value(value, &field.ty, minor);
        }
    }
}

fn redact_value(value: &mut Value, ty: &Type, minor: Minor) {
    match (ty, value) {
        (Type::Object(name), Value::Mapping(mapping)) => {
            if let Some(object) = catalogue::object(name) {
                redact(mapping, object, minor);
            }
        }
        (Type::List(item), Value::Sequence(items)) => {
            items.iter_mut().for_each(|value| redact_value(value, item, minor));
        }
        (Type::Map(item), Value::Mapping(entries)) => {
            entries.iter_mut().for_each(|(_, value)| redact_value(value, item, minor));
        }
        _ => {}
    }
}

/// Replaces the join token in the query of a URL, percent-encoded as Talos leaves it.
fn replace_token(value: &mut Value) {
    const KEY: &str = "jointoken=";
    let Some(text) = value.text() else { return };
    let Some((front, token)) = text.split_once(KEY) else { return };
    let rest = token.find('&').map_or("", |end| &token[end..]);
    *value = Value::from(format!("{front}{KEY}{}{rest}", "%2A".repeat(REDACTED.len())));
}

/// Replaces a secret scalar; in a secret tree only what its keys call a secret, so that the rest can be read.
fn replace(value: &mut Value) {
    match value {
        Value::Scalar(scalar) if scalar.text().is_empty() => {}
        Value::Scalar(scalar) => *scalar = Scalar::string(REDACTED),
        Value::Sequence(items) => items.iter_mut().for_each(replace_named),
        Value::Mapping(_) => replace_named(value),
    }
}

fn replace_named(value: &mut Value) {
    match value {
        Value::Mapping(entries) => {
            for (key, value) in entries.iter_mut() {
                if matches!(key, "secret" | "key" | "password") { replace(value) } else { replace_named(value) }
            }
        }
        Value::Sequence(items) => items.iter_mut().for_each(replace_named),
        Value::Scalar(_) => {}
    }
}
