//! Whether a message makes sense here, before a run is made of it.

use contractor::agent::{Message, Sense};
use messages::{
    catalogue::Family,
    handoff::{ClusterRemoved, NodeRemoved},
    name::ClusterName,
    request::{DecommissionRequest, ProvisionCluster, Role, ScaleRequest},
    schema::Violation,
};
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use store::Reader;
use uuid::Uuid;

use crate::{
    config::Sections,
    inventory::{Cluster, ClusterState, Vm, cluster_key},
    sense,
};

type Verdict = Result<Sense, Vec<Violation>>;

/// Everything that is wrong with it as far as inventory and configuration say; the hypervisors are asked by the run.
pub fn accept(sections: &Sections, message: &Message, store: &Reader) -> Verdict {
    match (message.family, message.name.as_str()) {
        (Family::Request, "provision_cluster") => provision(sections, &read(message)?, store),
        (family, "scale_request") => scale(&read(message)?, family, store),
        (Family::Request, "decommission_request") => decommission(&read(message)?, store),
        (Family::Handoff, "cluster_ready" | "nodes_ready") => known(message, store),
        (Family::Handoff, "node_removed") => node_removed(&read(message)?, store),
        (Family::Handoff, "cluster_removed") => cluster_removed(&read(message)?, store),
        _ => Ok(Sense::default()),
    }
}

fn provision(sections: &Sections, request: &ProvisionCluster, store: &Reader) -> Verdict {
    let mut violations = sense::violations(request, sections);
    if let Some(cluster) = cluster(store, &request.cluster_name)? {
        let expected = "the name of no cluster that lives";
        violations.push(violation("/cluster_name", "unique", expected, &format!("that of cluster {}", cluster.uid)));
    }
    if violations.is_empty() { Ok(Sense::default()) } else { Err(violations) }
}

fn scale(request: &ScaleRequest, family: Family, store: &Reader) -> Verdict {
    let cluster = meant(store, &request.cluster_name, request.cluster_uid)?;
    let unfit = match cluster.state {
        ClusterState::Provisioning | ClusterState::Active => None,
        ClusterState::Failed => Some("one whose making failed"),
        ClusterState::Leaving => Some("one that is being taken away"),
    };
    if let Some(got) = unfit {
        return Err(vec![violation("/cluster_name", "state", "a cluster that stays", got)]);
    }
    match cluster.pools.get(&request.pool) {
        Some(pool) if pool.spec.role == Role::ControlPlane => {
            return Err(vec![violation("/pool", "role", "a pool of workers", "a pool of control planes")]);
        }
        None if request.size.is_none() => {
            let pools: Vec<_> = cluster.pools.keys().map(ToString::to_string).collect();
            let expected = format!("one of the pools {}, or a size for a new one", pools.join(", "));
            return Err(vec![violation("/pool", "known", &expected, "another name")]);
        }
        Some(pool) if request.generation.is_some_and(|generation| generation != pool.generation) => {
            let expected = format!("generation {}, which the pool has now", pool.generation);
            return Err(vec![violation("/generation", "current", &expected, "another generation")]);
        }
        _ => {}
    }
    let machines = store.scan::<Vm>("vm/").map_err(|error| unreadable(&error))?;
    let own = |vm: &Vm| vm.machine.cluster == request.cluster_name && vm.machine.pool == request.pool;
    let current = machines.iter().filter(|row| own(&row.value)).count();
    let shrinks = usize::try_from(request.count).is_ok_and(|count| count < current);
    if shrinks && family == Family::Handoff {
        // Nobody consented to it, and a count that was computed before the pool grew would take nodes away.
        let expected = format!("at least {current}: fewer nodes need a request, whose plan somebody approves");
        return Err(vec![violation("/count", "consent", &expected, "fewer")]);
    }
    Ok(Sense { needs_consent: shrinks })
}

fn decommission(request: &DecommissionRequest, store: &Reader) -> Verdict {
    meant(store, &request.cluster_name, request.cluster_uid)?;
    Ok(Sense { needs_consent: true })
}

/// A handoff about a cluster that is known, and is the incarnation that it names.
fn known(message: &Message, store: &Reader) -> Verdict {
    let name = message.body.get("cluster_name").and_then(|name| name.as_str()).and_then(|name| name.parse().ok());
    let uid = message.body.get("cluster_uid").and_then(|uid| uid.as_str()).and_then(|uid| uid.parse().ok());
    if let Some(name) = name {
        meant(store, &name, uid)?;
    }
    Ok(Sense::default())
}

/// What destroys machines must name the very cluster and nodes that have the names now: an old handoff about an earlier
/// cluster of the same name must not touch this one. What is gone already makes no work and is taken.
fn node_removed(handoff: &NodeRemoved, store: &Reader) -> Verdict {
    let Some(cluster) = cluster(store, &handoff.cluster_name)? else { return Ok(Sense::default()) };
    let mut violations = not_proven(&cluster, handoff.cluster_uid);
    let machines = store.scan::<Vm>("vm/").map_err(|error| unreadable(&error))?;
    for (index, node) in handoff.nodes.iter().enumerate() {
        let known = machines.iter().map(|row| &row.value.machine);
        let mut known = known.filter(|machine| machine.cluster == handoff.cluster_name);
        let Some(machine) = known.find(|machine| machine.hostname == node.hostname) else { continue };
        if node.node_uid.is_some_and(|uid| uid != machine.node_uid) {
            let expected = format!("{}, the node that has the name now", machine.node_uid);
            let path = format!("/nodes/{index}/node_uid");
            violations.push(violation(&path, "current", &expected, "an earlier node's uid"));
        }
    }
    if violations.is_empty() { Ok(Sense::default()) } else { Err(violations) }
}

/// Only a cluster that somebody asked to be taken away may lose all its machines.
fn cluster_removed(handoff: &ClusterRemoved, store: &Reader) -> Verdict {
    let Some(cluster) = cluster(store, &handoff.cluster_name)? else { return Ok(Sense::default()) };
    let mut violations = not_proven(&cluster, handoff.cluster_uid);
    if violations.is_empty() && cluster.state != ClusterState::Leaving {
        let got = "one that nobody asked to be taken away";
        violations.push(violation("/cluster_name", "state", "a cluster that is being taken away", got));
    }
    if violations.is_empty() { Ok(Sense::default()) } else { Err(violations) }
}

fn not_proven(cluster: &Cluster, uid: Option<Uuid>) -> Vec<Violation> {
    let got = match uid {
        Some(uid) if uid == cluster.uid => return Vec::new(),
        Some(_) => "an earlier cluster's uid",
        None => "nothing",
    };
    let expected = format!("{}, the cluster that has the name now", cluster.uid);
    vec![violation("/cluster_uid", "current", &expected, got)]
}

fn meant(store: &Reader, name: &ClusterName, uid: Option<Uuid>) -> Result<Cluster, Vec<Violation>> {
    let Some(cluster) = cluster(store, name)? else {
        return Err(vec![violation("/cluster_name", "known", "the name of a cluster that lives", "another name")]);
    };
    if uid.is_some_and(|uid| uid != cluster.uid) {
        let expected = format!("{}, the cluster that has the name now", cluster.uid);
        return Err(vec![violation("/cluster_uid", "current", &expected, "an earlier cluster's uid")]);
    }
    Ok(cluster)
}

fn cluster(store: &Reader, name: &ClusterName) -> Result<Option<Cluster>, Vec<Violation>> {
    let found = store.get::<Cluster>(&cluster_key(name)).map_err(|error| unreadable(&error))?;
    Ok(found.map(|found| found.value))
}

fn read<T: DeserializeOwned>(message: &Message) -> Result<T, Vec<Violation>> {
    serde_path_to_error::deserialize(&message.body).map_err(|error| {
        let part = |part: &Segment| match part {
            Segment::Seq { index } => format!("/{index}"),
            other => format!("/{other}"),
        };
        let path: String = error.path().iter().map(part).collect();
        let expected = if path.is_empty() { format!("a {}", message.name) } else { "another value".to_owned() };
        vec![violation(&path, "shape", &expected, &error.inner().to_string())]
    })
}

fn unreadable(error: &store::ReadError) -> Vec<Violation> {
    vec![violation("", "inventory", "an inventory that can be read", &error.to_string())]
}

fn violation(path: &str, rule: &str, expected: &str, got: &str) -> Violation {
    Violation { path: path.into(), rule: rule.into(), expected: expected.into(), got: got.into(), did_you_mean: None }
}
