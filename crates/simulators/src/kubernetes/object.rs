//! Small readers and writers for Kubernetes objects held as JSON.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The string at a JSON pointer, or the empty string.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The integer at a JSON pointer.
pub(crate) fn integer(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// The elements at a JSON pointer, or none.
pub(crate) fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The map at a JSON pointer.
pub(crate) fn map<'a>(object: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    object.pointer(pointer).and_then(Value::as_object)
}

/// True when the flag at a JSON pointer is set.
pub(crate) fn flag(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

pub(crate) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub(crate) fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

pub(crate) fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

pub(crate) fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("labels")?.get(key)?.as_str()
}

pub(crate) fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

/// True once somebody asked for the object's deletion.
pub(crate) fn is_terminating(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

/// The owner reference with `controller: true`.
pub(crate) fn controller_of(object: &Value) -> Option<&Value> {
    items(object, "/metadata/ownerReferences").iter().find(|owner| flag(owner, "/controller"))
}

/// True when the object's controller is the one with this uid.
pub(crate) fn is_controlled_by(object: &Value, owner_uid: &str) -> bool {
    controller_of(object).is_some_and(|owner| text(owner, "/uid") == owner_uid)
}

/// An owner reference to `owner` as its controller.
pub(crate) fn controller_reference(owner: &Value) -> Value {
    json!({
        "apiVersion": text(owner, "/apiVersion"), "kind": text(owner, "/kind"), "name": name(owner), "uid": uid(owner),
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// Now, as `metav1.Time` writes it.
pub(crate) fn now() -> String {
    format_time(Timestamp::now())
}

/// Now, as `metav1.MicroTime` writes it.
pub(crate) fn now_micro() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

pub(crate) fn format_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Seconds since the time at a JSON pointer; `None` when it is absent or not a time.
pub(crate) fn seconds_since(object: &Value, pointer: &str) -> Option<i64> {
    let then: Timestamp = text(object, pointer).parse().ok()?;
    Some(Timestamp::now().as_second() - then.as_second())
}

/// Writes a value below a path of map keys, making the maps on the way.
pub(crate) fn set(object: &mut Value, path: &[&str], value: Value) {
    let mut at = object;
    for key in path {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[*key];
    }
    *at = value;
}

/// Writes a value below a path of map keys unless there is one.
pub(crate) fn set_default(object: &mut Value, path: &[&str], value: Value) {
    let mut at = &*object;
    for key in path {
        at = &at[*key];
    }
    if at.is_null() {
        set(object, path, value);
    }
}

/// Removes the map entry at a path.
pub(crate) fn remove(object: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    let mut at = object;
    for key in parents {
        at = at.get_mut(*key)?;
    }
    at.as_object_mut()?.remove(*last)
}

/// One condition of `status.conditions`.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    items(object, "/status/conditions").iter().find(|condition| condition["type"] == kind)
}

/// True when the named condition has status `True`.
pub(crate) fn condition_is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition["status"] == "True")
}

/// A condition to be written by [`set_condition`].
pub(crate) struct Condition<'a> {
    pub(crate) kind: &'a str,
    pub(crate) status: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
}

/// Puts a condition into `status.conditions`; its transition time moves only when its status changes.
pub(crate) fn set_condition(object: &mut Value, new: &Condition<'_>) {
    let existing = condition(object, new.kind).cloned();
    let same_status = existing.as_ref().is_some_and(|old| old["status"] == new.status);
    let since =
        existing.as_ref().filter(|_| same_status).map_or_else(now, |old| text(old, "/lastTransitionTime").into());
    let mut written = existing.unwrap_or_else(|| json!({}));
    written["type"] = json!(new.kind);
    written["status"] = json!(new.status);
    written["lastTransitionTime"] = json!(since);
    for (key, value) in [("reason", new.reason), ("message", new.message)] {
        if value.is_empty() {
            remove(&mut written, &[key]);
        } else {
            written[key] = json!(value);
        }
    }
    let mut all = items(object, "/status/conditions").to_vec();
    match all.iter_mut().find(|condition| condition["type"] == new.kind) {
        Some(place) => *place = written,
        None => all.push(written),
    }
    set(object, &["status", "conditions"], Value::Array(all));
}

/// Five or ten characters from the alphabet that Kubernetes uses for generated names.
pub(crate) fn random_suffix(length: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..length).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect()
}

/// A stable short hash of a JSON value, written in the alphabet of generated names.
pub(crate) fn short_hash(value: &Value) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in value.to_string().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut text = String::new();
    for _ in 0..10 {
        text.push(char::from(ALPHABET[(hash % 27) as usize]));
        hash /= 27;
    }
    text
}
