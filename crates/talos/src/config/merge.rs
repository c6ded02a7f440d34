//! Strategic merge of one document into another, with the rules of Talos's own library (talos.md 5.6).

use crate::version::Minor;

use super::Path;
use super::catalogue::{self, Field, Merge, Object, Type};
use super::yaml::{Kind, Mapping, Value};

/// Two values of one untyped key that cannot be merged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("merge type mismatch at {path}: {left} on the left, {right} in the patch")]
pub struct Mismatch {
    pub path: String,
    pub left: &'static str,
    pub right: &'static str,
}

/// Merges `patch` into `base`, both of the same object.
pub(super) fn merge(
    base: &mut Mapping,
    patch: &Mapping,
    object: &Object,
    minor: Minor,
    path: &Path,
) -> Result<(), Mismatch> {
    for (key, value) in patch.iter() {
        let Some(field) = object.field(key, minor) else { continue };
        match base.get_mut(key) {
            Some(current) => merge_field(current, value, field, minor, &path.key(key))?,
            None => base.set(key, value.clone()),
        }
    }
    Ok(())
}

fn merge_field(current: &mut Value, patch: &Value, field: &Field, minor: Minor, path: &Path) -> Result<(), Mismatch> {
    match &field.merge {
        Merge::ByType if field.pointer && patch.as_scalar().is_some() => {
            *current = patch.clone();
            Ok(())
        }
        Merge::ByType => merge_value(current, patch, &field.ty, minor, path),
        Merge::Replace => {
            *current = patch.clone();
            Ok(())
        }
        Merge::Keyed(keys) => merge_keyed(current, patch, keys, &field.ty, minor, path),
        Merge::KeyedReplace(key) => {
            replace_keyed(current, patch, key);
            Ok(())
        }
    }
}

fn merge_value(current: &mut Value, patch: &Value, ty: &Type, minor: Minor, path: &Path) -> Result<(), Mismatch> {
    match (ty, current, patch) {
        (Type::Any, current, patch) => merge_untyped(current, patch, path),
        (Type::Object(name), Value::Mapping(current), Value::Mapping(patch)) => match catalogue::object(name) {
            Some(object) => merge(current, patch, object, minor, path),
            None => Ok(()),
        },
        (Type::Map(item), Value::Mapping(current), Value::Mapping(patch)) => {
            for (key, value) in patch.iter() {
                match current.get_mut(key).filter(|value| !value.is_null()) {
                    Some(entry) => merge_value(entry, value, item, minor, &path.key(key))?,
                    None => current.set(key, value.clone()),
                }
            }
            Ok(())
        }
        (Type::Args, Value::Mapping(current), Value::Mapping(patch)) => {
            patch.iter().for_each(|(key, value)| current.set(key, value.clone()));
            Ok(())
        }
        (_, Value::Sequence(current), Value::Sequence(patch)) => {
            current.extend(patch.iter().cloned());
            Ok(())
        }
        (Type::Bool, current, patch) => {
            *current = patch.clone();
            Ok(())
        }
        (_, current, patch) => {
            // Zero values of plain scalars mean "not set" to Talos; only booleans are always taken.
            if !patch.as_scalar().is_some_and(super::yaml::Scalar::is_zero) {
                *current = patch.clone();
            }
            Ok(())
        }
    }
}

/// Trees without a schema: mappings merge, lists append, scalars of one type replace.
fn merge_untyped(current: &mut Value, patch: &Value, path: &Path) -> Result<(), Mismatch> {
    match (current, patch) {
        (Value::Mapping(current), Value::Mapping(patch)) => {
            for (key, value) in patch.iter() {
                match current.get_mut(key).filter(|value| !value.is_null()) {
                    Some(entry) => merge_untyped(entry, value, &path.key(key))?,
                    None => current.set(key, value.clone()),
                }
            }
            Ok(())
        }
        (Value::Sequence(current), Value::Sequence(patch)) => {
            current.extend(patch.iter().cloned());
            Ok(())
        }
        (current, patch) => {
            let (left, right) = (type_name(current), type_name(patch));
            if left != right {
                return Err(Mismatch { path: path.to_string(), left, right });
            }
            let is_unset = patch.as_scalar().is_some_and(|scalar| scalar.is_zero() && scalar.kind() != Kind::Bool);
            if !is_unset {
                *current = patch.clone();
            }
            Ok(())
        }
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Mapping(_) => "a mapping",
        Value::Sequence(_) => "a list",
        Value::Scalar(scalar) => match scalar.kind() {
            Kind::Null => "null",
            Kind::Bool => "a boolean",
            Kind::Int => "an integer",
            Kind::Float => "a number",
            Kind::Timestamp => "a time",
            Kind::String => "a string",
        },
    }
}

fn merge_keyed(
    current: &mut Value,
    patch: &Value,
    keys: &[&str],
    ty: &Type,
    minor: Minor,
    path: &Path,
) -> Result<(), Mismatch> {
    let (Value::Sequence(current), Value::Sequence(patch), Type::List(item)) = (current, patch, ty) else {
        return Ok(());
    };
    for (index, element) in patch.iter().enumerate() {
        match current.iter_mut().find(|candidate| same_key(candidate, element, keys)) {
            Some(existing) => merge_value(existing, element, item, minor, &path.index(index))?,
            None => current.push(element.clone()),
        }
    }
    Ok(())
}

fn replace_keyed(current: &mut Value, patch: &Value, key: &str) {
    let (Value::Sequence(current), Value::Sequence(patch)) = (current, patch) else { return };
    for element in patch {
        match current.iter_mut().find(|candidate| same_key(candidate, element, &[key])) {
            Some(existing) => *existing = element.clone(),
            None => current.push(element.clone()),
        }
    }
}

/// Elements are the same if they agree in the first key the new one sets. With a single key, both may lack it.
fn same_key(existing: &Value, element: &Value, keys: &[&str]) -> bool {
    let key_of = |value: &'_ Value, key: &str| value.as_mapping().and_then(|mapping| mapping.get(key)).cloned();
    match keys.iter().find(|key| key_of(element, key).is_some()) {
        Some(key) => key_of(existing, key) == key_of(element, key),
        None => keys.len() == 1 && key_of(existing, keys[0]).is_none(),
    }
}
