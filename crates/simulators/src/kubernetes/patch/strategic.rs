//! Strategic merge patch: maps merge, lists merge by key where the schema says so, directives delete and replace.

use serde_json::{Map, Value};

use super::schema::{ListKind, Rules, item_key, list_kind};

/// Applies a strategic merge patch to an object of a built-in kind.
///
/// # Errors
/// A sentence for the `BadRequest` that the API answers: a directive that is not known, an item without its merge key.
pub(crate) fn apply(object: &mut Value, patch: &Value) -> Result<(), String> {
    merge(object, patch, &mut Vec::new())
}

fn merge<'a>(current: &mut Value, patch: &'a Value, path: &mut Vec<&'a str>) -> Result<(), String> {
    let Value::Object(patch) = patch else {
        *current = patch.clone();
        return Ok(());
    };
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            *current = Value::Object(without_directives(patch));
            return Ok(());
        }
        Some("delete") => {
            *current = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(format!("unrecognized directive: $patch: {other}")),
    }
    if !current.is_object() {
        *current = Value::Object(Map::new());
    }
    retain_keys(current, patch);
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            delete_scalars(&mut current[list], value);
            continue;
        }
        if key.starts_with('$') {
            continue;
        }
        path.push(key);
        match value {
            Value::Null => {
                if let Some(current) = current.as_object_mut() {
                    current.remove(key);
                }
            }
            Value::Array(items) => {
                let order = patch.get(&format!("$setElementOrder/{key}"));
                merge_list(&mut current[key.as_str()], items, order, path)?;
            }
            _ => merge(&mut current[key.as_str()], value, path)?,
        }
        path.pop();
    }
    for (key, order) in patch {
        if let Some(list) = key.strip_prefix("$setElementOrder/")
            && !patch.contains_key(list)
        {
            path.push(list);
            reorder(&mut current[list], order, list_kind(Rules::Strategic, path));
            path.pop();
        }
    }
    Ok(())
}

fn without_directives(patch: &Map<String, Value>) -> Map<String, Value> {
    patch.iter().filter(|(key, _)| !key.starts_with('$')).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn retain_keys(current: &mut Value, patch: &Map<String, Value>) {
    if let (Some(Value::Array(keys)), Some(current)) = (patch.get("$retainKeys"), current.as_object_mut()) {
        current.retain(|key, _| keys.iter().any(|kept| kept == key));
    }
}

fn delete_scalars(list: &mut Value, gone: &Value) {
    if let (Some(list), Some(gone)) = (list.as_array_mut(), gone.as_array()) {
        list.retain(|item| !gone.contains(item));
    }
}

fn merge_list<'a>(
    current: &mut Value,
    patch: &'a [Value],
    order: Option<&Value>,
    path: &mut Vec<&'a str>,
) -> Result<(), String> {
    let kind = list_kind(Rules::Strategic, path);
    if patch.iter().any(|item| {
        item.as_object().is_some_and(|it| it.len() == 1 && it.get("$patch").is_some_and(|v| v == "replace"))
    }) {
        let kept = patch.iter().filter(|item| item.get("$patch").is_none()).cloned().collect();
        *current = Value::Array(kept);
        return Ok(());
    }
    match kind {
        ListKind::Atomic => *current = Value::Array(patch.to_vec()),
        ListKind::Set => {
            let mut list = current.as_array().cloned().unwrap_or_default();
            for item in patch {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
            *current = Value::Array(list);
        }
        ListKind::Map(keys) => {
            let mut list = current.as_array().cloned().unwrap_or_default();
            for item in patch {
                if let Some(missing) = keys.iter().find(|key| item.get(**key).is_none()) {
                    return Err(format!("map: {item} does not contain declared merge key: {missing}"));
                }
                merge_item(&mut list, item, keys, path)?;
            }
            *current = Value::Array(list);
        }
    }
    if let Some(order) = order {
        reorder(current, order, kind);
    }
    Ok(())
}

fn merge_item<'a>(
    list: &mut Vec<Value>,
    item: &'a Value,
    keys: &[&str],
    path: &mut Vec<&'a str>,
) -> Result<(), String> {
    let wanted = item_key(keys, item);
    let place = list.iter().position(|it| item_key(keys, it) == wanted);
    if item.get("$patch").is_some_and(|directive| directive == "delete") {
        list.retain(|it| item_key(keys, it) != wanted);
        return Ok(());
    }
    match place {
        Some(place) => merge(&mut list[place], item, path),
        None => {
            let mut fresh = Value::Null;
            merge(&mut fresh, item, path)?;
            list.push(fresh);
            Ok(())
        }
    }
}

/// Sorts a list as `$setElementOrder` says; items it does not name keep their place after those it does.
fn reorder(list: &mut Value, order: &Value, kind: ListKind) {
    let (Some(list), Some(order)) = (list.as_array_mut(), order.as_array()) else { return };
    let place = |item: &Value| match kind {
        ListKind::Map(keys) => order.iter().position(|it| item_key(keys, it) == item_key(keys, item)),
        _ => order.iter().position(|it| it == item),
    };
    list.sort_by_key(|item| place(item).unwrap_or(usize::MAX));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(mut object: Value, patch: Value) -> Value {
        apply(&mut object, &patch).expect("applies");
        object
    }

    #[test]
    fn lists_with_a_key_merge_and_others_are_replaced() {
        let pod =
            json!({"spec": {"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "1"}]}});
        let patch = json!({"spec": {"containers": [{"name": "a", "args": ["y"]}, {"name": "b", "$patch": "delete"}]}});
        assert_eq!(patched(pod, patch), json!({"spec": {"containers": [{"name": "a", "image": "1", "args": ["y"]}]}}));
    }

    #[test]
    fn directives_do_what_kubectl_relies_on() {
        let node =
            json!({"metadata": {"finalizers": ["a", "b"]}, "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
        let patch = json!({
            "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]},
            "spec": {"taints": null, "unschedulable": true},
        });
        let expected = json!({"metadata": {"finalizers": ["c", "b"]}, "spec": {"unschedulable": true}});
        assert_eq!(patched(node, patch), expected);

        let deployment = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        assert_eq!(patched(deployment, patch), json!({"spec": {"strategy": {"type": "Recreate"}}}));
    }
}
