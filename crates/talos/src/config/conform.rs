//! Checks a tree against the catalogue and gives its scalars the types of their fields.

use crate::version::Minor;

use super::Path;
use super::catalogue::{self, Object, Type};
use super::yaml::{Kind, Mapping, Scalar, Value};

/// A value that does not fit its field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {path} must be {expected}, not {found}")]
pub struct Mismatch {
    pub path: String,
    pub line: usize,
    pub expected: &'static str,
    pub found: String,
}

/// A key the catalogue does not know, with the likeliest one that was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKey {
    pub path: String,
    pub nearest: Option<&'static str>,
}

/// The part of a mapping that is unknown to the catalogue, as Talos reports it; `None` if every key is known.
pub(super) fn unknown_part(mapping: &Mapping, object: &Object, minor: Minor) -> Option<Mapping> {
    let mut unknown = Mapping::default();
    for (key, value) in mapping.iter() {
        match object.field(key, minor) {
            None => unknown.set(key, value.clone()),
            Some(field) => {
                if let Some(inner) = unknown_in(value, &field.ty, minor) {
                    unknown.set(key, inner);
                }
            }
        }
    }
    (!unknown.is_empty()).then_some(unknown)
}

fn unknown_in(value: &Value, ty: &Type, minor: Minor) -> Option<Value> {
    match (ty, value) {
        (Type::Object(name), Value::Mapping(mapping)) => {
            unknown_part(mapping, catalogue::object(name)?, minor).map(Value::Mapping)
        }
        (Type::List(item), Value::Sequence(items)) => {
            let unknown: Vec<_> = items.iter().filter_map(|value| unknown_in(value, item, minor)).collect();
            (!unknown.is_empty()).then_some(Value::Sequence(unknown))
        }
        (Type::Map(item), Value::Mapping(entries)) => {
            let unknown: Mapping = entries
                .iter()
                .filter_map(|(key, value)| unknown_in(value, item, minor).map(|inner| (key, inner)))
                .collect();
            (!unknown.is_empty()).then_some(Value::Mapping(unknown))
        }
        _ => None,
    }
}

/// Every unknown key with its path and the field it resembles.
pub(super) fn unknown_keys(mapping: &Mapping, object: &Object, minor: Minor) -> Vec<UnknownKey> {
    let mut found = Vec::new();
    collect_unknown(mapping, object, minor, &Path::root(), &mut found);
    found
}

fn collect_unknown(mapping: &Mapping, object: &Object, minor: Minor, path: &Path, found: &mut Vec<UnknownKey>) {
    for (key, value) in mapping.iter() {
        let path = path.key(key);
        match object.field(key, minor) {
            None => found.push(UnknownKey { path: path.to_string(), nearest: object.nearest(key, minor) }),
            Some(field) => collect_in_value(value, &field.ty, minor, &path, found),
        }
    }
}

fn collect_in_value(value: &Value, ty: &Type, minor: Minor, path: &Path, found: &mut Vec<UnknownKey>) {
    match (ty, value) {
        (Type::Object(name), Value::Mapping(mapping)) => {
            if let Some(object) = catalogue::object(name) {
                collect_unknown(mapping, object, minor, path, found);
            }
        }
        (Type::List(item), Value::Sequence(items)) => {
            for (index, value) in items.iter().enumerate() {
                collect_in_value(value, item, minor, &path.index(index), found);
            }
        }
        (Type::Map(item), Value::Mapping(entries)) => {
            for (key, value) in entries.iter() {
                collect_in_value(value, item, minor, &path.key(key), found);
            }
        }
        _ => {}
    }
}

/// Gives every scalar the type of its field and drops nulls, which Talos reads as absent.
pub(super) fn conform(mapping: Mapping, object: &Object, minor: Minor, path: &Path) -> Result<Mapping, Mismatch> {
    let mut conformed = Mapping::default();
    for (key, value) in mapping {
        if value.is_null() {
            continue;
        }
        let path = path.key(&key);
        let value = match object.field(&key, minor) {
            Some(field) => conform_value(value, &field.ty, minor, &path)?,
            None => value,
        };
        conformed.set(key, value);
    }
    Ok(conformed)
}

fn conform_value(value: Value, ty: &Type, minor: Minor, path: &Path) -> Result<Value, Mismatch> {
    let line = value.line();
    match (ty, value) {
        (Type::Any, value) => Ok(value),
        (Type::Object(name), Value::Mapping(mapping)) => match catalogue::object(name) {
            Some(object) => conform(mapping, object, minor, path).map(Value::Mapping),
            None => Ok(Value::Mapping(mapping)),
        },
        (Type::List(item), Value::Sequence(items)) => {
            let items = items.into_iter().enumerate();
            let conformed: Result<_, _> =
                items.map(|(at, value)| conform_value(value, item, minor, &path.index(at))).collect();
            Ok(Value::Sequence(conformed?))
        }
        (Type::Map(item), Value::Mapping(entries)) => conform_entries(entries, item, minor, path),
        (Type::Args, Value::Mapping(entries)) => conform_args(entries, minor, path),
        (Type::String | Type::Duration, Value::Scalar(scalar)) => {
            let text = if scalar.kind() == Kind::Null { Scalar::string("") } else { scalar.into_string_kind() };
            Ok(Value::Scalar(text))
        }
        (Type::Scalar, Value::Scalar(scalar)) => Ok(Value::Scalar(scalar)),
        (Type::Bool, Value::Scalar(scalar)) => match scalar.boolean().filter(|_| scalar.kind() != Kind::Int) {
            Some(truth) => Ok(Value::from(truth)),
            None => Err(mismatch(path, line, "a boolean", &Value::Scalar(scalar))),
        },
        (Type::Int, Value::Scalar(scalar)) => match scalar.integer() {
            Some(number) => Ok(Value::from(number)),
            None => Err(mismatch(path, line, "an integer", &Value::Scalar(scalar))),
        },
        (ty, value) => Err(mismatch(path, line, expected(ty), &value)),
    }
}

fn conform_entries(entries: Mapping, item: &Type, minor: Minor, path: &Path) -> Result<Value, Mismatch> {
    let mut conformed = Mapping::default();
    for (key, value) in entries {
        let value = if value.is_null() && !matches!(item, Type::String) {
            value
        } else {
            conform_value(value, item, minor, &path.key(&key))?
        };
        conformed.set(key, value);
    }
    Ok(Value::Mapping(conformed))
}

fn conform_args(entries: Mapping, minor: Minor, path: &Path) -> Result<Value, Mismatch> {
    let mut conformed = Mapping::default();
    for (key, value) in entries {
        let is_list = matches!(value, Value::Sequence(_)) && minor >= Minor::V1_13;
        let ty = if is_list { Type::List(Box::new(Type::String)) } else { Type::String };
        let value = conform_value(value, &ty, minor, &path.key(&key))?;
        conformed.set(key, value);
    }
    Ok(Value::Mapping(conformed))
}

fn expected(ty: &Type) -> &'static str {
    match ty {
        Type::List(_) => "a list",
        Type::Map(_) | Type::Args | Type::Object(_) => "a mapping",
        Type::Any => "anything",
        Type::String | Type::Duration | Type::Scalar => "a string",
        Type::Bool => "a boolean",
        Type::Int => "an integer",
    }
}

/// Names what was found without its text: it may be a secret in the wrong place.
fn mismatch(path: &Path, line: usize, expected: &'static str, value: &Value) -> Mismatch {
    let found = match value {
        Value::Mapping(_) => "a mapping",
        Value::Sequence(_) => "a list",
        Value::Scalar(scalar) => match scalar.kind() {
            Kind::Null => "null",
            Kind::Bool => "a boolean",
            Kind::Int | Kind::Float => "a number",
            Kind::Timestamp => "a time",
            Kind::String => "a string",
        },
    };
    Mismatch { path: path.to_string(), line, expected, found: found.to_owned() }
}
