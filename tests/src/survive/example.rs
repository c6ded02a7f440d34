//! A value that fits a JSON Schema, so that playbooks run without anybody writing inputs and outputs for them.

use serde_json::{Map, Value, json};

/// Length of lists that may have any.
const LIST: usize = 2;

/// A value for the schema in `document`; texts differ by where they stand, so that keys made of them are unique.
pub fn of(document: &Value, name: &str) -> Value {
    value(document, document, name, 0)
}

fn value(document: &Value, schema: &Value, name: &str, depth: usize) -> Value {
    if depth > 12 {
        return Value::Null;
    }
    if let Some(fixed) = schema.get("const").or_else(|| schema.get("default").filter(|it| !it.is_null())) {
        return fixed.clone();
    }
    if let Some(first) = ["examples", "enum"].iter().find_map(|it| schema.get(it)?.as_array()?.first()) {
        // Lists of examples would repeat themselves inside lists, and so would keys.
        if !(first.is_string() && depth > 1 && schema.get("enum").is_none()) {
            return first.clone();
        }
    }
    if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        let found = target.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
        return found.map_or(Value::Null, |found| value(document, found, name, depth + 1));
    }
    for keyword in ["oneOf", "anyOf"] {
        let parts = schema.get(keyword).and_then(Value::as_array).into_iter().flatten();
        if let Some(part) = parts.into_iter().find(|part| part.get("type") != Some(&json!("null"))) {
            return merged(object(document, schema, name, depth), value(document, part, name, depth + 1));
        }
    }
    let parts = schema.get("allOf").and_then(Value::as_array).into_iter().flatten();
    parts.fold(plain(document, schema, name, depth), |base, part| merged(base, value(document, part, name, depth + 1)))
}

fn plain(document: &Value, schema: &Value, name: &str, depth: usize) -> Value {
    let kind = match schema.get("type") {
        Some(Value::String(kind)) => kind.as_str(),
        Some(Value::Array(kinds)) => {
            kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("null")
        }
        _ if schema.get("properties").is_some() => "object",
        _ => "null",
    };
    match kind {
        "object" => object(document, schema, name, depth),
        "array" => {
            let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0) as usize;
            let items = schema.get("items").cloned().unwrap_or_default();
            (0..LIST.max(least)).map(|at| value(document, &items, &format!("{name}{at}"), depth + 1)).collect()
        }
        "string" => Value::String(text(schema, name)),
        "integer" => schema.get("minimum").filter(|it| it.is_i64()).cloned().unwrap_or(json!(3)),
        "number" => json!(1.5),
        "boolean" => json!(true),
        _ => Value::Null,
    }
}

fn object(document: &Value, schema: &Value, name: &str, depth: usize) -> Value {
    let mut map = Map::new();
    for (field, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        map.insert(field.clone(), value(document, schema, &format!("{name}{field}"), depth + 1));
    }
    if let (true, Some(values @ Value::Object(_))) = (map.is_empty(), schema.get("additionalProperties")) {
        map.insert("a".to_owned(), value(document, values, &format!("{name}a"), depth + 1));
    }
    Value::Object(map)
}

fn text(schema: &Value, name: &str) -> String {
    let number = name.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    match schema.get("format").and_then(Value::as_str) {
        Some("uuid") => uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, name.as_bytes()).to_string(),
        Some("date-time") => "2026-01-01T00:00:00Z".to_owned(),
        Some("ipv4" | "ip") => format!("127.9.{}.{}", number % 250, (number >> 8) % 250 + 1),
        Some("uri") => format!("https://127.9.0.1/{number}"),
        _ => format!("x{number}"),
    }
}

fn merged(base: Value, more: Value) -> Value {
    match (base, more) {
        (Value::Object(mut base), Value::Object(more)) => {
            base.extend(more);
            Value::Object(base)
        }
        (Value::Object(base), Value::Null) => Value::Object(base),
        (_, more) => more,
    }
}
