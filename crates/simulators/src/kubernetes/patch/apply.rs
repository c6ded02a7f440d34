//! Server-side apply: merge what a manager wants, refuse what another one owns, drop what it no longer wants.

use serde_json::{Map, Value, json};

use super::fields::{FieldSet, display, lookup, remove_at};
use super::ownership::{Entry, Writer, read, write};
use super::schema::{ListKind, Rules, is_atomic_map, item_key, list_kind};
use crate::kubernetes::api::error::ApiError;
use crate::kubernetes::object::{now, remove, text};

/// Applies a configuration to an object (`Null` when there is none yet) and updates its `managedFields`.
///
/// # Errors
/// 409 with one cause per field that another manager owns with another value, unless `force`.
pub(crate) fn apply(
    rules: Rules,
    live: &Value,
    config: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<Value, ApiError> {
    let mut config = config.clone();
    remove(&mut config, &["metadata", "managedFields"]);
    remove(&mut config, &["metadata", "resourceVersion"]);
    let wanted = FieldSet::of(rules, &config);
    let mut entries = read(live);
    let conflicts = find_conflicts(&entries, live, &config, &wanted, writer);
    if !conflicts.is_empty() && !force {
        return Err(conflict_error(&entries, &conflicts));
    }
    for (at, path) in &conflicts {
        let mut taken = FieldSet::default();
        taken.insert(path);
        entries[*at].fields = entries[*at].fields.minus(&taken);
    }
    let mut merged = live.clone();
    merge(rules, &mut merged, &config, &mut Vec::new());
    for path in &dropped_paths(&entries, &wanted, writer) {
        remove_at(&mut merged, path);
    }
    record(&mut entries, &wanted, writer, text(&config, "/apiVersion"));
    write(&mut merged, &entries);
    Ok(merged)
}

/// The fields that another manager owns and that would change, each with the index of that manager's entry.
fn find_conflicts(
    entries: &[Entry],
    live: &Value,
    config: &Value,
    wanted: &FieldSet,
    writer: Writer<'_>,
) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for (at, entry) in entries.iter().enumerate().filter(|(_, entry)| !entry.is(&writer)) {
        for path in entry.fields.intersection(wanted).paths() {
            if lookup(live, &path) != lookup(config, &path) {
                found.push((at, path));
            }
        }
    }
    found
}

fn conflict_error(entries: &[Entry], conflicts: &[(usize, Vec<String>)]) -> ApiError {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|(at, path)| {
            let message = format!("conflict with {}", describe(&entries[*at]));
            json!({"reason": "FieldManagerConflict", "message": message, "field": display(path)})
        })
        .collect();
    let message = if let [(at, path)] = conflicts {
        format!("Apply failed with 1 conflict: conflict with {}: {}", describe(&entries[*at]), display(path))
    } else {
        let mut managers: Vec<usize> = conflicts.iter().map(|(at, _)| *at).collect();
        managers.dedup();
        let lists: Vec<String> = managers
            .iter()
            .map(|manager| {
                let fields: Vec<String> =
                    conflicts.iter().filter(|(at, _)| at == manager).map(|(_, path)| display(path)).collect();
                format!("conflicts with {}:\n- {}", describe(&entries[*manager]), fields.join("\n- "))
            })
            .collect();
        format!("Apply failed with {} conflicts: {}", conflicts.len(), lists.join("\n"))
    };
    let mut error = ApiError::new(409, "Conflict", message);
    error.details = Some(json!({"causes": causes}));
    error
}

/// A manager as conflict messages name it.
fn describe(entry: &Entry) -> String {
    let mut words = format!("{:?}", entry.manager);
    if !entry.subresource.is_empty() {
        words.push_str(&format!(" with subresource {:?}", entry.subresource));
    }
    words.push_str(&format!(" using {}", entry.api_version));
    if entry.operation == "Update" {
        words.push_str(&format!(" at {}", entry.time));
    }
    words
}

/// What the writer applied before, no longer wants, and nobody else owns. A list item stays while anybody owns part of it.
fn dropped_paths(entries: &[Entry], wanted: &FieldSet, writer: Writer<'_>) -> Vec<Vec<String>> {
    let Some(mine) = entries.iter().find(|entry| entry.is(&writer)) else { return Vec::new() };
    let others: Vec<&FieldSet> = entries.iter().filter(|entry| !entry.is(&writer)).map(|entry| &entry.fields).collect();
    let mut paths = mine.fields.minus(wanted).paths();
    paths.retain(|path| !wanted.touches(path) && !others.iter().any(|other| other.touches(path)));
    paths
}

fn record(entries: &mut Vec<Entry>, wanted: &FieldSet, writer: Writer<'_>, api_version: &str) {
    match entries.iter_mut().find(|entry| entry.is(&writer)) {
        Some(entry) if entry.fields == *wanted => {}
        Some(entry) => {
            entry.fields = wanted.clone();
            entry.time = now();
        }
        None => entries.push(Entry {
            manager: writer.manager.into(),
            operation: writer.operation.into(),
            api_version: api_version.into(),
            subresource: writer.subresource.into(),
            time: now(),
            fields: wanted.clone(),
        }),
    }
}

fn merge<'a>(rules: Rules, live: &mut Value, config: &'a Value, path: &mut Vec<&'a str>) {
    match config {
        Value::Object(fields) if !is_atomic_map(path) => {
            if !live.is_object() {
                *live = Value::Object(Map::new());
            }
            for (key, value) in fields {
                path.push(key);
                merge(rules, &mut live[key.as_str()], value, path);
                path.pop();
            }
        }
        Value::Array(list) => merge_list(rules, live, list, path),
        _ => *live = config.clone(),
    }
}

fn merge_list<'a>(rules: Rules, live: &mut Value, config: &'a [Value], path: &mut Vec<&'a str>) {
    let kind = list_kind(rules, path);
    let mut list = live.as_array().cloned().unwrap_or_default();
    match kind {
        ListKind::Atomic => list = config.to_vec(),
        ListKind::Set => list.extend(config.iter().filter(|item| !list.contains(item)).cloned().collect::<Vec<_>>()),
        ListKind::Map(keys) => {
            for item in config {
                let wanted = item_key(keys, item);
                let place = list.iter().position(|it| item_key(keys, it) == wanted).unwrap_or_else(|| {
                    list.push(json!({}));
                    list.len() - 1
                });
                merge(rules, &mut list[place], item, path);
            }
        }
    }
    *live = Value::Array(list);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Writer<'_> = Writer { manager: "me", operation: "Apply", subresource: "" };
    const YOU: Writer<'_> = Writer { manager: "you", operation: "Apply", subresource: "" };

    fn config(spec: Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
    }

    fn applied(live: &Value, spec: Value, writer: Writer<'_>) -> Value {
        apply(Rules::Apply, live, &config(spec), writer, false).expect("no conflict")
    }

    #[test]
    fn another_managers_field_conflicts_until_forced() {
        let live = applied(&Value::Null, json!({"replicas": 1, "paused": true}), ME);
        let error = apply(Rules::Apply, &live, &config(json!({"replicas": 2})), YOU, false).expect_err("conflict");
        assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"me\" using apps/v1: .spec.replicas");
        let forced = apply(Rules::Apply, &live, &config(json!({"replicas": 2})), YOU, true).expect("forced");
        assert_eq!(forced["spec"], json!({"replicas": 2, "paused": true}));
        let mine = &read(&forced)[0];
        assert_eq!(mine.fields.to_json(), json!({"f:spec": {"f:paused": {}}}));
        let same =
            apply(Rules::Apply, &live, &config(json!({"replicas": 1})), YOU, false).expect("same value is shared");
        assert_eq!(read(&same).len(), 2);
    }

    #[test]
    fn a_dropped_field_goes_unless_somebody_else_owns_it() {
        let containers = |list: Value| json!({"template": {"spec": {"containers": list}}});
        let both = json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1", "args": ["x"]}]);
        let live = applied(&Value::Null, containers(both), ME);
        let live = applied(&live, containers(json!([{"name": "b", "image": "1"}])), YOU);
        let live = applied(&live, containers(json!([{"name": "c", "image": "1"}])), ME);
        assert_eq!(
            live["spec"]["template"]["spec"]["containers"],
            json!([{"name": "b", "image": "1"}, {"name": "c", "image": "1"}])
        );
    }
}
