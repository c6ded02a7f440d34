//! The `managedFields` of an object: which manager set which field, by which operation.

use serde_json::{Value, json};

use super::fields::{FieldSet, difference};
use super::schema::Rules;
use crate::kubernetes::object::{items, now, set, text};

/// One entry of `metadata.managedFields`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) manager: String,
    /// `Apply` or `Update`.
    pub(crate) operation: String,
    pub(crate) api_version: String,
    pub(crate) subresource: String,
    pub(crate) time: String,
    pub(crate) fields: FieldSet,
}

impl Entry {
    pub(crate) fn is(&self, other: &Writer<'_>) -> bool {
        self.manager == other.manager && self.operation == other.operation && self.subresource == other.subresource
    }
}

/// Who writes now, and how.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub(crate) manager: &'a str,
    pub(crate) operation: &'a str,
    pub(crate) subresource: &'a str,
}

/// Reads the entries of an object.
pub(crate) fn read(object: &Value) -> Vec<Entry> {
    items(object, "/metadata/managedFields")
        .iter()
        .map(|entry| Entry {
            manager: text(entry, "/manager").into(),
            operation: text(entry, "/operation").into(),
            api_version: text(entry, "/apiVersion").into(),
            subresource: text(entry, "/subresource").into(),
            time: text(entry, "/time").into(),
            fields: FieldSet::from_json(&entry["fieldsV1"]),
        })
        .collect()
}

/// Writes the entries that own something.
pub(crate) fn write(object: &mut Value, entries: &[Entry]) {
    let list: Vec<Value> = entries
        .iter()
        .filter(|entry| !entry.fields.is_empty())
        .map(|entry| {
            let mut json = json!({
                "manager": entry.manager, "operation": entry.operation, "apiVersion": entry.api_version,
                "time": entry.time, "fieldsType": "FieldsV1", "fieldsV1": entry.fields.to_json(),
            });
            if !entry.subresource.is_empty() {
                json["subresource"] = json!(entry.subresource);
            }
            json
        })
        .collect();
    set(object, &["metadata", "managedFields"], Value::Array(list));
}

/// Brings `managedFields` up to date after a create, update or patch that was not an apply.
///
/// What the writer changed becomes its own; what vanished belongs to nobody. A client that sent `managedFields: []`
/// resets them, as in the real API.
pub(crate) fn track_update(rules: Rules, before: &Value, after: &mut Value, writer: Writer<'_>) {
    let changed = difference(rules, before, after);
    let present = FieldSet::of(rules, after);
    let mut entries = read(before);
    for entry in &mut entries {
        if !entry.is(&writer) {
            entry.fields = entry.fields.minus(&changed);
        }
        entry.fields = entry.fields.intersection(&entry.fields.minus(&changed).union(&present));
    }
    let gained = changed.intersection(&present);
    let api_version = text(after, "/apiVersion").to_owned();
    match entries.iter_mut().find(|entry| entry.is(&writer)) {
        Some(entry) if !gained.is_empty() => {
            entry.fields = entry.fields.union(&gained);
            entry.time = now();
        }
        Some(_) => {}
        None => entries.push(Entry {
            manager: writer.manager.into(),
            operation: writer.operation.into(),
            api_version,
            subresource: writer.subresource.into(),
            time: now(),
            fields: gained,
        }),
    }
    write(after, &entries);
}
