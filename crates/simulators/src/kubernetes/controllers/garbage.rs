//! Garbage collection: dependents go with their owners, owners wait for dependents or let them go; old events expire.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::templates::delete;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{is_terminating, items, name, namespace, remove, seconds_since, set, text, uid};

/// How long events are kept (`--event-ttl`).
const EVENT_SECONDS: i64 = 3600;
/// How many events are kept at most.
const EVENTS: usize = 2000;

pub(super) fn sync(cluster: &Cluster) {
    let all = everything(cluster);
    let left_alone = ownerless(&all, &all);
    if !left_alone.is_empty() {
        // One table was listed after the other: an owner may be younger than the list of its table. Listed once more, it is
        // there, as it was before its dependent. The real collector asks for each owner.
        let now = everything(cluster);
        for (table, object) in ownerless(&all, &now) {
            delete(cluster, table, object);
        }
    }
    for (table, object) in all.iter().filter(|(_, object)| is_terminating(object)) {
        let finalizers = items(object, "/metadata/finalizers");
        if finalizers.iter().any(|it| it == "orphan") {
            orphan(cluster, &all, object);
            drop_finalizer(cluster, table, object, "orphan");
        } else if finalizers.iter().any(|it| it == "foregroundDeletion") {
            foreground(cluster, &all, table, object);
        }
    }
    expire_events(cluster);
}

type Listed = (Arc<str>, Arc<Value>);

/// Every object but events, with its table.
fn everything(cluster: &Cluster) -> Vec<Listed> {
    let tables = cluster.store.resources().into_iter().filter(|table| &**table != "events");
    tables
        .flat_map(|table| cluster.store.list(&table, None).into_iter().map(move |object| (Arc::clone(&table), object)))
        .collect()
}

/// Those that had owners, none of which is among the others.
fn ownerless<'a>(all: &'a [Listed], others: &[Listed]) -> Vec<&'a Listed> {
    let uids: HashSet<&str> = others.iter().map(|(_, object)| uid(object)).collect();
    let has_lost_its_owners = |object: &Value| {
        let owners = items(object, "/metadata/ownerReferences");
        !owners.is_empty() && !is_terminating(object) && owners.iter().all(|owner| !uids.contains(text(owner, "/uid")))
    };
    all.iter().filter(|(_, object)| has_lost_its_owners(object)).collect()
}

fn dependents<'a>(all: &'a [Listed], owner: &'a Value) -> impl Iterator<Item = &'a Listed> {
    all.iter().filter(|(_, object)| {
        items(object, "/metadata/ownerReferences").iter().any(|it| text(it, "/uid") == uid(owner))
    })
}

fn orphan(cluster: &Cluster, all: &[Listed], owner: &Value) {
    for (table, object) in dependents(all, owner) {
        cluster.change(table, object, |it| {
            let left: Vec<Value> = items(it, "/metadata/ownerReferences")
                .iter()
                .filter(|reference| text(reference, "/uid") != uid(owner))
                .cloned()
                .collect();
            if left.is_empty() {
                remove(it, &["metadata", "ownerReferences"]);
            } else {
                set(it, &["metadata", "ownerReferences"], Value::Array(left));
            }
        });
    }
}

fn foreground(cluster: &Cluster, all: &[Listed], table: &str, owner: &Value) {
    let mut blocked = false;
    for (of, object) in dependents(all, owner) {
        if !is_terminating(object) {
            delete(cluster, of, object);
        }
        blocked |= cluster.store.get(of, namespace(object), name(object)).is_some_and(|it| uid(&it) == uid(object));
    }
    if !blocked {
        drop_finalizer(cluster, table, owner, "foregroundDeletion");
    }
}

fn drop_finalizer(cluster: &Cluster, table: &str, object: &Value, finalizer: &str) {
    cluster.change(table, object, |it| {
        let left: Vec<Value> =
            items(it, "/metadata/finalizers").iter().filter(|it| **it != finalizer).cloned().collect();
        set(it, &["metadata", "finalizers"], json!(left));
    });
}

fn expire_events(cluster: &Cluster) {
    let mut events = cluster.store.list("events", None);
    if events.len() <= EVENTS
        && events.first().is_none_or(|it| seconds_since(it, "/lastTimestamp") < Some(EVENT_SECONDS))
    {
        return;
    }
    events.sort_by_key(|it| text(it, "/lastTimestamp").to_owned());
    let surplus = events.len().saturating_sub(EVENTS);
    for (at, event) in events.iter().enumerate() {
        if at < surplus || seconds_since(event, "/lastTimestamp") > Some(EVENT_SECONDS) {
            cluster.store.remove("events", namespace(event), name(event));
        }
    }
}
