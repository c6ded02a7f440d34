//! The cluster as a whole: free ids, resources, status, tasks, options (proxmox.md 5 and 7.2).

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::task;
use crate::{
    pace::Pace,
    proxmox::{
        call::{Call, Reply},
        error::{ApiError, ApiResult},
        host::Host,
        vm::Vm,
        world::World,
    },
};

/// How long a node's last broadcast counts.
const CACHE_EXPIRY: Duration = Duration::from_secs(300);

pub(super) fn dispatch(call: &Call, method: &str, template: &str) -> Option<ApiResult<Reply>> {
    Some(match (method, template.strip_prefix("/cluster")?) {
        ("GET", "/nextid") => next_id(call),
        ("GET", "/resources") => Ok(resources(call)),
        ("GET", "/status") => Ok(status(call)),
        ("GET", "/tasks") => Ok(tasks(call)),
        ("GET", "/options") => Ok(options(call)),
        ("PUT", "/options") => set_options(call),
        ("GET", "/log") => Ok(json!([]).into()),
        ("GET", "/config") => Ok(json!([{ "name": "nodes" }, { "name": "join" }]).into()),
        ("GET", "/config/nodes") => Ok(config_nodes(call)),
        ("GET", "/firewall/options") => Ok(json!({ "enable": 0 }).into()),
        ("GET", "/firewall/rules" | "/firewall/groups" | "/firewall/ipset") => Ok(json!([]).into()),
        ("GET", "/mapping/pci" | "/sdn/vnets") => Ok(json!([]).into()),
        ("GET", "/sdn/zones") => Ok(json!([]).into()),
        _ => return None,
    })
}

/// A string, though the schema says integer.
fn next_id(call: &Call) -> ApiResult<Reply> {
    let world = call.sim.world();
    if let Some(wanted) = call.params.int("vmid") {
        if u32::try_from(wanted).is_ok_and(|id| world.vms.contains_key(&id)) {
            return Err(ApiError::param("vmid", format!("VM {wanted} already exists")));
        }
        return Ok(wanted.to_string().into());
    }
    let (lower, upper) = world.id_range();
    match (lower..upper).find(|id| !world.vms.contains_key(id)) {
        Some(free) => Ok(free.to_string().into()),
        None => Err(ApiError::die(format!("unable to get any free VMID in range [{lower}, {upper}]"))),
    }
}

fn resources(call: &Call) -> Reply {
    if call.sim.pace.speed().is_infinite() {
        super::super::daemons::broadcast(&mut call.sim.world());
    }
    let world = call.sim.world();
    let expiry = expiry(&call.sim.pace);
    let wanted = call.params.get("type");
    let mut rows = Vec::new();
    if wanted.is_none_or(|kind| kind == "vm") {
        let seen = world.vms.iter().filter(|(vmid, _)| call.may(&world, &format!("/vms/{vmid}"), &["VM.Audit"]));
        rows.extend(seen.map(|(vmid, vm)| guest_row(&world, *vmid, vm, expiry)));
    }
    if wanted.is_none_or(|kind| kind == "node") {
        rows.extend(world.hosts.iter().map(|(name, host)| node_row(call, &world, name, host)));
    }
    if wanted.is_none_or(|kind| kind == "storage") {
        rows.extend(storage_rows(call, &world));
    }
    if wanted.is_none() {
        let seen = world.pools.keys().filter(|pool| call.may(&world, &format!("/pool/{pool}"), &["Pool.Audit"]));
        rows.extend(seen.map(|pool| json!({ "id": format!("/pool/{pool}"), "type": "pool", "pool": pool })));
    }
    if wanted.is_none_or(|kind| kind == "sdn") {
        let seen = call.may(&world, "/sdn/zones/localnetwork", &["SDN.Audit"]);
        rows.extend(world.hosts.iter().filter(|_| seen).map(|(name, host)| {
            let status = if host.is_online() { "ok" } else { "unknown" };
            let id = format!("sdn/{name}/localnetwork");
            json!({ "id": id, "type": "sdn", "sdn": "localnetwork", "node": name, "status": status })
        }));
    }
    Value::from(rows).into()
}

/// A guest as the last broadcast of its node described it, with what the cluster file system knows live.
pub(super) fn guest_row(world: &World, vmid: u32, vm: &Vm, expiry: Duration) -> Value {
    let id = format!("qemu/{vmid}");
    let mut row = json!({ "id": id, "type": "qemu", "vmid": vmid, "node": vm.host, "status": "unknown" });
    let fresh = vm.broadcast.as_ref().filter(|broadcast| broadcast.at.elapsed() < expiry);
    if let Some(seen) = fresh {
        row["status"] = seen.status.clone().into();
        row["name"] = seen.name.clone().into();
        row["template"] = u8::from(seen.template).into();
        row["maxcpu"] = seen.cpus.into();
        row["cpu"] = if seen.status == "running" { 0.02.into() } else { 0.into() };
        row["maxmem"] = seen.max_memory.into();
        row["mem"] = seen.memory.into();
        row["maxdisk"] = seen.max_disk.into();
        row["uptime"] = seen.uptime.into();
        for key in ["disk", "netin", "netout", "diskread", "diskwrite"] {
            row[key] = 0.into();
        }
        if !world.version.is_8() {
            row["memhost"] = seen.memory.into();
        }
    }
    for key in ["lock", "tags"] {
        if let Some(value) = vm.config.get(key).filter(|value| !value.is_empty()) {
            row[key] = value.into();
        }
    }
    if let Some(pool) = world.pool_of(vmid) {
        row["pool"] = pool.into();
    }
    if let Some(state) = world.ha.get(&vmid).and_then(|resource| resource.crm) {
        row["hastate"] = state.into();
    }
    row
}

/// How long what a node's status daemon said counts.
pub(super) fn expiry(pace: &Pace) -> Duration {
    pace.scale(CACHE_EXPIRY).max(Duration::from_millis(100))
}

/// Whether the cluster still has what a node's status daemon said last; without delays that is gone at once.
fn is_cached(host: &Host, pace: &Pace) -> bool {
    if pace.speed().is_infinite() {
        return host.is_online() && host.reports;
    }
    let counts = expiry(pace).max(Duration::from_millis(500));
    host.broadcast.is_some_and(|at| at.elapsed() < counts)
}

/// `offline` as corosync sees it, else `online` or, when the status daemon is silent for long, `unknown`.
pub(super) fn node_status(host: &Host, pace: &Pace) -> &'static str {
    match (host.is_online(), is_cached(host, pace)) {
        (false, _) => "offline",
        (true, true) => "online",
        (true, false) => "unknown",
    }
}

fn node_row(call: &Call, world: &World, name: &str, host: &Host) -> Value {
    let pace = &call.sim.pace;
    let status = node_status(host, pace);
    let mut row = json!({ "id": format!("node/{name}"), "type": "node", "node": name, "status": status });
    if host.maintenance {
        row["hastate"] = "maintenance".into();
    }
    if is_cached(host, pace) && call.may(world, &format!("/nodes/{name}"), &["Sys.Audit"]) {
        node_numbers(&mut row, world, name, host);
    }
    row
}

/// What a node has, and while it is a member what it uses of that.
pub(super) fn node_numbers(row: &mut Value, world: &World, name: &str, host: &Host) {
    row["maxcpu"] = host.cpus.into();
    row["maxmem"] = host.memory.into();
    row["maxdisk"] = (100_u64 << 30).into();
    row["level"] = "".into();
    row["cgroup-mode"] = 2.into();
    if host.is_online() {
        row["cpu"] = 0.03.into();
        row["mem"] = used_memory(world, name).into();
        row["uptime"] = host.uptime().into();
        row["disk"] = (12_u64 << 30).into();
    }
}

/// What the node itself and its running guests use.
pub(super) fn used_memory(world: &World, host: &str) -> u64 {
    let guests = world.vms.values().filter(|vm| vm.host == host && vm.is_running());
    (2 << 30) + guests.map(|vm| vm.config.memory() << 20).sum::<u64>()
}

fn storage_rows(call: &Call, world: &World) -> Vec<Value> {
    let mut rows = Vec::new();
    for (name, host) in &world.hosts {
        for storage in world.storages.values().filter(|storage| storage.is_on(name) && !storage.disabled) {
            let path = format!("/storage/{}", storage.name);
            if !call.may(world, &path, &["Datastore.Audit", "Datastore.AllocateSpace"]) {
                continue;
            }
            let id = format!("storage/{name}/{}", storage.name);
            let content: Vec<&str> = storage.content.iter().map(String::as_str).collect();
            let known = is_cached(host, &call.sim.pace);
            let mut row = json!({
                "id": id, "type": "storage", "node": name, "storage": storage.name, "plugintype": storage.kind.name(),
                "content": content.join(","), "shared": u8::from(storage.is_shared()),
                "status": if known { "available" } else { "unknown" },
            });
            if known {
                row["disk"] = world.volumes.used(storage, name).into();
                row["maxdisk"] = storage.size.into();
            }
            rows.push(row);
        }
    }
    rows
}

/// A cluster row and one per node; without corosync just the node.
fn status(call: &Call) -> Reply {
    let world = call.sim.world();
    let single = world.hosts.len() == 1;
    let mut rows = Vec::new();
    if !single {
        rows.push(json!({
            "id": "cluster", "type": "cluster", "name": world.cluster, "nodes": world.hosts.len(),
            "quorate": u8::from(world.is_quorate()), "version": world.hosts.len(),
        }));
    }
    for (name, host) in &world.hosts {
        rows.push(json!({
            "id": format!("node/{name}"), "type": "node", "name": name, "ip": host.ip, "level": "",
            "nodeid": if single { 0 } else { host.id }, "online": u8::from(host.is_online()),
            "local": u8::from(*name == call.entry),
        }));
    }
    Value::from(rows).into()
}

fn tasks(call: &Call) -> Reply {
    let all = call.may(&call.sim.world(), "/", &["Sys.Audit"]);
    let tasks = call.sim.tasks();
    let seen = tasks.newest().filter(|task| all || task::is_own(call, task)).take(25);
    Value::from(seen.map(|task| Value::from(task::row(task))).collect::<Vec<_>>()).into()
}

fn options(call: &Call) -> Reply {
    let world = call.sim.world();
    let mut all = world.options.clone();
    all.entry("keyboard").or_insert_with(|| "en-us".into());
    if !call.may(&world, "/", &["Sys.Audit"]) {
        let safe = ["console", "tag-style", "registered-tags", "user-tag-access", "keyboard"];
        all.retain(|key, _| safe.contains(&key.as_str()));
    }
    let mac_prefix: Map<String, Value> = all;
    Value::from(mac_prefix).into()
}

fn set_options(call: &Call) -> ApiResult<Reply> {
    let mut world = call.sim.world();
    world.check_quorum()?;
    for key in call.params.list("delete") {
        world.options.remove(&key);
    }
    for (key, value) in call.params.texts().filter(|(key, _)| *key != "delete") {
        world.options.insert(key.to_owned(), value.into());
    }
    Ok(Reply::NULL)
}

fn config_nodes(call: &Call) -> Reply {
    let world = call.sim.world();
    let rows = world.hosts.iter().map(|(name, host)| {
        json!({ "node": name, "name": name, "nodeid": host.id.to_string(), "quorum_votes": "1", "ring0_addr": host.ip })
    });
    Value::from(rows.collect::<Vec<_>>()).into()
}
