//! Checks a tree against the catalogue and gives its scalars the types of their fields.

use crate::version::Minor;

use super::catalogue::{self, Field, Object, Type};
use super::yaml::{Kind, Mapping, Scalar, Value};
use super::{Path, duration, encode};

/// A value that does not fit its field. `Display` never shows the value: it may be a secret in the wrong place.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("line {line}: {path} must be {expected}, not {}", describe(found))]
pub struct Mismatch {
    pub path: String,
    pub line: usize,
    pub expected: String,
    found: Found,
    go_type: String,
}

/// What was found instead; `Debug` hides the text.
#[derive(Clone, PartialEq)]
struct Found(Value);

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(describe(self))
    }
}

fn describe(found: &Found) -> &'static str {
    match &found.0 {
        Value::Mapping(_) => "a mapping",
        Value::Sequence(_) => "a list",
        Value::Scalar(scalar) => match scalar.kind() {
            Kind::Null => "null",
            Kind::Bool => "a boolean",
            Kind::Int | Kind::Float => "a number",
            Kind::Timestamp => "a time",
            Kind::String => "a string",
        },
    }
}

impl Mismatch {
    fn new(path: &Path, line: usize, ty: &Type, found: Value) -> Self {
        let (expected, go_type) = (expected(ty).to_owned(), go_type(ty));
        Self { path: path.to_string(), line, expected, found: Found(found), go_type }
    }

    /// The text of Talos's YAML library, which quotes the value.
    pub(super) fn talos_text(&self) -> String {
        let found = match &self.found.0 {
            Value::Mapping(_) => "!!map".to_owned(),
            Value::Sequence(_) => "!!seq".to_owned(),
            Value::Scalar(scalar) => {
                let text = scalar.text();
                let shown: String = if text.chars().count() > 10 {
                    text.chars().take(7).chain("...".chars()).collect()
                } else {
                    text.to_owned()
                };
                format!("{} `{shown}`", tag(scalar.kind()))
            }
        };
        let text = self.found.0.text().unwrap_or_default();
        let problem = match self.go_type.as_str() {
            PREFIX if !text.is_empty() && !text.contains('/') => format!("netip.ParsePrefix({text:?}): no '/'"),
            PREFIX if !text.is_empty() => format!("netip.ParsePrefix({text:?}): bad prefix"),
            ADDRESS if !text.is_empty() => format!("ParseAddr({text:?}): unable to parse IP"),
            go_type => format!("cannot construct {found} into {go_type}"),
        };
        format!("yaml: construct errors:\n  line {}: {problem}", self.line)
    }
}

fn tag(kind: Kind) -> &'static str {
    match kind {
        Kind::Null => "!!null",
        Kind::Bool => "!!bool",
        Kind::Int => "!!int",
        Kind::Float => "!!float",
        Kind::Timestamp => "!!timestamp",
        Kind::String => "!!str",
    }
}

const PREFIX: &str = "netip.Prefix";
const ADDRESS: &str = "netip.Addr";

fn go_type(ty: &Type) -> String {
    match ty {
        Type::Prefix => PREFIX.to_owned(),
        Type::Address => ADDRESS.to_owned(),
        Type::String | Type::Scalar | Type::Manifest => "string".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::Int(whole) => whole.name.to_owned(),
        Type::Text(_) => "string".to_owned(),
        Type::Mode => "v1alpha1.FileMode".to_owned(),
        Type::Duration => "time.Duration".to_owned(),
        Type::Any => "map[string]interface {}".to_owned(),
        Type::Args => "v1alpha1.Args".to_owned(),
        Type::List(item) => format!("[]{}", go_type(item)),
        Type::Map(item) => format!("map[string]{}", go_type(item)),
        Type::Object(name) => (*name).to_owned(),
    }
}

fn expected(ty: &Type) -> &'static str {
    match ty {
        Type::List(_) => "a list",
        Type::Map(_) | Type::Args | Type::Object(_) => "a mapping",
        Type::Any => "anything",
        Type::String | Type::Scalar | Type::Manifest => "a string",
        Type::Duration => "a duration such as 10m or 1h30m",
        Type::Prefix => "an address with a prefix length such as 10.0.0.0/8",
        Type::Address => "an IP address",
        Type::Bool => "a boolean",
        Type::Int(whole) if whole.least == 0 => "a whole number that is not negative and not too large",
        Type::Int(_) | Type::Mode => "an integer",
        Type::Text(form) => form.expected(),
    }
}

/// A key the catalogue does not know, with the likeliest one that was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKey {
    pub path: String,
    pub nearest: Option<&'static str>,
}

/// The part of a mapping that is unknown to the catalogue, as Talos reports it; `None` if every key is known.
pub(super) fn unknown_part(mapping: &Mapping, object: &Object, minor: Minor) -> Option<Mapping> {
    let unknown = mapping.iter().filter_map(|(key, value)| match object.field(key, minor) {
        None => Some((key, value.clone())),
        Some(field) => unknown_in(value, &field.ty, minor).map(|inner| (key, inner)),
    });
    collect_sorted(unknown)
}

fn collect_sorted<'a>(entries: impl Iterator<Item = (&'a str, Value)>) -> Option<Mapping> {
    let mut mapping: Mapping = entries.collect();
    mapping.sort_by(encode::natural_order);
    (!mapping.is_empty()).then_some(mapping)
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
            let unknown = entries.iter().filter_map(|(key, value)| Some((key, unknown_in(value, item, minor)?)));
            collect_sorted(unknown).map(Value::Mapping)
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
    let line = mapping.line();
    let mut conformed = Mapping::default();
    for (key, value) in mapping {
        if value.is_null() {
            continue;
        }
        let path = path.key(&key);
        let value = match object.field(&key, minor) {
            Some(field) => conform_field(value, field, minor, &path, line)?,
            None => value,
        };
        conformed.set(key, value);
    }
    Ok(conformed)
}

/// `line` is that of the mapping around the field, for values that have none of their own.
fn conform_field(value: Value, field: &Field, minor: Minor, path: &Path, line: usize) -> Result<Value, Mismatch> {
    let line = if value.line() == 0 { line } else { value.line() };
    let value = conform_value(value, &field.ty, minor, path).map_err(|error| error.or_line(line))?;
    if field.choices.is_empty() {
        return Ok(value);
    }
    let choose = |value: Value| {
        choice(field, &value).map(Value::from).ok_or_else(|| {
            let expected = format!("one of {}", field.choices.join(", "));
            Mismatch { expected, ..Mismatch::new(path, line, &field.ty, value) }
        })
    };
    match value {
        Value::Sequence(items) => items.into_iter().map(choose).collect::<Result<_, _>>().map(Value::Sequence),
        other => choose(other),
    }
}

/// Talos takes its own words in any case and writes them in its own.
fn choice(field: &Field, value: &Value) -> Option<&'static str> {
    field.choices.iter().copied().find(|choice| value.text().is_some_and(|text| choice.eq_ignore_ascii_case(text)))
}

impl Mismatch {
    fn or_line(self, line: usize) -> Self {
        if self.line == 0 { Self { line, ..self } } else { self }
    }
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
            // An element that is null is none, except where anything may stand.
            let is_element = |value: &Value| !value.is_null() || **item == Type::Any;
            let items = items.into_iter().filter(is_element).enumerate();
            let conformed: Result<_, _> =
                items.map(|(at, value)| conform_value(value, item, minor, &path.index(at))).collect();
            Ok(Value::Sequence(conformed?))
        }
        (Type::Map(item), Value::Mapping(entries)) => conform_entries(entries, item, minor, path),
        (Type::Args, Value::Mapping(entries)) => conform_args(entries, minor, path),
        (ty, Value::Scalar(scalar)) => {
            conform_scalar(&scalar, ty).ok_or_else(|| Mismatch::new(path, line, ty, Value::Scalar(scalar)))
        }
        (ty, value) => Err(Mismatch::new(path, line, ty, value)),
    }
}

fn conform_scalar(scalar: &Scalar, ty: &Type) -> Option<Value> {
    let text = if scalar.kind() == Kind::Null { "" } else { scalar.text() };
    match ty {
        Type::String => Some(Value::from(text)),
        Type::Manifest => Some(Value::from(text.trim_start_matches(['\t', '\n', '\u{b}', '\u{c}', '\r']))),
        // A zero duration is an absent one to Go.
        Type::Duration => duration::normalize(text).map(Value::from),
        Type::Prefix if text.is_empty() || text.parse::<ipnet::IpNet>().is_ok() => Some(Value::from(text)),
        Type::Address if text.is_empty() || text.parse::<std::net::IpAddr>().is_ok() => Some(Value::from(text)),
        Type::Scalar => Some(Value::Scalar(scalar.clone())),
        Type::Bool if scalar.kind() != Kind::Int => scalar.boolean().map(Value::from),
        Type::Int(whole) => {
            scalar.whole_number().filter(|number| (whole.least..=whole.most).contains(number)).map(Value::from)
        }
        Type::Text(form) => form.conform(scalar),
        Type::Mode => scalar.integer().map(|mode| Value::Scalar(Scalar::plain(format!("0o{mode:o}")))),
        _ => None,
    }
}

fn conform_entries(entries: Mapping, item: &Type, minor: Minor, path: &Path) -> Result<Value, Mismatch> {
    let mut conformed = Mapping::default();
    for (key, value) in entries {
        let is_kept_null = value.is_null() && !matches!(item, Type::String);
        let value = if is_kept_null { value } else { conform_value(value, item, minor, &path.key(&key))? };
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
