//! Writes a spec twice, as Talos does: YAML for people, protobuf for typed clients.

use std::net::IpAddr;

use base64::Engine as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::Value;

use super::schema::{self, Field, Kind};
use super::yaml::Yaml;
use crate::talos::release::Line;

/// An enumeration value: its name in YAML and its number in protobuf.
pub(crate) fn named(name: &str, number: u64) -> Value {
    serde_json::json!({"~": name, "#": number})
}

/// The YAML of a struct, every field in the order of the Go struct.
pub(crate) fn yaml(structure: &str, value: &Value, line: Line) -> Yaml {
    let mut entries = Vec::new();
    for field in schema::fields(structure, line) {
        let part = if field.key.is_empty() { Some(value) } else { value.get(field.key) };
        let part = part.filter(|part| !part.is_null());
        if field.key.is_empty() {
            return part.map_or_else(|| Yaml::Map(Vec::new()), Yaml::from_json);
        }
        if field.omit && part.is_none_or(is_zero) {
            continue;
        }
        entries.push((field.key.to_owned(), field_yaml(field, part, line)));
    }
    Yaml::Map(entries)
}

/// The protobuf of a struct: ascending numbers do not matter, zero values are left out.
pub(crate) fn protobuf(structure: &str, value: &Value, line: Line) -> Vec<u8> {
    let mut out = Vec::new();
    for field in schema::fields(structure, line) {
        let part = if field.key.is_empty() { Some(value) } else { value.get(field.key) };
        let Some(part) = part.filter(|part| !part.is_null()) else { continue };
        if field.repeated {
            put_repeated(&mut out, field, part, line);
        } else {
            put(&mut out, field, part, line);
        }
    }
    out
}

fn field_yaml(field: &Field, part: Option<&Value>, line: Line) -> Yaml {
    if field.repeated {
        let items = part.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        return Yaml::List(items.iter().map(|item| value_yaml(field.kind, Some(item), line)).collect());
    }
    value_yaml(field.kind, part, line)
}

fn value_yaml(kind: Kind, part: Option<&Value>, line: Line) -> Yaml {
    let Some(part) = part else { return zero_yaml(kind, line) };
    match kind {
        Kind::Message(name) => yaml(name, part, line),
        Kind::MapOf(name) => {
            let Value::Object(map) = part else { return Yaml::Map(Vec::new()) };
            Yaml::Map(map.iter().map(|(key, value)| (key.clone(), map_value_yaml(name, value, line))).collect())
        }
        Kind::Enum | Kind::Number => match part.get("~") {
            Some(name) => Yaml::Text(name.as_str().unwrap_or_default().to_owned()),
            None => Yaml::from_json(part),
        },
        _ => Yaml::from_json(part),
    }
}

fn map_value_yaml(name: &str, value: &Value, line: Line) -> Yaml {
    match value.get("values").and_then(Value::as_array).map(Vec::as_slice) {
        Some([single]) => Yaml::from_json(single),
        Some(several) => Yaml::List(several.iter().map(Yaml::from_json).collect()),
        None => yaml(name, value, line),
    }
}

fn zero_yaml(kind: Kind, line: Line) -> Yaml {
    match kind {
        Kind::Text | Kind::Bytes | Kind::Ip | Kind::Prefix => Yaml::Text(String::new()),
        Kind::Bool => Yaml::Plain("false".into()),
        Kind::Number | Kind::Enum => Yaml::Plain("0".into()),
        Kind::Duration => Yaml::Text("0s".into()),
        Kind::Strings | Kind::Struct | Kind::MapOf(_) => Yaml::Map(Vec::new()),
        Kind::Message(name) => yaml(name, &Value::Null, line),
        Kind::Url | Kind::Pair | Kind::Key | Kind::Certificate => Yaml::Plain("null".into()),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty() || map.get("#").is_some_and(|number| number.as_u64() == Some(0)),
    }
}

fn put_repeated(out: &mut Vec<u8>, field: &Field, part: &Value, line: Line) {
    let items = part.as_array().map(Vec::as_slice).unwrap_or_default();
    if matches!(field.kind, Kind::Number | Kind::Enum | Kind::Bool) {
        let mut packed = Vec::new();
        items.iter().for_each(|item| encode_varint(number(item), &mut packed));
        put_bytes(out, field.number, &packed);
        return;
    }
    for item in items {
        let content = content(field.kind, item, line).unwrap_or_default();
        encode_key(field.number, WireType::LengthDelimited, out);
        encode_varint(content.len() as u64, out);
        out.extend_from_slice(&content);
    }
}

fn put(out: &mut Vec<u8>, field: &Field, part: &Value, line: Line) {
    match field.kind {
        Kind::Number | Kind::Enum | Kind::Bool => put_number(out, field.number, number(part)),
        Kind::Strings | Kind::MapOf(_) => {
            let Value::Object(map) = part else { return };
            for (key, value) in map {
                let inner = match (field.kind, value.as_str()) {
                    (Kind::MapOf(name), _) => protobuf(name, value, line),
                    (_, text) => text.unwrap_or_default().as_bytes().to_vec(),
                };
                put_bytes(out, field.number, &map_entry(key, &inner));
            }
        }
        _ => put_bytes(out, field.number, &content(field.kind, part, line).unwrap_or_default()),
    }
}

/// The bytes inside a length-delimited field.
fn content(kind: Kind, part: &Value, line: Line) -> Option<Vec<u8>> {
    let text = || part.as_str();
    Some(match kind {
        Kind::Text => text()?.as_bytes().to_vec(),
        Kind::Bytes => hex::decode(text()?.replace(':', "")).ok()?,
        Kind::Ip => single(1, &octets(text()?.parse().ok()?)),
        Kind::Prefix => {
            let (address, bits) = text()?.split_once('/')?;
            let mut out = single(1, &octets(address.parse().ok()?));
            put_number(&mut out, 2, bits.parse().ok()?);
            out
        }
        Kind::Url | Kind::Key | Kind::Certificate => {
            let inner = text().or_else(|| part.get("crt").or(part.get("key")).and_then(Value::as_str))?;
            single(1, &pem_bytes(kind, inner))
        }
        Kind::Pair => {
            let mut out = Vec::new();
            for (number, key) in [(1, "crt"), (2, "key")] {
                let inner = part.get(key).and_then(Value::as_str).unwrap_or_default();
                put_bytes(&mut out, number, &pem_bytes(kind, inner));
            }
            out
        }
        Kind::Struct => struct_bytes(part),
        Kind::Message(name) => protobuf(name, part, line),
        Kind::Duration | Kind::Bool | Kind::Number | Kind::Enum | Kind::Strings | Kind::MapOf(_) => return None,
    })
}

/// PEM stands base64-encoded in YAML and raw in protobuf.
fn pem_bytes(kind: Kind, text: &str) -> Vec<u8> {
    if matches!(kind, Kind::Url) {
        return text.as_bytes().to_vec();
    }
    base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_else(|_| text.as_bytes().to_vec())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn number(part: &Value) -> u64 {
    let part = part.get("#").unwrap_or(part);
    part.as_u64()
        .or_else(|| part.as_i64().map(i64::cast_unsigned))
        .or_else(|| part.as_bool().map(u64::from))
        .unwrap_or_default()
}

fn put_number(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        encode_key(field, WireType::Varint, out);
        encode_varint(value, out);
    }
}

fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.extend(single(field, bytes));
    }
}

fn single(field: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 6);
    encode_key(field, WireType::LengthDelimited, &mut out);
    encode_varint(bytes.len() as u64, &mut out);
    out.extend_from_slice(bytes);
    out
}

fn map_entry(key: &str, value: &[u8]) -> Vec<u8> {
    let mut entry = single(1, key.as_bytes());
    entry.extend(single(2, value));
    entry
}

/// A `google.protobuf.Struct`.
fn struct_bytes(value: &Value) -> Vec<u8> {
    let Value::Object(map) = value else { return Vec::new() };
    map.iter().flat_map(|(key, value)| single(1, &map_entry(key, &value_bytes(value)))).collect()
}

fn value_bytes(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    match value {
        Value::Null => {
            encode_key(1, WireType::Varint, &mut out);
            encode_varint(0, &mut out);
        }
        Value::Number(number) => {
            encode_key(2, WireType::SixtyFourBit, &mut out);
            out.extend(number.as_f64().unwrap_or_default().to_le_bytes());
        }
        Value::String(text) => out = single(3, text.as_bytes()),
        Value::Bool(flag) => {
            encode_key(4, WireType::Varint, &mut out);
            encode_varint(u64::from(*flag), &mut out);
        }
        Value::Object(_) => out = single(5, &struct_bytes(value)),
        Value::Array(items) => {
            let list: Vec<u8> = items.iter().flat_map(|item| single(1, &value_bytes(item))).collect();
            out = single(6, &list);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::json;
    use talos::proto::talos::resource::definitions::{cluster, network, runtime};

    use super::*;

    #[test]
    fn both_encodings_say_the_same() {
        let value = json!({"stage": named("running", 4), "status": {"ready": false, "unmetConditions": [{"name": "time", "reason": "x"}]}});
        let decoded =
            runtime::MachineStatusSpec::decode(&*protobuf("runtime.MachineStatusSpec", &value, Line::V1_13)).unwrap();
        assert_eq!(decoded.stage, 4);
        assert_eq!(decoded.status.unwrap().unmet_conditions[0].name, "time");
        let text = yaml("runtime.MachineStatusSpec", &value, Line::V1_13).write();
        assert_eq!(
            text,
            "stage: running\nstatus:\n    ready: false\n    unmetConditions:\n        - name: time\n          reason: x\n"
        );
    }

    #[test]
    fn addresses_and_absent_fields_follow_the_go_structs() {
        let value = json!({"nodeId": "n", "addresses": ["127.16.1.1"], "hostname": "h", "machineType": named("worker", 3), "operatingSystem": "Talos"});
        let decoded = cluster::MemberSpec::decode(&*protobuf("cluster.MemberSpec", &value, Line::V1_13)).unwrap();
        assert_eq!(decoded.addresses[0].ip, [127, 16, 1, 1]);
        assert!(decoded.control_plane.is_none());
        assert!(!yaml("cluster.MemberSpec", &value, Line::V1_13).write().contains("controlPlane"));
        let link = json!({"index": 2, "hardwareAddr": "aa:bb:cc:00:11:22", "linkState": true});
        let decoded =
            network::LinkStatusSpec::decode(&*protobuf("network.LinkStatusSpec", &link, Line::V1_13)).unwrap();
        assert_eq!(decoded.hardware_addr, [0xaa, 0xbb, 0xcc, 0, 0x11, 0x22]);
    }
}
