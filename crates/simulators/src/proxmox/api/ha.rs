//! The high-availability manager, as far as clients file wishes with it and read its state (proxmox.md 7.4).

use serde_json::{Map, Value, json};

use crate::proxmox::{
    call::{Call, Reply},
    error::{ApiError, ApiResult},
    sim::now,
    vm::Vm,
    world::{HaResource, World},
};

pub(super) fn dispatch(call: &Call, method: &str, template: &str) -> Option<ApiResult<Reply>> {
    let path = template.strip_prefix("/cluster/ha")?;
    if path.starts_with("/groups") {
        return Some(groups(call, method, path));
    }
    Some(match (method, path) {
        ("GET", "/resources") => Ok(list(call)),
        ("GET", "/resources/{sid}") => read(call),
        ("POST", "/resources") => create(call),
        ("PUT", "/resources/{sid}") => update(call),
        ("DELETE", "/resources/{sid}") => delete(call),
        ("GET", "/status") => Ok(json!([{ "name": "current" }, { "name": "manager_status" }]).into()),
        ("GET", "/status/current") => Ok(status(call)),
        ("GET", "/rules") => Ok(rules(call)),
        ("POST", "/rules") => create_rule(call),
        ("DELETE", "/rules/{rule}") => delete_rule(call),
        _ => return None,
    })
}

/// On 9.x groups have become rules, and every call says so.
fn groups(call: &Call, method: &str, path: &str) -> ApiResult<Reply> {
    if call.sim.world().version.is_8() {
        return match (method, path) {
            ("GET", "/groups") => Ok(json!([]).into()),
            _ => Err(ApiError::die("the lab has no HA groups")),
        };
    }
    let verb = match (method, path) {
        ("GET", "/groups") => "index groups",
        ("GET", _) => "read group",
        ("POST", _) => "create group",
        ("PUT", _) => "update group",
        _ => "delete group",
    };
    Err(ApiError::die(format!("cannot {verb}: ha groups have been migrated to rules")))
}

/// `vm:100` or `100`.
fn parse_sid(sid: &str) -> Option<u32> {
    sid.strip_prefix("vm:").unwrap_or(sid).parse().ok()
}

fn vmid(call: &Call) -> ApiResult<u32> {
    let sid = call.params.need("sid");
    parse_sid(sid).ok_or_else(|| ApiError::die(format!("unable to parse ha resource id '{sid}'")))
}

fn row(vmid: u32, resource: &HaResource, version_8: bool) -> Value {
    let mut row = json!({
        "sid": format!("vm:{vmid}"), "type": "vm", "state": resource.state,
        "max_restart": resource.max_restart, "max_relocate": resource.max_relocate,
    });
    if !version_8 {
        row["failback"] = u8::from(resource.failback).into();
    }
    if let Some(comment) = &resource.comment {
        row["comment"] = comment.clone().into();
    }
    row
}

fn list(call: &Call) -> Reply {
    let world = call.sim.world();
    let rows = world.ha.iter().map(|(vmid, resource)| row(*vmid, resource, world.version.is_8()));
    Value::from(rows.collect::<Vec<_>>()).into()
}

fn find(world: &mut World, vmid: u32) -> ApiResult<&mut HaResource> {
    world.ha.get_mut(&vmid).ok_or_else(|| ApiError::die(format!("no such resource 'vm:{vmid}'")))
}

fn read(call: &Call) -> ApiResult<Reply> {
    let mut world = call.sim.world();
    let (vmid, old) = (vmid(call)?, world.version.is_8());
    Ok(row(vmid, find(&mut world, vmid)?, old).into())
}

fn create(call: &Call) -> ApiResult<Reply> {
    let vmid = vmid(call)?;
    let mut world = call.sim.world();
    check_quorum(&world)?;
    refuse_group(call, &world)?;
    if !world.vms.contains_key(&vmid) {
        return Err(ApiError::die(format!("cannot add service 'vm:{vmid}' to HA stack: VM {vmid} does not exist")));
    }
    if world.ha.contains_key(&vmid) {
        return Err(ApiError::die(format!("resource ID 'vm:{vmid}' already defined")));
    }
    let mut resource = HaResource::started();
    apply(call, &mut resource);
    world.ha.insert(vmid, resource);
    Ok(Reply::NULL)
}

/// Every write to the HA manager's files takes one lock of the cluster.
fn check_quorum(world: &World) -> ApiResult<()> {
    if world.is_quorate() { Ok(()) } else { Err(ApiError::die("cfs-lock 'domain-ha' error: no quorum!")) }
}

fn refuse_group(call: &Call, world: &World) -> ApiResult<()> {
    if !world.version.is_8() && call.params.get("group").is_some() {
        return Err(ApiError::die("cannot set group: ha groups have been migrated to rules"));
    }
    Ok(())
}

fn apply(call: &Call, resource: &mut HaResource) {
    let params = &call.params;
    if let Some(state) = params.get("state") {
        // `enabled` is the old word for `started`.
        resource.request(if state == "enabled" { "started" } else { state });
    }
    let number = |key: &str, old: u64| params.int(key).map_or(old, i64::unsigned_abs);
    resource.max_restart = number("max_restart", resource.max_restart);
    resource.max_relocate = number("max_relocate", resource.max_relocate);
    resource.failback = params.get("failback").map_or(resource.failback, |flag| flag == "1");
    if let Some(comment) = params.get("comment") {
        resource.comment = Some(comment.to_owned());
    }
}

fn update(call: &Call) -> ApiResult<Reply> {
    let vmid = vmid(call)?;
    let mut world = call.sim.world();
    check_quorum(&world)?;
    refuse_group(call, &world)?;
    apply(call, find(&mut world, vmid)?);
    Ok(Reply::NULL)
}

fn delete(call: &Call) -> ApiResult<Reply> {
    let vmid = vmid(call)?;
    let mut world = call.sim.world();
    check_quorum(&world)?;
    find(&mut world, vmid)?;
    world.ha.remove(&vmid);
    Ok(Reply::NULL)
}

/// Quorum, the node that decides, the nodes that act, and every resource.
fn status(call: &Call) -> Reply {
    let world = call.sim.world();
    let quorate = world.is_quorate();
    let said = if quorate { "OK".to_owned() } else { format!("No quorum on node '{}'!", call.entry) };
    let mut rows = vec![json!({
        "id": "quorum", "type": "quorum", "node": call.entry, "status": said, "quorate": u8::from(quorate),
    })];
    let at = now();
    let time = jiff::Timestamp::from_second(at).unwrap_or_default().strftime("%a %b %e %T %Y").to_string();
    if let Some(master) = world.entry_host() {
        let state = if world.ha.is_empty() { "idle" } else { "active" };
        let status = format!("{master} ({state}, {time})");
        rows.push(json!({ "id": "master", "type": "master", "node": master, "status": status, "timestamp": at }));
    }
    for (name, host) in &world.hosts {
        let busy = world.ha.keys().any(|vmid| world.vms.get(vmid).is_some_and(|vm| vm.host == *name));
        let state = match (host.is_online(), host.maintenance, busy) {
            (false, ..) => "old timestamp - dead?",
            (_, true, _) => "maintenance mode",
            (_, _, true) => "active",
            _ => "idle",
        };
        let status = format!("{name} ({state}, {time})");
        let id = format!("lrm:{name}");
        rows.push(json!({ "id": id, "type": "lrm", "node": name, "status": status, "timestamp": at }));
    }
    let old = world.version.is_8();
    rows.extend(world.ha.iter().map(|(vmid, resource)| service(&world, *vmid, resource, old)));
    Value::from(rows).into()
}

fn service(world: &World, vmid: u32, resource: &HaResource, old: bool) -> Value {
    let vm = world.vms.get(&vmid);
    let node = vm.map(|vm| vm.host.clone()).unwrap_or_default();
    let state = resource.verbose_state(vm.is_some_and(Vm::is_running));
    let mut row = row(vmid, resource, old);
    row["id"] = format!("service:vm:{vmid}").into();
    row["type"] = "service".into();
    row["request_state"] = resource.state.clone().into();
    row["state"] = state.into();
    row["status"] = format!("vm:{vmid} ({node}, {state})").into();
    row["node"] = node.into();
    if let Some(crm) = resource.crm {
        row["crm_state"] = crm.into();
    }
    row
}

fn rules(call: &Call) -> Reply {
    let world = call.sim.world();
    let rows = world.ha_rules.iter().map(|(name, rule)| {
        let mut row = rule.clone();
        row.insert("rule".to_owned(), name.clone().into());
        Value::from(row)
    });
    Value::from(rows.collect::<Vec<_>>()).into()
}

fn create_rule(call: &Call) -> ApiResult<Reply> {
    let mut world = call.sim.world();
    let name = call.params.need("rule").to_owned();
    check_quorum(&world)?;
    if world.ha_rules.contains_key(&name) {
        return Err(ApiError::param("rule", format!("HA rule '{name}' already defined")));
    }
    let rule: Map<String, Value> = call
        .params
        .texts()
        .filter(|(key, _)| *key != "rule")
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    world.ha_rules.insert(name, rule);
    Ok(Reply::NULL)
}

fn delete_rule(call: &Call) -> ApiResult<Reply> {
    let name = call.params.need("rule");
    check_quorum(&call.sim.world())?;
    match call.sim.world().ha_rules.remove(name) {
        Some(_) => Ok(Reply::NULL),
        None => Err(ApiError::die(format!("HA rule '{name}' does not exist"))),
    }
}
