//! Request bodies in protobuf, which client-go's typed clients send: decoded to the JSON they stand for.
//!
//! Answers stay JSON, which the same clients accept. A message or field outside `messages.tsv` is refused, never dropped.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::types::{Field, Shape, Type, fields_of, message_of};
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
    let mut object = message(&message_of(&api_version, &kind), raw)?;
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
        Shape::Inline(name) => {
            let Wire::Bytes(bytes) = value else { return Err(format!("a number where {name} is expected")) };
            object.extend(message(name, bytes)?);
        }
        Shape::List(item) => {
            let item = single(item, value)?;
            let list = object.entry(slot()).or_insert_with(|| json!([]));
            list.as_array_mut().ok_or("a list field is not a list")?.push(item);
        }
        Shape::Map(item) => {
            let Wire::Bytes(entry) = value else { return Err(format!("{} is not a map", field.name)) };
            let (mut key, mut content) = (String::new(), single(item, Wire::Bytes(&[]))?);
            for (number, value) in wire_fields(entry)? {
                match (number, value) {
                    (1, Wire::Bytes(text)) => key = utf8(text)?,
                    (2, value) => content = single(item, value)?,
                    _ => {}
                }
            }
            let map = object.entry(slot()).or_insert_with(|| json!({}));
            map[key] = content;
        }
        Shape::One(item) => {
            let value = single(item, value)?;
            if !is_left_out(item, &value) {
                object.insert(slot(), value);
            }
        }
    }
    Ok(())
}

/// One value.
fn single(kind: Type, value: Wire<'_>) -> Result<Value, String> {
    let letter = match (kind, value) {
        (Type::Message { name, .. }, Wire::Bytes(bytes)) => return message(name, bytes).map(Value::Object),
        (Type::Message { name, .. }, Wire::Varint(_)) => return Err(format!("a number where {name} is expected")),
        (Type::Scalar(letter), _) => letter,
    };
    Ok(match (letter, value) {
        // An `int32` or `int64`, negative ones as their two's complement.
        ('i' | 'I', Wire::Varint(number)) => json!(number.cast_signed()),
        ('f' | 'F', Wire::Varint(number)) => json!(number != 0),
        ('s' | 'S', Wire::Bytes(text)) => json!(utf8(text)?),
        ('b', Wire::Bytes(bytes)) => {
            use base64::Engine as _;
            json!(base64::engine::general_purpose::STANDARD.encode(bytes))
        }
        ('t', Wire::Bytes(time)) => time_of(time)?.map_or(Value::Null, |time| json!(format_time(time))),
        ('u', Wire::Bytes(time)) => time_of(time)?.map_or(Value::Null, |time| json!(format!("{time:.6}"))),
        ('x', Wire::Bytes(bytes)) => int_or_string(bytes)?,
        ('q', Wire::Bytes(bytes)) => json!(texts(bytes)?.pop().unwrap_or_else(|| "0".into())),
        ('l', Wire::Bytes(bytes)) => json!(texts(bytes)?),
        ('r', Wire::Bytes(bytes)) => match texts(bytes)?.pop() {
            Some(text) => serde_json::from_str(&text).map_err(|error| error.to_string())?,
            None => Value::Null,
        },
        (letter, _) => return Err(format!("a value that is no {letter}")),
    })
}

/// What JSON leaves out because it is empty.
fn is_left_out(kind: Type, value: &Value) -> bool {
    match (kind, value) {
        (_, Value::Null) => true,
        (Type::Message { kept, .. }, Value::Object(fields)) => !kept && fields.is_empty(),
        (Type::Scalar('s' | 'b'), Value::String(text)) => text.is_empty(),
        (Type::Scalar('f'), Value::Bool(flag)) => !flag,
        (Type::Scalar('i'), Value::Number(number)) => number.as_i64() == Some(0),
        _ => false,
    }
}

/// The strings of a message that holds nothing else.
fn texts(bytes: &[u8]) -> Result<Vec<String>, String> {
    let texts = wire_fields(bytes)?.into_iter().filter_map(|(_, value)| match value {
        Wire::Bytes(text) => Some(utf8(text)),
        Wire::Varint(_) => None,
    });
    texts.collect()
}

fn time_of(bytes: &[u8]) -> Result<Option<Timestamp>, String> {
    let (mut seconds, mut nanoseconds) = (None, 0);
    for (number, value) in wire_fields(bytes)? {
        match (number, value) {
            (1, Wire::Varint(value)) => seconds = Some(value.cast_signed()),
            (2, Wire::Varint(value)) => nanoseconds = i32::try_from(value).unwrap_or_default(),
            _ => {}
        }
    }
    Ok(seconds.and_then(|seconds| Timestamp::new(seconds, nanoseconds).ok()))
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
    fn inlined_messages_stand_in_their_parent_and_wanted_emptiness_stays() {
        let volume = [field(1, b"scratch"), field(2, &field(2, b""))].concat();
        let object = field(2, &field(1, &volume));
        let expected =
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"volumes": [{"name": "scratch", "emptyDir": {}}]}});
        assert_eq!(decode(&body("Pod", &object)), Ok(expected));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(decode(&body("ConfigMap", &field(15, b"x"))).is_err());
        assert!(decode(&body("Surprise", b"")).is_err());
        assert!(decode(b"{}").is_err());
        assert!(decode(&body("ConfigMap", &[0x0a, 0x7f])).is_err());
    }
}
