//! CustomResourceDefinitions: accepted, established and served as soon as they are stored.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{Condition, items, name, set, set_condition, text};

const RESOURCE: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// Establishes new definitions and serves exactly those that exist.
pub(crate) fn sync(cluster: &Cluster) {
    for definition in cluster.store.list(RESOURCE, None) {
        cluster.change(RESOURCE, &definition, establish);
    }
    let all: Vec<Arc<Value>> = cluster.store.list(RESOURCE, None);
    cluster.registry.set_custom(&all);
}

fn establish(definition: &mut Value) {
    for (kind, reason, message) in [
        ("NamesAccepted", "NoConflicts", "no conflicts found"),
        ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    ] {
        set_condition(definition, &Condition { kind, status: "True", reason, message });
    }
    let names = definition["spec"]["names"].clone();
    set(definition, &["status", "acceptedNames"], names);
    let stored: Vec<Value> = items(definition, "/spec/versions")
        .iter()
        .filter(|version| version["storage"] == true)
        .map(|version| json!(text(version, "/name")))
        .collect();
    set(definition, &["status", "storedVersions"], Value::Array(stored));
}

/// The tables of objects whose definition is gone; namespace deletion and garbage collection empty them.
pub(crate) fn remove_orphans(cluster: &Cluster) {
    for table in cluster.store.resources() {
        if cluster.registry.find_id(&table).is_none() {
            for object in cluster.store.list(&table, None) {
                cluster.store.remove(&table, crate::kubernetes::object::namespace(&object), name(&object));
            }
        }
    }
}
