//! The resources of one boot, with versions and a bounded history for watches.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use serde_json::{Value, json};
use talos::proto::cosi::resource::{EventType, Metadata, Resource, Spec};
use tokio::sync::broadcast;

use super::kinds::{self, Kind};
use super::yaml::Yaml;
use super::{encode, schema};
use crate::talos::release::Line;

/// How many changes a watch may lag behind or start before.
const HISTORY: usize = 1000;

/// Namespace, type, id.
type Key = (String, String, String);

fn key_of(kind: Kind, id: &str) -> Key {
    (kind.namespace.to_owned(), kind.name.to_owned(), id.to_owned())
}

/// One change of one resource.
#[derive(Debug)]
pub(crate) struct Change {
    /// Position in the history; grows by one.
    pub(crate) position: u64,
    pub(crate) event: EventType,
    pub(crate) resource: Arc<Resource>,
    pub(crate) old: Option<Arc<Resource>>,
}

/// The resources of one boot; a cheap handle.
#[derive(Clone)]
pub(crate) struct Store {
    inner: Arc<Mutex<Inner>>,
    changes: broadcast::Sender<Arc<Change>>,
    pub(crate) line: Line,
}

#[derive(Clone, Default)]
struct Inner {
    resources: BTreeMap<Key, Arc<Resource>>,
    /// What each was encoded from, hashed: most of what is put again has not changed.
    made_of: BTreeMap<Key, u64>,
    history: VecDeque<Arc<Change>>,
    position: u64,
}

/// Where a watch begins: what exists, and the changes after that.
pub(crate) struct Subscription {
    pub(crate) existing: Vec<Arc<Resource>>,
    pub(crate) missed: Vec<Arc<Change>>,
    pub(crate) position: u64,
    pub(crate) changes: broadcast::Receiver<Arc<Change>>,
}

impl Store {
    /// A store that holds the namespaces and definitions of a release line.
    pub(crate) fn new(line: Line) -> Self {
        static BASES: [OnceLock<Inner>; 3] = [const { OnceLock::new() }; 3];
        let base = BASES[line as usize].get_or_init(|| {
            let store = Self::with(Inner::default(), line);
            store.define();
            let Inner { resources, .. } = &*store.lock();
            Inner { resources: resources.clone(), ..Inner::default() }
        });
        // Every node of a line shares these resources in memory.
        Self::with(base.clone(), line)
    }

    fn with(inner: Inner, line: Line) -> Self {
        Self { inner: Arc::new(Mutex::new(inner)), changes: broadcast::channel(HISTORY).0, line }
    }

    fn define(&self) {
        for (name, description) in schema::namespaces(self.line) {
            self.put(kinds::NAMESPACES, name, &json!({"description": description}));
        }
        for definition in schema::definitions(self.line) {
            self.put(kinds::DEFINITIONS, &definition.id(), &definition_spec(definition));
        }
    }

    /// Creates or updates a resource from its YAML-shaped spec; nothing happens when the spec is the same.
    pub(crate) fn put(&self, kind: Kind, id: &str, spec: &Value) {
        let mut hasher = DefaultHasher::new();
        spec.hash(&mut hasher);
        let made_of = hasher.finish();
        if self.lock().made_of.get(&key_of(kind, id)) == Some(&made_of) {
            return;
        }
        let text = encode::yaml(kind.structure, spec, self.line).write();
        self.put_encoded(kind, id, (encode::protobuf(kind.structure, spec, self.line), text), Some(made_of));
    }

    /// Creates or updates a resource whose YAML is not the struct's (machine config, machine type).
    pub(crate) fn put_as(&self, kind: Kind, id: &str, proto_spec: Vec<u8>, yaml: &Yaml) {
        self.put_encoded(kind, id, (proto_spec, yaml.write()), None);
    }

    fn put_encoded(&self, kind: Kind, id: &str, (proto_spec, yaml_spec): (Vec<u8>, String), made_of: Option<u64>) {
        let key = key_of(kind, id);
        let now = Some(SystemTime::now().into());
        let mut inner = self.lock();
        match made_of {
            Some(hash) => inner.made_of.insert(key.clone(), hash),
            None => inner.made_of.remove(&key),
        };
        let old = inner.resources.get(&key).cloned();
        let mut metadata = match old.as_ref().and_then(|old| old.metadata.clone()) {
            Some(metadata) => metadata,
            None => new_metadata(kind, id, now),
        };
        if let Some(old) = &old {
            if old.spec.as_ref().is_some_and(|spec| spec.yaml_spec == yaml_spec && spec.proto_spec == proto_spec) {
                return;
            }
            let version: u64 = metadata.version.parse().unwrap_or(0);
            metadata.version = (version + 1).to_string();
            metadata.updated = now;
        }
        let resource = Arc::new(Resource { metadata: Some(metadata), spec: Some(Spec { proto_spec, yaml_spec }) });
        inner.resources.insert(key, Arc::clone(&resource));
        let event = if old.is_some() { EventType::Updated } else { EventType::Created };
        self.record(&mut inner, event, resource, old);
    }

    /// Destroys a resource; absent is fine.
    pub(crate) fn remove(&self, kind: Kind, id: &str) {
        let key = key_of(kind, id);
        let mut inner = self.lock();
        inner.made_of.remove(&key);
        if let Some(resource) = inner.resources.remove(&key) {
            self.record(&mut inner, EventType::Destroyed, resource, None);
        }
    }

    /// Destroys the resources of a kind whose id is not in the list.
    pub(crate) fn retain(&self, kind: Kind, ids: &[String]) {
        let stale: Vec<String> = self
            .list(kind.namespace, kind.name)
            .iter()
            .filter_map(|resource| Some(resource.metadata.as_ref()?.id.clone()))
            .filter(|id| !ids.contains(id))
            .collect();
        stale.iter().for_each(|id| self.remove(kind, id));
    }

    pub(crate) fn get(&self, namespace: &str, kind: &str, id: &str) -> Option<Arc<Resource>> {
        self.lock().resources.get(&(namespace.to_owned(), kind.to_owned(), id.to_owned())).cloned()
    }

    /// The version of a resource, for what must name it.
    pub(crate) fn version(&self, kind: Kind, id: &str) -> Option<String> {
        self.get(kind.namespace, kind.name, id)?.metadata.as_ref().map(|metadata| metadata.version.clone())
    }

    /// All of a kind, sorted by id.
    pub(crate) fn list(&self, namespace: &str, kind: &str) -> Vec<Arc<Resource>> {
        list(&self.lock(), namespace, kind)
    }

    /// Begins a watch; `after` is a bookmark's position, `None` inside when it is no longer in the history.
    pub(crate) fn subscribe(&self, namespace: &str, kind: &str, after: Option<u64>) -> Option<Subscription> {
        let inner = self.lock();
        let missed = match after {
            None => Vec::new(),
            Some(position) => {
                let oldest = inner.history.front().map_or(inner.position + 1, |change| change.position);
                if position > inner.position || position + 1 < oldest {
                    return None;
                }
                inner.history.iter().filter(|change| change.position > position).cloned().collect()
            }
        };
        Some(Subscription {
            existing: list(&inner, namespace, kind),
            missed,
            position: inner.position,
            changes: self.changes.subscribe(),
        })
    }

    /// The last changes of a kind, oldest first.
    pub(crate) fn tail(&self, namespace: &str, kind: &str, count: usize) -> Vec<Arc<Change>> {
        let inner = self.lock();
        let of_kind = |change: &&Arc<Change>| change.is_of(namespace, kind);
        let mut changes: Vec<_> = inner.history.iter().rev().filter(of_kind).take(count).cloned().collect();
        changes.reverse();
        changes
    }

    fn record(&self, inner: &mut Inner, event: EventType, resource: Arc<Resource>, old: Option<Arc<Resource>>) {
        inner.position += 1;
        let change = Arc::new(Change { position: inner.position, event, resource, old });
        if inner.history.len() == HISTORY {
            inner.history.pop_front();
        }
        inner.history.push_back(Arc::clone(&change));
        // Nobody watching is fine.
        let _ = self.changes.send(change);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Change {
    pub(crate) fn is_of(&self, namespace: &str, kind: &str) -> bool {
        self.resource
            .metadata
            .as_ref()
            .is_some_and(|metadata| metadata.namespace == namespace && metadata.r#type == kind)
    }
}

fn list(inner: &Inner, namespace: &str, kind: &str) -> Vec<Arc<Resource>> {
    let first = (namespace.to_owned(), kind.to_owned(), String::new());
    inner
        .resources
        .range(first..)
        .take_while(|(key, _)| key.0 == namespace && key.1 == kind)
        .map(|(_, resource)| Arc::clone(resource))
        .collect()
}

fn new_metadata(kind: Kind, id: &str, now: Option<prost_types::Timestamp>) -> Metadata {
    // By this talosctl knows that the YAML is one string with all documents.
    let whole_text = (kind.name == kinds::MACHINE_CONFIGS.name).then(|| ("talos.dev/yaml-spec".into(), "1".into()));
    Metadata {
        annotations: whole_text.into_iter().collect(),
        namespace: kind.namespace.to_owned(),
        r#type: kind.name.to_owned(),
        id: id.to_owned(),
        version: "1".into(),
        owner: kind.owner.to_owned(),
        phase: "running".into(),
        created: now,
        updated: now,
        ..Metadata::default()
    }
}

fn definition_spec(definition: &schema::Definition) -> Value {
    let columns: Vec<Value> =
        definition.columns.iter().map(|(name, path)| json!({"name": name, "jsonPath": path})).collect();
    let mut spec = json!({
        "type": definition.kind,
        "displayType": definition.display,
        "defaultNamespace": definition.namespace,
        "aliases": definition.all_own_aliases(),
        "allAliases": definition.all_aliases(),
        "printColumns": columns,
    });
    if definition.sensitive {
        spec["sensitivity"] = encode::named("sensitive", 1);
    }
    spec
}
