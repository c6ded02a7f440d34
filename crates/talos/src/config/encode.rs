//! Brings a tree into the form Talos's encoder writes: fields in the order of its types, empty ones left out, the
//! few that are always written filled in, maps sorted.

use std::cmp::Ordering;

use crate::version::Minor;

use super::catalogue::{self, Field, Object, Type};
use super::yaml::{Mapping, Scalar, Value};

/// The canonical form of an object.
pub(super) fn canonical(mapping: &Mapping, object: &Object, minor: Minor) -> Mapping {
    let mut canonical = Mapping::default();
    for field in object.fields.iter().filter(|field| field.exists_in(minor)) {
        let value = match mapping.get(field.name) {
            Some(value) => canonical_field(value, field, minor),
            None if field.null => Some(Value::null()),
            None => empty_if_always(field, minor),
        };
        if let Some(value) = value {
            canonical.set(field.name, value);
        }
    }
    canonical
}

fn canonical_field(value: &Value, field: &Field, minor: Minor) -> Option<Value> {
    let value = canonical_value(value, &field.ty, minor);
    let is_absent = match (&value, &field.ty) {
        (Value::Scalar(scalar), Type::Bool) => field.plain_bool && scalar.is_zero(),
        (_, Type::Object(_)) => false,
        (Value::Scalar(_), _) if field.pointer => false,
        (Value::Scalar(scalar), _) => scalar.is_zero(),
        (Value::Sequence(items), _) => items.is_empty(),
        (Value::Mapping(entries), _) => entries.is_empty(),
    };
    if is_absent && !field.always { None } else { Some(value) }
}

/// What an absent field is written as; absent pointers are left out even where Go would write `null`.
fn empty_if_always(field: &Field, minor: Minor) -> Option<Value> {
    if !field.always {
        return None;
    }
    match &field.ty {
        Type::String | Type::Duration | Type::Manifest | Type::Prefix | Type::Address => Some(Value::from("")),
        Type::Int(_) | Type::Scalar => Some(Value::from(0)),
        Type::Mode => Some(Value::Scalar(Scalar::plain("0o0"))),
        Type::Text(_) => Some(Value::from("")),
        Type::Bool => None,
        Type::List(_) => Some(Value::Sequence(Vec::new())),
        Type::Map(_) | Type::Args | Type::Any => Some(Value::Mapping(Mapping::default())),
        Type::Object(name) => {
            let object = catalogue::object(name)?;
            Some(Value::Mapping(canonical(&Mapping::default(), object, minor)))
        }
    }
}

fn canonical_value(value: &Value, ty: &Type, minor: Minor) -> Value {
    match (ty, value) {
        (Type::Object(name), Value::Mapping(mapping)) => match catalogue::object(name) {
            Some(object) => Value::Mapping(canonical(mapping, object, minor)),
            None => value.clone(),
        },
        (Type::List(item), Value::Sequence(items)) => {
            Value::Sequence(items.iter().map(|value| canonical_value(value, item, minor)).collect())
        }
        (Type::Map(item), Value::Mapping(entries)) => {
            sorted(entries.iter().map(|(key, value)| (key, canonical_value(value, item, minor))))
        }
        (Type::Args, Value::Mapping(entries)) => {
            sorted(entries.iter().map(|(key, value)| (key, canonical_argument(value, minor))))
        }
        (Type::Any, value) => sorted_deep(value),
        (_, value) => value.clone(),
    }
}

/// From 1.13 on an argument without a value is written as `null`.
fn canonical_argument(value: &Value, minor: Minor) -> Value {
    let is_empty = value.as_scalar().is_some_and(super::yaml::Scalar::is_zero);
    if is_empty && minor >= Minor::V1_13 { Value::null() } else { value.clone() }
}

fn sorted<'a>(entries: impl Iterator<Item = (&'a str, Value)>) -> Value {
    let mut mapping: Mapping = entries.collect();
    mapping.sort_by(natural_order);
    Value::Mapping(mapping)
}

fn sorted_deep(value: &Value) -> Value {
    match value {
        Value::Mapping(entries) => sorted(entries.iter().map(|(key, value)| (key, sorted_deep(value)))),
        Value::Sequence(items) => Value::Sequence(items.iter().map(sorted_deep).collect()),
        Value::Scalar(scalar) => match scalar.integer() {
            Some(number) => Value::from(number),
            None => Value::Scalar(scalar.clone()),
        },
    }
}

/// The order Go's YAML encoder gives to map keys: runs of digits count as numbers, letters come after signs.
pub(super) fn natural_order(left: &str, right: &str) -> Ordering {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let same = left.iter().zip(&right).take_while(|(a, b)| a == b).count();
    let (Some(a), Some(b)) = (left.get(same), right.get(same)) else { return left.len().cmp(&right.len()) };
    let after_digit = same > 0 && left[same - 1].is_ascii_digit();
    match (a.is_alphabetic(), b.is_alphabetic()) {
        (true, true) => a.cmp(b),
        (true, false) => {
            if after_digit {
                Ordering::Less
            } else {
                Ordering::Greater
            }
        }
        (false, true) => {
            if after_digit {
                Ordering::Greater
            } else {
                Ordering::Less
            }
        }
        (false, false) => {
            let (x, y) = (digits_around(&left, same), digits_around(&right, same));
            number(x).cmp(&number(y)).then_with(|| x.len().cmp(&y.len())).then_with(|| a.cmp(b))
        }
    }
}

/// The run of digits from a position on.
fn digits_around(text: &[char], at: usize) -> &[char] {
    let length = text[at..].iter().take_while(|character| character.is_ascii_digit()).count();
    &text[at..at + length]
}

fn number(digits: &[char]) -> u128 {
    digits.iter().take(30).fold(0, |sum, digit| sum * 10 + u128::from(digit.to_digit(10).unwrap_or_default()))
}
