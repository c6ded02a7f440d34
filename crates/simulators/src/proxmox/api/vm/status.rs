//! What the cluster says about VMs: lists, current status, features (proxmox.md 7.1).

use serde_json::{Map, Value, json};

use crate::proxmox::{
    boot,
    call::{Call, Reply},
    error::ApiResult,
    vm::{Run, Vm},
    world::World,
};

/// `GET /nodes/N/qemu`.
pub(super) fn list(call: &Call) -> Reply {
    let world = call.sim.world();
    let full = call.params.flag("full");
    let here = world.vms.iter().filter(|(_, vm)| vm.host == call.node());
    let seen = here.filter(|(vmid, _)| call.may(&world, &format!("/vms/{vmid}"), &["VM.Audit"]));
    let rows = seen.map(|(vmid, vm)| {
        let mut row = fields(&world, *vmid, vm);
        if full {
            row.insert("qmpstatus".to_owned(), vm.qmp_status().into());
        }
        Value::from(row)
    });
    Value::from(rows.collect::<Vec<_>>()).into()
}

/// `GET …/status/current`.
pub(super) fn current(call: &Call) -> ApiResult<Reply> {
    let world = call.sim.world();
    let vm = world.vm(call.node(), call.vmid())?;
    let mut row = fields(&world, call.vmid(), vm);
    row.insert("qmpstatus".to_owned(), vm.qmp_status().into());
    let ha = match world.ha.get(&call.vmid()).filter(|resource| resource.is_managed()) {
        Some(resource) => match resource.crm {
            Some(state) => json!({ "managed": 1, "state": state }),
            None => json!({ "managed": 1 }),
        },
        None => json!({ "managed": 0 }),
    };
    row.insert("ha".to_owned(), ha);
    if boot::has_agent(vm) {
        row.insert("agent".to_owned(), 1.into());
    }
    if vm.config.has("vga") {
        row.insert("clipboard".to_owned(), Value::Null);
    }
    if vm.is_running() {
        let machine =
            if vm.config.get("machine").is_some_and(|machine| machine.contains("q35")) { "q35" } else { "i440fx" };
        let qemu = world.version.qemu();
        let short = qemu.rsplit_once('.').map_or(qemu, |(short, _)| short);
        row.insert("running-machine".to_owned(), format!("pc-{machine}-{short}+pve0").into());
        row.insert("running-qemu".to_owned(), qemu.into());
    }
    Ok(Value::from(row).into())
}

fn fields(world: &World, vmid: u32, vm: &Vm) -> Map<String, Value> {
    let report = vm.report(vmid);
    let host_cpus = world.hosts.get(&vm.host).map_or(u64::MAX, |host| u64::from(host.cpus));
    let running = vm.is_running();
    let mut row = json!({
        "vmid": vmid,
        "name": report.name,
        "status": vm.status(),
        "cpus": report.cpus.min(host_cpus),
        "cpu": if running { 0.02 } else { 0.0 },
        "mem": report.memory,
        "maxmem": report.max_memory,
        "disk": 0,
        "maxdisk": report.max_disk,
        "uptime": report.uptime,
        "netin": 0,
        "netout": 0,
        "diskread": 0,
        "diskwrite": 0,
    });
    if !world.version.is_8() {
        row["memhost"] = if running { (report.memory + (256 << 20)).into() } else { 0.into() };
    }
    if let Run::Running { pid, .. } = vm.run {
        row["pid"] = pid.into();
    }
    for key in ["lock", "tags"] {
        if let Some(value) = vm.config.get(key).filter(|value| !value.is_empty()) {
            row[key] = value.into();
        }
    }
    if vm.is_template() {
        row["template"] = 1.into();
    }
    if vm.config.iter().any(|(key, _)| key.starts_with("serial")) {
        row["serial"] = 1.into();
    }
    match row {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

/// `GET …/feature`.
pub(super) fn feature(call: &Call) -> ApiResult<Reply> {
    let world = call.sim.world();
    let vm = world.vm(call.node(), call.vmid())?;
    let shared = |name: &str| world.storages.get(name).is_some_and(|storage| storage.is_shared());
    let all_shared =
        vm.config.drives().iter().filter_map(|drive| Some(drive.volume()?.0.to_owned())).all(|name| shared(&name));
    let nodes: Vec<&String> = world.hosts.keys().filter(|host| all_shared || **host == vm.host).collect();
    let has = match call.params.need("feature") {
        "clone" => true,
        "snapshot" => !vm.is_template(),
        _ => true,
    };
    Ok(json!({ "hasFeature": u8::from(has), "nodes": nodes }).into())
}
