//! One setting of the environment or the command line, laid over what the file says.

use serde_json::{Map, Value};

/// Writes one setting into the tree, in the type that its schema wants.
pub(super) fn overlay<'k>(value: &mut Value, schema: &Value, keys: impl Iterator<Item = &'k str>, setting: &str) {
    let mut at = value;
    let mut wanted = Some(schema);
    let mut keys = keys.peekable();
    while let Some(key) = keys.next() {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        let Value::Object(object) = at else { return };
        wanted = wanted.and_then(|of| part(schema, of, key));
        if keys.peek().is_none() {
            object.insert(key.to_owned(), plain_or_json(setting, wanted.is_some_and(|of| is_text(schema, of))));
            return;
        }
        at = object.entry(key).or_insert_with(|| Value::Object(Map::new()));
    }
}

/// The schema of a section's part, as far as it is written out.
fn part<'s>(document: &'s Value, schema: &'s Value, key: &str) -> Option<&'s Value> {
    let schema = resolved(document, schema)?;
    schema.get("properties").and_then(|parts| parts.get(key)).or_else(|| {
        let of_options = schema.get("anyOf").and_then(Value::as_array).into_iter().flatten();
        of_options.into_iter().find_map(|option| part(document, option, key))
    })
}

fn resolved<'s>(document: &'s Value, schema: &'s Value) -> Option<&'s Value> {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(target) => document.pointer(target.strip_prefix('#')?),
        None => Some(schema),
    }
}

/// Whether only a text fits: then `42` and `true` are texts too.
fn is_text(document: &Value, schema: &Value) -> bool {
    let Some(schema) = resolved(document, schema) else { return false };
    match schema.get("type") {
        Some(Value::String(name)) => name == "string",
        Some(Value::Array(names)) => names.iter().all(|name| name == "string" || name == "null"),
        _ => false,
    }
}

fn plain_or_json(setting: &str, is_text: bool) -> Value {
    let text = || Value::String(setting.to_owned());
    if is_text { text() } else { serde_json::from_str(setting).unwrap_or_else(|_| text()) }
}
