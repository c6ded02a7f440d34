//! The object store: what etcd and the watch cache are to a real API server.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::object::{is_terminating, items, now, set};

/// How many changes a watch can lag behind before it is told that its version is too old.
const HISTORY: usize = 20_000;

/// Namespace (empty for cluster scope) and name.
pub(crate) type Place = (String, String);

/// One write, as a watch sees it.
#[derive(Clone)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) resource: Arc<str>,
    /// `None` when the object was created.
    pub(crate) before: Option<Arc<Value>>,
    /// `None` when the object was deleted.
    pub(crate) after: Option<Arc<Value>>,
}

/// Why a write was not made.
pub(crate) enum WriteError<E> {
    NotFound,
    Refused(E),
}

#[derive(Default)]
struct State {
    revision: u64,
    tables: HashMap<Arc<str>, BTreeMap<Place, Arc<Value>>>,
    history: VecDeque<Change>,
    /// The newest revision that is no longer in `history`.
    compacted: u64,
}

/// Objects by resource, namespace and name, with one revision counter and a bounded history.
pub(crate) struct Store {
    state: Mutex<State>,
    /// Moves with every write.
    revision: watch::Sender<u64>,
    /// Moves with every write but heartbeats, so that controllers sleep while nothing happens.
    activity: watch::Sender<u64>,
}

#[derive(Serialize, Deserialize)]
struct Snapshot {
    revision: u64,
    tables: BTreeMap<String, Vec<Value>>,
}

impl Store {
    pub(crate) fn empty() -> Self {
        let state = State { revision: 1, compacted: 1, ..State::default() };
        Self { state: Mutex::new(state), revision: watch::channel(1).0, activity: watch::channel(1).0 }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the lock is held")
    }

    pub(crate) fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// Wakes on every write.
    pub(crate) fn writes(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Wakes on every write that is not a heartbeat.
    pub(crate) fn activity(&self) -> watch::Receiver<u64> {
        self.activity.subscribe()
    }

    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.lock().tables.get(resource)?.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All objects of a resource (of one namespace or of all), by namespace and name, and the revision they are of.
    pub(crate) fn list_at(&self, resource: &str, namespace: Option<&str>) -> (u64, Vec<Arc<Value>>) {
        let state = self.lock();
        let objects = state.tables.get(resource).map_or_else(Vec::new, |table| {
            table
                .iter()
                .filter(|((in_namespace, _), _)| namespace.is_none_or(|wanted| wanted == in_namespace))
                .map(|(_, object)| Arc::clone(object))
                .collect()
        });
        (state.revision, objects)
    }

    /// The objects of a resource as they were at a revision; `None` for one that is too old or not there yet.
    pub(crate) fn list_as_of(&self, resource: &str, namespace: Option<&str>, revision: u64) -> Option<Vec<Arc<Value>>> {
        let state = self.lock();
        if revision < state.compacted || revision > state.revision {
            return None;
        }
        let mut table = state.tables.get(resource).cloned().unwrap_or_default();
        let later = state.history.iter().rev().take_while(|change| change.revision > revision);
        for change in later.filter(|change| &*change.resource == resource) {
            let Some(object) = change.before.as_ref().or(change.after.as_ref()) else { continue };
            let place = place_of(object);
            match &change.before {
                Some(before) => table.insert(place, Arc::clone(before)),
                None => table.remove(&place),
            };
        }
        let wanted = |(in_namespace, _): &Place| namespace.is_none_or(|wanted| wanted == in_namespace);
        Some(table.into_iter().filter(|(place, _)| wanted(place)).map(|(_, object)| object).collect())
    }

    pub(crate) fn list(&self, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        self.list_at(resource, namespace).1
    }

    /// Names of the tables that hold anything.
    pub(crate) fn resources(&self) -> Vec<Arc<str>> {
        self.lock().tables.iter().filter(|(_, table)| !table.is_empty()).map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Stores a new object; `None` when there is one of that name. Fills uid, creation time and resource version.
    pub(crate) fn create(&self, resource: &str, mut object: Value) -> Option<Arc<Value>> {
        let place = place_of(&object);
        let mut state = self.lock();
        if state.tables.get(resource).is_some_and(|table| table.contains_key(&place)) {
            return None;
        }
        set(&mut object, &["metadata", "uid"], json!(uuid::Uuid::new_v4()));
        set(&mut object, &["metadata", "creationTimestamp"], json!(now()));
        Some(self.put(&mut state, resource, place, object))
    }

    /// Changes an object under the store's lock. `change` gets a copy and may refuse; a copy left as it was writes nothing.
    ///
    /// Counts up `metadata.generation` when anything but metadata and status changed. Returns the object as stored, or
    /// as it was last when the change took the last finalizer of a terminating object and so removed it.
    pub(crate) fn update<E>(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value) -> Result<(), E>,
    ) -> Result<Arc<Value>, WriteError<E>> {
        let place = (namespace.to_owned(), name.to_owned());
        let mut state = self.lock();
        let table = state.tables.get(resource).ok_or(WriteError::NotFound)?;
        let before = Arc::clone(table.get(&place).ok_or(WriteError::NotFound)?);
        let mut after = (*before).clone();
        change(&mut after).map_err(WriteError::Refused)?;
        if after == *before {
            return Ok(before);
        }
        if before.pointer("/metadata/generation").is_some() && desired_state_differs(&before, &after) {
            let generation = before["metadata"]["generation"].as_i64().unwrap_or(1) + 1;
            set(&mut after, &["metadata", "generation"], json!(generation));
        }
        if is_terminating(&after) && items(&after, "/metadata/finalizers").is_empty() && may_vanish(&after) {
            return Ok(self.take(&mut state, resource, &place, after));
        }
        Ok(self.put(&mut state, resource, place, after))
    }

    /// Removes an object at once, whatever its finalizers say; its last state is returned.
    pub(crate) fn remove(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let place = (namespace.to_owned(), name.to_owned());
        let mut state = self.lock();
        let last = Arc::clone(state.tables.get(resource)?.get(&place)?);
        Some(self.take(&mut state, resource, &place, (*last).clone()))
    }

    /// The changes after a revision, or the oldest revision one can ask for.
    pub(crate) fn changes_after(&self, revision: u64) -> Result<Vec<Change>, u64> {
        let state = self.lock();
        if revision < state.compacted {
            return Err(state.compacted);
        }
        let start = state.history.partition_point(|change| change.revision <= revision);
        Ok(state.history.range(start..).cloned().collect())
    }

    fn put(&self, state: &mut State, resource: &str, place: Place, mut object: Value) -> Arc<Value> {
        state.revision += 1;
        set(&mut object, &["metadata", "resourceVersion"], json!(state.revision.to_string()));
        let object = Arc::new(object);
        let resource: Arc<str> = resource.into();
        let before = state.tables.entry(Arc::clone(&resource)).or_default().insert(place, Arc::clone(&object));
        self.record(state, Change { revision: state.revision, resource, before, after: Some(Arc::clone(&object)) });
        object
    }

    fn take(&self, state: &mut State, resource: &str, place: &Place, mut last: Value) -> Arc<Value> {
        let before = state.tables.get_mut(resource).and_then(|table| table.remove(place));
        state.revision += 1;
        set(&mut last, &["metadata", "resourceVersion"], json!(state.revision.to_string()));
        let last = Arc::new(last);
        let change = Change { revision: state.revision, resource: resource.into(), before, after: None };
        self.record(state, change);
        last
    }

    fn record(&self, state: &mut State, change: Change) {
        let is_heartbeat = &*change.resource == "leases.coordination.k8s.io" || &*change.resource == "events";
        state.history.push_back(change);
        if state.history.len() > HISTORY
            && let Some(oldest) = state.history.pop_front()
        {
            state.compacted = oldest.revision;
        }
        let revision = state.revision;
        self.revision.send_replace(revision);
        if !is_heartbeat {
            self.activity.send_replace(revision);
        }
    }

    /// Every object by resource, sorted by namespace and name.
    pub(crate) fn all(&self) -> BTreeMap<String, Vec<Arc<Value>>> {
        let state = self.lock();
        state.tables.iter().map(|(name, table)| (name.to_string(), table.values().cloned().collect())).collect()
    }

    /// Everything in the store as bytes.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        let state = self.lock();
        let tables = state
            .tables
            .iter()
            .map(|(name, table)| (name.to_string(), table.values().map(|object| (**object).clone()).collect()))
            .collect();
        serde_json::to_vec(&Snapshot { revision: state.revision, tables }).expect("JSON values serialise")
    }

    /// Replaces everything by a snapshot; every watch has to start over.
    pub(crate) fn restore(&self, bytes: &[u8]) -> Result<(), serde_json::Error> {
        let snapshot: Snapshot = serde_json::from_slice(bytes)?;
        let mut state = self.lock();
        state.revision = state.revision.max(snapshot.revision) + 1;
        state.compacted = state.revision;
        state.history.clear();
        state.tables = snapshot
            .tables
            .into_iter()
            .map(|(name, objects)| {
                let table = objects.into_iter().map(|object| (place_of(&object), Arc::new(object))).collect();
                (Arc::from(name), table)
            })
            .collect();
        let revision = state.revision;
        self.revision.send_replace(revision);
        self.activity.send_replace(revision);
        Ok(())
    }
}

fn place_of(object: &Value) -> Place {
    (super::object::namespace(object).to_owned(), super::object::name(object).to_owned())
}

/// True when more than metadata and status differs, or deletion was asked for.
fn desired_state_differs(before: &Value, after: &Value) -> bool {
    let (Some(before_map), Some(after_map)) = (before.as_object(), after.as_object()) else { return true };
    let differs = |a: &serde_json::Map<String, Value>, b: &serde_json::Map<String, Value>| {
        a.iter().any(|(key, value)| key != "metadata" && key != "status" && b.get(key) != Some(value))
    };
    differs(before_map, after_map) || differs(after_map, before_map) || is_terminating(before) != is_terminating(after)
}

/// Pods leave when their kubelet says so, namespaces when they are empty; everything else goes with its last finalizer.
fn may_vanish(object: &Value) -> bool {
    match object["kind"].as_str() {
        Some("Pod") => object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64) == Some(0),
        Some("Namespace") => items(object, "/spec/finalizers").is_empty(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_states_can_be_listed() {
        let store = Store::empty();
        let pod = |name: &str| json!({"kind": "ConfigMap", "metadata": {"name": name, "namespace": "a"}, "data": {}});
        store.create("configmaps", pod("x"));
        store.create("configmaps", pod("y"));
        let then = store.revision();
        store.remove("configmaps", "a", "x");
        store.create("configmaps", pod("z"));
        let changed = store.update::<()>("configmaps", "a", "y", |it| {
            set(it, &["data", "k"], json!("v"));
            Ok(())
        });
        assert!(changed.is_ok());
        let at = |revision| store.list_as_of("configmaps", Some("a"), revision);
        let names = |revision| -> Vec<String> {
            at(revision).unwrap_or_default().iter().map(|it| super::super::object::name(it).to_owned()).collect()
        };
        assert_eq!(
            (names(then), names(store.revision())),
            (vec!["x".into(), "y".into()], vec!["y".into(), "z".into()])
        );
        assert_eq!(at(then).expect("kept")[1]["data"], json!({}));
        assert!(at(store.revision() + 1).is_none());
    }
}
