//! `meta.k8s.io/v1 Table`: the columns that `kubectl get` prints.

mod cells;
mod policies;
mod workloads;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kubernetes::object::{items, text};
use crate::kubernetes::resources::Resource;

/// One column: name and priority (columns above zero are shown by `-o wide`).
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) priority: u8,
}

/// Columns for `names`; a leading `+` marks a wide one.
pub(super) fn columns(names: &[&'static str]) -> Vec<Column> {
    names
        .iter()
        .map(|name| match name.strip_prefix('+') {
            Some(name) => Column { name, priority: 1 },
            None => Column { name, priority: 0 },
        })
        .collect()
}

/// The table of some objects. `include_object` is `None`, `Metadata` (the default) or `Object`.
pub(crate) fn of(resource: &Resource, objects: &[Arc<Value>], include_object: Option<&str>) -> Value {
    let row_object = |object: &Value| match include_object {
        Some("Object") => object.clone(),
        Some("None") => Value::Null,
        _ => partial(object),
    };
    let (definitions, rows): (Vec<Value>, Vec<Value>) = if let Some(version) = &resource.custom {
        let definitions = custom_columns(version);
        let rows =
            objects.iter().map(|it| json!({"cells": custom_cells(version, it), "object": row_object(it)})).collect();
        (definitions, rows)
    } else {
        let (columns, cells) = cells::of_kind(resource);
        let rows = objects.iter().map(|it| json!({"cells": cells(it), "object": row_object(it)})).collect();
        (columns.iter().map(definition).collect(), rows)
    };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": definitions, "rows": rows})
}

/// The metadata of an object alone.
pub(crate) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn definition(column: &Column) -> Value {
    let number = matches!(
        column.name,
        "Desired" | "Current" | "Up-to-date" | "Available" | "Ready-count" | "Data" | "Secrets" | "Min Available-count"
    );
    json!({
        "name": column.name.trim_end_matches("-count"), "type": if number { "integer" } else { "string" },
        "format": if column.name == "Name" { "name" } else { "" }, "description": "", "priority": column.priority,
    })
}

fn custom_columns(version: &Value) -> Vec<Value> {
    let mut all = vec![json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0})];
    let given = items(version, "/additionalPrinterColumns");
    for column in given {
        all.push(json!({
            "name": column["name"], "type": column["type"], "format": text(column, "/format"),
            "description": text(column, "/description"), "priority": column["priority"].as_i64().unwrap_or(0)}));
    }
    if given.is_empty() {
        all.push(json!({"name": "Age", "type": "date", "format": "", "description": "", "priority": 0}));
    }
    all
}

fn custom_cells(version: &Value, object: &Value) -> Vec<Value> {
    let mut cells = vec![object["metadata"]["name"].clone()];
    let given = items(version, "/additionalPrinterColumns");
    for column in given {
        let value = json_path(object, text(column, "/jsonPath"));
        cells.push(match (text(column, "/type"), value) {
            ("date", Some(_)) => {
                let pointer = text(column, "/jsonPath").replace('.', "/");
                json!(age(object, &pointer))
            }
            (_, Some(Value::String(text))) => json!(text),
            (_, Some(Value::Null) | None) => Value::Null,
            ("integer" | "number" | "boolean", Some(other)) => other.clone(),
            (_, Some(other)) => json!(other.to_string()),
        });
    }
    if given.is_empty() {
        cells.push(json!(age(object, "/metadata/creationTimestamp")));
    }
    cells
}

/// The value at a JSONPath of fields, indices and one `[?(@.field=="value")]`.
fn json_path<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut at = object;
    let mut rest = path.trim_start_matches('.');
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (inside, after) = inner.split_once(']')?;
            at = match inside.strip_prefix("?(@.") {
                Some(filter) => {
                    let (field, value) = filter.trim_end_matches(')').split_once("==")?;
                    let value = value.trim().trim_matches(['"', '\'']);
                    at.as_array()?.iter().find(|item| item[field.trim()] == value)?
                }
                None => at.get(inside.parse::<usize>().ok()?)?,
            };
            rest = after.trim_start_matches('.');
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            at = at.get(&rest[..end])?;
            rest = rest[end..].trim_start_matches('.');
        }
    }
    Some(at)
}

/// How long ago the time at a pointer is, as kubectl prints ages.
pub(super) fn age(object: &Value, pointer: &str) -> String {
    match crate::kubernetes::object::seconds_since(object, pointer) {
        Some(seconds) => duration(seconds),
        None => "<unknown>".into(),
    }
}

/// `duration.HumanDuration` of apimachinery.
pub(super) fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |large: i64, unit: char, small: i64, small_unit: char| {
        if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{small_unit}") }
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => pair(days, 'd', hours % 24, 'h'),
        () if days < 730 => format!("{days}d"),
        () => pair(days / 365, 'y', days % 365, 'd'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, expected) in [
            (5, "5s"),
            (119, "119s"),
            (130, "2m10s"),
            (600, "10m"),
            (11_000, "3h3m"),
            (90_000, "25h"),
            (200_000, "2d7h"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }

    #[test]
    fn printer_columns_find_conditions() {
        let object = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}], "n": [1, 2]}});
        let ready = json_path(&object, ".status.conditions[?(@.type==\"Ready\")].status");
        assert_eq!(ready, Some(&json!("True")));
        assert_eq!(json_path(&object, ".status.n[1]"), Some(&json!(2)));
    }
}
