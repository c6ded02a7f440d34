//! What infrastructure-contractor answers about its inventory, and the one command that changes it by hand.

use std::collections::BTreeMap;

use contractor::{
    agent::{Asked, Query},
    damage::unavailable,
};
use messages::{
    query::{Listing, Page, PoolView, Refusal, RefusalKind},
    request::Role,
};
use serde_json::{Value, json};
use store::{Commit, InventoryChange};

use crate::{
    Deps,
    inventory::{Cluster, Quarantine, Vm},
};

/// All of them.
pub fn all(deps: &Deps) -> Vec<Query> {
    let deps = || deps.clone();
    let (list, show, status, pools, vms, quarantine, lift) = (deps(), deps(), deps(), deps(), deps(), deps(), deps());
    vec![
        Query::read("clusters.list", move |asked| ready(clusters(&list, &asked))),
        Query::read("clusters.show", move |asked| ready(cluster(&show, &asked))),
        Query::read("clusters.status", move |asked| {
            let deps = status.clone();
            async move { cluster_status(&deps, &asked).await }
        }),
        Query::read("pools.list", move |asked| ready(pools_of(&pools, &asked))),
        Query::read("vms.list", move |asked| ready(machines(&vms, &asked))),
        Query::read("quarantine.list", move |asked| ready(quarantined(&quarantine, &asked))),
        Query::command("quarantine.lift", move |asked| {
            let deps = lift.clone();
            async move { lift_quarantine(&deps, &asked).await }
        })
        .told_as("quarantine_lifted"),
    ]
}

type Answer = Result<Value, Refusal>;

async fn ready(answer: Answer) -> Answer {
    answer
}

fn clusters(deps: &Deps, asked: &Asked) -> Answer {
    let reader = deps.store.reader();
    let vms = reader.scan::<Vm>("vm/").map_err(|error| unavailable(&error))?;
    let rows = reader.scan::<Cluster>("cluster/").map_err(|error| unavailable(&error))?.into_iter().map(|row| {
        let cluster = row.value;
        let count = |role: Role| {
            vms.iter().filter(|vm| vm.value.machine.cluster == cluster.name && vm.value.machine.role == role).count()
        };
        fields(json!({
            "cluster": cluster.name,
            "cluster_uid": cluster.uid,
            "state": cluster.state,
            "endpoint": cluster.endpoint.url(),
            "control_planes": count(Role::ControlPlane),
            "workers": count(Role::Worker),
            "talos": cluster.image.talos_version,
            "kubernetes": cluster.ready.as_ref().and_then(|ready| ready.kubernetes_version.clone()),
            "created": cluster.created,
        }))
    });
    listing(rows.collect(), &["cluster"], asked)
}

fn cluster(deps: &Deps, asked: &Asked) -> Answer {
    let (cluster, machines) = find(deps, asked)?;
    Ok(json!({ "cluster": cluster, "vms": machines }))
}

/// With a live look at Proxmox; where it does not answer, what the inventory says.
async fn cluster_status(deps: &Deps, asked: &Asked) -> Answer {
    let (cluster, machines) = find(deps, asked)?;
    let live = deps.proxmox.resources().await;
    let remark = live.as_ref().err().map(ToString::to_string);
    let live = live.unwrap_or_else(|_| [].into());
    let state_of = |kind: &str, named: &dyn Fn(&proxmox::cluster::Resource) -> bool| {
        let row = live.iter().find(|row| row.kind == kind && named(row));
        row.and_then(|row| row.status.clone()).unwrap_or_else(|| "unknown".to_owned())
    };
    let rows: Vec<Value> = machines
        .iter()
        .map(|vm| {
            let machine = &vm.machine;
            let used = live.iter().find(|row| row.kind == "qemu" && row.vmid == Some(machine.vmid));
            json!({
                "name": machine.hostname,
                "vm_id": machine.vmid.to_string(),
                "host": machine.host,
                "ip": machine.ip,
                "state": vm.state,
                "power": state_of("qemu", &|row| row.vmid == Some(machine.vmid)),
                "host_state": state_of("node", &|row| row.node.as_ref() == Some(&machine.host)),
                "cpus": machine.shape.cpus,
                "cpus_used": used.and_then(|row| Some((row.cpu? * row.maxcpu? * 100.0).round() / 100.0)),
                "memory_mib": machine.shape.memory_mib,
                "memory_used_mib": used.and_then(|row| row.mem).map(|bytes| bytes >> 20),
                "disk_gib": machine.shape.disk_gib,
            })
        })
        .collect();
    Ok(json!({
        "cluster": cluster.name,
        "cluster_uid": cluster.uid,
        "state": cluster.state,
        "endpoint": cluster.endpoint.url(),
        "api_p95_ms": cluster.ready.as_ref().and_then(|ready| ready.api_p95_ms),
        "vms": rows,
        "remark": remark,
    }))
}

/// What a `scale_request` counts from.
fn pools_of(deps: &Deps, asked: &Asked) -> Answer {
    let (cluster, machines) = find(deps, asked)?;
    let rows = cluster.pools.into_iter().map(|(name, pool)| {
        let present = machines.iter().filter(|vm| vm.machine.pool == name).count();
        let view = PoolView {
            role: pool.spec.role,
            count: pool.spec.count,
            machines: u32::try_from(present).unwrap_or(u32::MAX),
            generation: pool.generation,
            pool: name,
        };
        fields(crate::reservation::json(&view))
    });
    listing(rows.collect(), &["pool"], asked)
}

fn machines(deps: &Deps, asked: &Asked) -> Answer {
    let wanted = asked.arguments.get("cluster").and_then(Value::as_str);
    let rows = deps.store.reader().scan::<Vm>("vm/").map_err(|error| unavailable(&error))?;
    let mut vms: Vec<Vm> = rows.into_iter().map(|row| row.value).collect();
    vms.retain(|vm| wanted.is_none_or(|name| name == vm.machine.cluster.as_str()));
    let rows = vms.iter().map(|vm| {
        let machine = &vm.machine;
        fields(json!({
            "cluster": machine.cluster,
            "name": machine.hostname,
            "node_uid": machine.node_uid,
            "vm_id": machine.vmid.to_string(),
            "host": machine.host,
            "ip": machine.ip,
            "mac": machine.mac(),
            "pool": machine.pool,
            "role": machine.role,
            "cpus": machine.shape.cpus,
            "memory_mib": machine.shape.memory_mib,
            "disk_gib": machine.shape.disk_gib,
            "state": vm.state,
        }))
    });
    listing(rows.collect(), &["cluster", "name"], asked)
}

fn quarantined(deps: &Deps, asked: &Asked) -> Answer {
    let rows = deps.store.reader().scan::<Quarantine>("quarantine/").map_err(|error| unavailable(&error))?;
    let rows = rows.into_iter().map(|row| {
        let what = row.key.trim_start_matches("quarantine/").to_owned();
        fields(json!({ "what": what, "reason": row.value.reason, "since": row.value.since }))
    });
    listing(rows.collect(), &["what"], asked)
}

/// Gives an id or address free again; the operator has looked.
async fn lift_quarantine(deps: &Deps, asked: &Asked) -> Answer {
    let refuse = |kind, text: &str| Refusal::new(kind, text);
    let what = asked.arguments.get("what").and_then(Value::as_str);
    let what = what.ok_or_else(|| refuse(RefusalKind::Invalid, "name `what` as quarantine.list shows it"))?;
    let key = format!("quarantine/{what}");
    if deps.store.reader().get::<Quarantine>(&key).map_err(|error| unavailable(&error))?.is_none() {
        return Err(refuse(RefusalKind::NotFound, "nothing of that name is in quarantine"));
    }
    tracing::info!(what, by = %asked.by, "a quarantine is lifted");
    let commit = Commit { inventory: vec![InventoryChange::delete(key)], ..Commit::default() };
    deps.store.commit(commit).await.map_err(|error| unavailable(&error))?;
    Ok(json!({ "lifted": what }))
}

fn find(deps: &Deps, asked: &Asked) -> Result<(Cluster, Vec<Vm>), Refusal> {
    let name = asked.arguments.get("cluster").and_then(Value::as_str).unwrap_or_default();
    let reader = deps.store.reader();
    let found = reader.get::<Cluster>(&format!("cluster/{name}")).map_err(|error| unavailable(&error))?;
    let found = found.ok_or_else(|| Refusal::new(RefusalKind::NotFound, format!("no cluster {name:?} is known")))?;
    let mut machines: Vec<Vm> =
        reader.scan::<Vm>("vm/").map_err(|error| unavailable(&error))?.into_iter().map(|row| row.value).collect();
    machines.retain(|vm| vm.machine.cluster == found.value.name);
    machines.sort_by(|a, b| a.machine.hostname.cmp(&b.machine.hostname));
    Ok((found.value, machines))
}

/// The page that is asked for; the columns `keys` tell the rows apart.
fn listing(rows: Vec<BTreeMap<String, Value>>, keys: &[&str], asked: &Asked) -> Answer {
    Ok(crate::reservation::json(&Listing::page(rows, keys, &Page::of(&asked.arguments))))
}

fn fields(row: Value) -> BTreeMap<String, Value> {
    row.as_object().cloned().unwrap_or_default().into_iter().collect()
}
