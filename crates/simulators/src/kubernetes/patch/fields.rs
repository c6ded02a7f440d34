//! Sets of fields, in the form that `managedFields` keeps them (`FieldsV1`).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::schema::{ListKind, Rules, is_atomic_map, item_key, list_kind};

/// A set of paths into an object, as a tree. Elements are written as in `FieldsV1`: `f:name`, `k:{…}`, `v:…`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FieldSet {
    /// The path that ends here is in the set.
    pub(crate) here: bool,
    pub(crate) below: BTreeMap<String, Self>,
}

impl FieldSet {
    /// Every field that a value sets. Keyed list items and empty maps count themselves; so do atomic values.
    pub(crate) fn of(rules: Rules, value: &Value) -> Self {
        let mut set = collect(rules, value, &mut Vec::new());
        set.here = false;
        for identity in ["f:apiVersion", "f:kind"] {
            set.below.remove(identity);
        }
        if let Some(metadata) = set.below.get_mut("f:metadata") {
            for name in [
                "name",
                "namespace",
                "creationTimestamp",
                "uid",
                "resourceVersion",
                "generation",
                "selfLink",
                "managedFields",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
            ] {
                metadata.below.remove(&format!("f:{name}"));
            }
            if metadata.below.is_empty() {
                set.below.remove("f:metadata");
            }
        }
        set
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.here && self.below.values().all(Self::is_empty)
    }

    pub(crate) fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        all.here |= other.here;
        for (key, child) in &other.below {
            let merged = all.below.get(key).map_or_else(|| child.clone(), |mine| mine.union(child));
            all.below.insert(key.clone(), merged);
        }
        all
    }

    /// The paths of this set that are not in the other.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine && !theirs)
    }

    /// The paths of both sets.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine && theirs)
    }

    fn combine(&self, other: &Self, keep: fn(bool, bool) -> bool) -> Self {
        let nothing = Self::default();
        let below = self
            .below
            .iter()
            .map(|(key, child)| (key.clone(), child.combine(other.below.get(key).unwrap_or(&nothing), keep)))
            .filter(|(_, child)| !child.is_empty())
            .collect();
        Self { here: keep(self.here, other.here), below }
    }

    pub(crate) fn insert(&mut self, path: &[String]) {
        match path.split_first() {
            None => self.here = true,
            Some((first, rest)) => self.below.entry(first.clone()).or_default().insert(rest),
        }
    }

    /// True when this path or anything below it is in the set.
    pub(crate) fn touches(&self, path: &[String]) -> bool {
        match path.split_first() {
            None => !self.is_empty(),
            Some((first, rest)) => self.below.get(first).is_some_and(|child| child.touches(rest)),
        }
    }

    /// Every path of the set, as a list of elements.
    pub(crate) fn paths(&self) -> Vec<Vec<String>> {
        let mut all = Vec::new();
        self.walk(&mut Vec::new(), &mut all);
        all
    }

    fn walk(&self, prefix: &mut Vec<String>, all: &mut Vec<Vec<String>>) {
        if self.here {
            all.push(prefix.clone());
        }
        for (key, child) in &self.below {
            prefix.push(key.clone());
            child.walk(prefix, all);
            prefix.pop();
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let mut fields = Map::new();
        if self.here && !self.below.is_empty() {
            fields.insert(".".into(), json!({}));
        }
        fields.extend(self.below.iter().map(|(key, child)| (key.clone(), child.to_json())));
        Value::Object(fields)
    }

    pub(crate) fn from_json(fields: &Value) -> Self {
        let mut set = Self::default();
        let entries = fields.as_object();
        set.here = entries.is_none_or(Map::is_empty);
        for (key, child) in entries.into_iter().flatten() {
            if key == "." {
                set.here = true;
            } else {
                set.below.insert(key.clone(), Self::from_json(child));
            }
        }
        set
    }
}

fn leaf() -> FieldSet {
    FieldSet { here: true, below: BTreeMap::new() }
}

fn collect<'a>(rules: Rules, value: &'a Value, path: &mut Vec<&'a str>) -> FieldSet {
    match value {
        Value::Object(fields) if !fields.is_empty() && !is_atomic_map(path) => {
            let mut set = FieldSet::default();
            for (key, child) in fields {
                path.push(key);
                set.below.insert(format!("f:{key}"), collect(rules, child, path));
                path.pop();
            }
            set
        }
        Value::Array(list) if !list.is_empty() => match list_kind(rules, path) {
            ListKind::Atomic => leaf(),
            ListKind::Set => {
                let below = list.iter().map(|item| (format!("v:{item}"), leaf())).collect();
                FieldSet { here: false, below }
            }
            ListKind::Map(keys) => {
                let mut set = FieldSet::default();
                for item in list {
                    let mut inner = collect(rules, item, path);
                    inner.here = true;
                    set.below.insert(key_element(keys, item), inner);
                }
                set
            }
        },
        _ => leaf(),
    }
}

/// The `k:{…}` element of a keyed list item.
pub(crate) fn key_element(keys: &[&str], item: &Value) -> String {
    let fields: Map<String, Value> = keys.iter().map(|key| (*key).to_owned()).zip(item_key(keys, item)).collect();
    format!("k:{}", Value::Object(fields))
}

/// The fields in which two states of an object differ: added, removed or changed.
pub(crate) fn difference(rules: Rules, before: &Value, after: &Value) -> FieldSet {
    let (mine, theirs) = (FieldSet::of(rules, before), FieldSet::of(rules, after));
    let everywhere = mine.union(&theirs);
    let mut differing = FieldSet::default();
    for path in everywhere.paths() {
        if lookup(before, &path) != lookup(after, &path) {
            differing.insert(&path);
        }
    }
    differing
}

/// What is at a path. A keyed item counts as present or absent only; its fields have paths of their own.
pub(crate) fn lookup(object: &Value, path: &[String]) -> Option<Value> {
    let mut at = object;
    for element in path {
        at = step(at, element)?;
    }
    let is_item = path.last().is_some_and(|element| element.starts_with("k:"));
    Some(if is_item { Value::Bool(true) } else { at.clone() })
}

fn step<'a>(at: &'a Value, element: &str) -> Option<&'a Value> {
    match element.split_at_checked(2)? {
        ("f:", name) => at.get(name),
        ("k:", key) => at.as_array()?.iter().find(|item| matches_key(item, key)),
        ("v:", scalar) => at.as_array()?.iter().find(|item| is_scalar(item, scalar)),
        _ => None,
    }
}

fn is_scalar(item: &Value, json: &str) -> bool {
    serde_json::from_str::<Value>(json).is_ok_and(|scalar| scalar == *item)
}

fn matches_key(item: &Value, key: &str) -> bool {
    let Ok(Value::Object(key)) = serde_json::from_str::<Value>(key) else { return false };
    key.iter().all(|(name, value)| item_key(&[name.as_str()], item)[0] == *value)
}

/// Removes what is at a path, and the maps that this leaves empty.
pub(crate) fn remove_at(object: &mut Value, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    let (kind, key) = first.split_at_checked(2).unwrap_or_default();
    if rest.is_empty() {
        match (kind, object) {
            ("f:", Value::Object(fields)) => drop(fields.remove(key)),
            ("k:", Value::Array(list)) => list.retain(|item| !matches_key(item, key)),
            ("v:", Value::Array(list)) => list.retain(|item| !is_scalar(item, key)),
            _ => {}
        }
        return;
    }
    match (kind, object) {
        ("f:", Value::Object(fields)) => {
            let Some(child) = fields.get_mut(key) else { return };
            remove_at(child, rest);
            if child.as_object().is_some_and(Map::is_empty) {
                fields.remove(key);
            }
        }
        ("k:", Value::Array(list)) => {
            if let Some(item) = list.iter_mut().find(|item| matches_key(item, key)) {
                remove_at(item, rest);
            }
        }
        _ => {}
    }
}

/// A path as conflict messages print it: `.spec.template.spec.containers[name="app"].image`.
pub(crate) fn display(path: &[String]) -> String {
    path.iter()
        .map(|element| match element.split_at_checked(2) {
            Some(("f:", name)) => format!(".{name}"),
            Some(("k:", key)) => {
                let key: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                let parts: Vec<String> = key.iter().map(|(name, value)| format!("{name}={value}")).collect();
                format!("[{}]", parts.join(","))
            }
            _ => format!("[={}]", element.get(2..).unwrap_or_default()),
        })
        .collect()
}
