//! OpenAPI v2 in the protobuf form that kubectl before 1.29, and its `plaintext-openapiv2` output since, ask for.

use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::Value;

/// As the real server names this form in its answers.
pub(crate) const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// As clients ask for it.
pub(crate) const ASKED_FOR: [&str; 2] = [MEDIA_TYPE, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"];

/// The whole document.
pub(crate) fn document(openapi: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 1, &openapi["swagger"]);
    let mut info = Vec::new();
    text(&mut info, 1, &openapi["info"]["title"]);
    text(&mut info, 2, &openapi["info"]["version"]);
    put(&mut out, 2, &info);
    let mut paths = Vec::new();
    for (path, item) in entries(&openapi["paths"]) {
        put(&mut paths, 2, &named(path, &path_item(item)));
    }
    put(&mut out, 8, &paths);
    put(&mut out, 9, &schemas(&openapi["definitions"]));
    out
}

fn path_item(item: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (verb, number) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if let Some(operation) = item.get(verb) {
            put(&mut out, number, &self::operation(operation));
        }
    }
    out
}

fn operation(operation: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let mut query = Vec::new();
        text(&mut query, 2, &parameter["in"]);
        text(&mut query, 4, &parameter["name"]);
        text(&mut query, 6, &parameter["type"]);
        // A parameter, which is none of a body, in the query.
        let nested = [3, 2, 1].iter().fold(query, |inner, number| wrapped(*number, &inner));
        put(&mut out, 8, &nested);
    }
    put(&mut out, 9, &[]);
    extensions(&mut out, 13, operation);
    out
}

/// Named schemas, as definitions and as properties.
fn schemas(all: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, schema) in entries(all) {
        put(&mut out, 1, &named(name, &self::schema(schema)));
    }
    out
}

fn schema(schema: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, number) in [("$ref", 1), ("format", 2), ("title", 3), ("description", 4), ("pattern", 13)] {
        text(&mut out, number, &schema[key]);
    }
    for (key, number) in [("multipleOf", 6), ("maximum", 7), ("minimum", 9)] {
        if let Some(value) = schema[key].as_f64() {
            encode_key(number, WireType::SixtyFourBit, &mut out);
            out.extend(value.to_le_bytes());
        }
    }
    let counts = [
        ("maxLength", 11),
        ("minLength", 12),
        ("maxItems", 14),
        ("minItems", 15),
        ("maxProperties", 17),
        ("minProperties", 18),
    ];
    for (key, number) in counts {
        if let Some(value) = schema[key].as_u64() {
            encode_key(number, WireType::Varint, &mut out);
            encode_varint(value, &mut out);
        }
    }
    if !schema["default"].is_null() {
        put(&mut out, 5, &any(&schema["default"]));
    }
    let list = |key: &str| schema[key].as_array().into_iter().flatten();
    list("required").for_each(|name| text(&mut out, 19, name));
    list("enum").for_each(|value| put(&mut out, 20, &any(value)));
    match &schema["additionalProperties"] {
        Value::Bool(open) => put(&mut out, 21, &[0x10, u8::from(*open)]),
        Value::Object(_) => put(&mut out, 21, &wrapped(1, &self::schema(&schema["additionalProperties"]))),
        _ => {}
    }
    if schema["type"].is_string() {
        let mut kind = Vec::new();
        text(&mut kind, 1, &schema["type"]);
        put(&mut out, 22, &kind);
    }
    if schema["items"].is_object() {
        put(&mut out, 23, &wrapped(1, &self::schema(&schema["items"])));
    }
    list("allOf").for_each(|part| put(&mut out, 24, &self::schema(part)));
    if schema["properties"].is_object() {
        put(&mut out, 25, &schemas(&schema["properties"]));
    }
    extensions(&mut out, 31, schema);
    out
}

/// The `x-` fields of an object.
fn extensions(out: &mut Vec<u8>, number: u32, object: &Value) {
    for (key, value) in entries(object).filter(|(key, _)| key.starts_with("x-")) {
        put(out, number, &named(key, &any(value)));
    }
}

/// Any value is YAML inside, and JSON is YAML.
fn any(value: &Value) -> Vec<u8> {
    wrapped(2, value.to_string().as_bytes())
}

fn named(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = wrapped(1, name.as_bytes());
    put(&mut out, 2, value);
    out
}

fn entries(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

fn text(out: &mut Vec<u8>, number: u32, value: &Value) {
    if let Some(value) = value.as_str() {
        put(out, number, value.as_bytes());
    }
}

fn put(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

fn wrapped(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 6);
    put(&mut out, number, content);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_becomes_the_message_that_clients_read() {
        let got = schema(&json!({"type": "object", "properties": {"a": {"$ref": "#/definitions/b"}}, "x-k": 1}));
        let a = [&[0x0A, 15][..], b"#/definitions/b"].concat();
        let named = [&[0x0A, 1, b'a', 0x12, 17][..], &a].concat();
        let properties = [&[0xCA, 0x01, 24, 0x0A, 22][..], &named].concat();
        let kind = [&[0xB2, 0x01, 8, 0x0A, 6][..], b"object"].concat();
        let extension = [&[0xFA, 0x01, 10, 0x0A, 3][..], b"x-k", &[0x12, 3, 0x12, 1, b'1']].concat();
        assert_eq!(got, [kind, properties, extension].concat());
    }
}
