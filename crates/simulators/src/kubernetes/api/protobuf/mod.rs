//! Request bodies in protobuf, which client-go's typed clients send: decoded to the JSON they stand for.
//!
//! Answers stay JSON, which the same clients accept. A message or field outside `schema` is refused, never dropped.

mod schema;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use self::schema::{Field, Shape, fields_of};
use crate::kubernetes::object::format_time;

/// What opens every protobuf body of Kubernetes: `k8s` and a zero, then a `runtime.Unknown`.
const MAGIC: &[u8] = b"k8s\0";

/// Decodes a body.
///
/// # Errors
/// What the body holds that is not understood.
pub(crate) fn decode(body: &[u8]) -> Result<Value, String> {
    let unknown = body.strip_prefix(MAGIC).ok_or("the body does not start with the protobuf prefix of Kubernetes")?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for (number, value) in wire_fields(unknown)? {
        match (number, value) {
            (1, Wire::Bytes(types)) => {
                for (number, value) in wire_fields(types)? {
                    match (number, value) {
                        (1, Wire::Bytes(text)) => api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(object)) => raw = object,
            _ => {}
        }
    }
    let mut object = message(&kind, raw)?;
    object.insert("apiVersion".into(), json!(api_version));
    object.insert("kind".into(), json!(kind));
    Ok(Value::Object(object))
}

/// One field as it is on the wire.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or("the body ends within a number")?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number is too long".into())
}

fn wire_fields(mut bytes: &[u8]) -> Result<Vec<(u64, Wire<'_>)>, String> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Wire::Varint(varint(&mut bytes)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).map_err(|error| error.to_string())?;
                let (value, rest) = bytes.split_at_checked(length).ok_or("the body ends within a field")?;
                bytes = rest;
                Wire::Bytes(value)
            }
            other => return Err(format!("wire type {other} is not used by Kubernetes")),
        };
        fields.push((tag >> 3, value));
    }
    Ok(fields)
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())
}

fn message(name: &str, bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let schema = fields_of(name).ok_or_else(|| format!("protobuf of {name} is not understood; send JSON"))?;
    let mut object = Map::new();
    for (number, value) in wire_fields(bytes)? {
        let field = schema
            .iter()
            .find(|field| u64::from(field.number) == number)
            .ok_or_else(|| format!("protobuf field {number} of {name} is not understood; send JSON"))?;
        put(&mut object, field, value)?;
    }
    Ok(object)
}

fn put(object: &mut Map<String, Value>, field: &Field, value: Wire<'_>) -> Result<(), String> {
    let slot = || field.name.to_owned();
    match field.shape {
        Shape::Ignored => {}
        Shape::List(item) => {
            let item = single(item, value, true)?;
            let list = object.entry(slot()).or_insert_with(|| json!([]));
            list.as_array_mut().ok_or("a list field is not a list")?.extend(item);
        }
        Shape::Map(item) => {
            let Wire::Bytes(entry) = value else { return Err(format!("{} is not a map", field.name)) };
            let (mut key, mut content) = (String::new(), single(item, Wire::Bytes(&[]), true)?);
            for (number, value) in wire_fields(entry)? {
                match (number, value) {
                    (1, Wire::Bytes(text)) => key = utf8(text)?,
                    (2, value) => content = single(item, value, true)?,
                    _ => {}
                }
            }
            let map = object.entry(slot()).or_insert_with(|| json!({}));
            map[key] = content.unwrap_or(Value::Null);
        }
        Shape::One(item) => {
            if let Some(value) = single(item, value, false)? {
                object.insert(slot(), value);
            }
        }
    }
    Ok(())
}

/// One value; `None` for what JSON leaves out because it is empty, unless `keep`.
fn single(kind: &str, value: Wire<'_>, keep: bool) -> Result<Option<Value>, String> {
    let read = match (kind, value) {
        ("s", Wire::Bytes(text)) => json!(utf8(text)?),
        ("b", Wire::Bytes(bytes)) => {
            use base64::Engine as _;
            json!(base64::engine::general_purpose::STANDARD.encode(bytes))
        }
        // An `int32` or `int64`, negative ones as their two's complement.
        ("i" | "I", Wire::Varint(number)) => json!(number.cast_signed()),
        ("f" | "F", Wire::Varint(number)) => json!(number != 0),
        ("t", Wire::Bytes(time)) => time_of(time)?,
        ("x", Wire::Bytes(bytes)) => int_or_string(bytes)?,
        ("q", Wire::Bytes(bytes)) => {
            let text = wire_fields(bytes)?.into_iter().find_map(|(_, value)| match value {
                Wire::Bytes(text) => Some(utf8(text)),
                Wire::Varint(_) => None,
            });
            json!(text.transpose()?.unwrap_or_else(|| "0".into()))
        }
        (name, Wire::Bytes(bytes)) => Value::Object(message(name, bytes)?),
        (name, Wire::Varint(_)) => return Err(format!("a number where {name} is expected")),
    };
    let empty = match &read {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Bool(flag) => kind == "f" && !flag,
        Value::Number(number) => kind == "i" && number.as_i64() == Some(0),
        Value::Object(fields) => fields.is_empty(),
        Value::Array(_) => false,
    };
    Ok((keep || !empty).then_some(read))
}

fn time_of(bytes: &[u8]) -> Result<Value, String> {
    let seconds = wire_fields(bytes)?.into_iter().find_map(|(number, value)| match (number, value) {
        (1, Wire::Varint(seconds)) => Some(seconds.cast_signed()),
        _ => None,
    });
    let time = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    Ok(time.map_or(Value::Null, |time| json!(format_time(time))))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for (field, value) in wire_fields(bytes)? {
        match (field, value) {
            (1, Wire::Varint(kind)) => is_text = kind == 1,
            (2, Wire::Varint(value)) => number = value.cast_signed(),
            (3, Wire::Bytes(value)) => text = utf8(value)?,
            _ => {}
        }
    }
    Ok(if is_text { json!(text) } else { json!(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).expect("short");
        [&[number << 3 | 2, length], content].concat()
    }

    fn body(kind: &str, object: &[u8]) -> Vec<u8> {
        let types = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &types), field(2, object)].concat()
    }

    #[test]
    fn an_object_reads_as_its_json() {
        let entry = [field(1, b"key"), field(2, b"")].concat();
        let object = [
            field(1, &[field(1, b"c"), field(8, b""), field(11, &[field(1, b"a"), field(2, b"b")].concat())].concat()),
            field(2, &entry),
        ];
        let expected = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "labels": {"a": "b"}}, "data": {"key": ""}});
        assert_eq!(decode(&body("ConfigMap", &object.concat())), Ok(expected));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(decode(&body("ConfigMap", &field(15, b"x"))).is_err());
        assert!(decode(&body("Surprise", b"")).is_err());
        assert!(decode(b"{}").is_err());
        assert!(decode(&body("ConfigMap", &[0x0a, 0x7f])).is_err());
    }
}
