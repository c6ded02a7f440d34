//! Nodes: list, status, network, versions (proxmox.md 7.2, TSV).

use serde_json::{Value, json};

use super::cluster::{node_numbers, node_status, used_memory};
use crate::proxmox::{
    call::{Call, Reply},
    error::{ApiError, ApiResult},
    sim::now,
};

pub(super) fn dispatch(call: &Call, method: &str, template: &str) -> Option<ApiResult<Reply>> {
    if template == "/nodes" {
        return Some(Ok(list(call)));
    }
    Some(match (method, template.strip_prefix("/nodes/{node}")?) {
        ("GET", "/status") => status(call),
        ("GET", "/version") => Ok(version(call)),
        ("GET", "/time") => Ok(json!({ "time": now(), "localtime": now(), "timezone": "UTC" }).into()),
        ("GET", "/dns") => Ok(json!({ "search": "lab.internal", "dns1": "127.0.0.53" }).into()),
        ("GET", "/network") => network(call),
        ("GET", "/network/{iface}") => interface(call),
        ("GET", "/apt/versions") => {
            Ok(json!([{ "Package": "pve-manager", "Version": call.sim.world().version.full() }]).into())
        }
        ("GET", "/hardware/pci" | "/hardware/usb") => Ok(json!([]).into()),
        ("GET", "/capabilities/qemu/cpu") => Ok(cpu_models()),
        ("GET", "/capabilities/qemu/machines") => Ok(machines(call)),
        ("GET", "/sdn/zones") => Ok(json!([{ "zone": "localnetwork", "status": "available" }]).into()),
        _ => return None,
    })
}

/// `GET /version`.
pub(super) fn cluster_version(call: &Call) -> ApiResult<Reply> {
    Ok(version(call))
}

fn version(call: &Call) -> Reply {
    let version = call.sim.world().version;
    json!({ "version": version.full(), "release": version.release(), "repoid": version.repoid() }).into()
}

fn list(call: &Call) -> Reply {
    let world = call.sim.world();
    let rows = world.hosts.iter().map(|(name, host)| {
        let mut row = json!({
            "id": format!("node/{name}"), "type": "node", "node": name, "status": node_status(host, &call.sim.pace), "level": "",
            "ssl_fingerprint": call.sim.fingerprint,
        });
        if host.is_online() && call.may(&world, &format!("/nodes/{name}"), &["Sys.Audit"]) {
            node_numbers(&mut row, &world, name, host);
        }
        row
    });
    Value::from(rows.collect::<Vec<_>>()).into()
}

fn status(call: &Call) -> ApiResult<Reply> {
    let world = call.sim.world();
    let host = world.host(call.node())?;
    let used = used_memory(&world, call.node());
    let kernel = world.version.kernel();
    let (root_total, root_used) = (100_u64 << 30, 12_u64 << 30);
    let mut memory = json!({ "total": host.memory, "used": used, "free": host.memory.saturating_sub(used) });
    if !world.version.is_8() {
        memory["available"] = host.memory.saturating_sub(used).into();
    }
    Ok(json!({
        "pveversion": format!("pve-manager/{}/{}", world.version.full(), world.version.repoid()),
        "kversion": format!("Linux {kernel} #1 SMP PREEMPT_DYNAMIC"),
        "current-kernel": { "sysname": "Linux", "release": kernel, "version": "#1 SMP PREEMPT_DYNAMIC", "machine": "x86_64" },
        "boot-info": { "mode": "efi", "secureboot": 0 },
        "cpuinfo": {
            "cores": host.cpus / 2, "cpus": host.cpus, "sockets": 1, "model": "Simulated CPU", "mhz": "3000.000",
            "hvm": "1", "flags": "fpu sse4_2 ssse3 popcnt avx avx2", "user_hz": 100,
        },
        "cpu": 0.03, "wait": 0.0, "idle": 0, "loadavg": ["0.10", "0.12", "0.09"],
        "memory": memory, "swap": { "total": 0, "used": 0, "free": 0 }, "ksm": { "shared": 0 },
        "rootfs": { "total": root_total, "used": root_used, "avail": root_total - root_used, "free": root_total - root_used },
        "uptime": host.uptime(),
    })
    .into())
}

fn bridge_rows(call: &Call) -> ApiResult<Vec<Value>> {
    let world = call.sim.world();
    let host = world.host(call.node())?;
    let mut rows: Vec<Value> = host
        .bridges
        .iter()
        .enumerate()
        .map(|(at, bridge)| {
            let mut row = json!({
                "iface": bridge.name, "type": "bridge", "active": 1, "autostart": 1, "method": "manual", "method6": "manual",
                "bridge_ports": bridge.ports, "bridge_stp": "off", "bridge_fd": "0", "families": ["inet"], "priority": at + 4,
            });
            if bridge.vlan_aware {
                row["bridge_vlan_aware"] = 1.into();
                row["bridge_vids"] = "2-4094".into();
            }
            if let Some(mtu) = bridge.mtu {
                row["mtu"] = mtu.to_string().into();
            }
            if at == 0 {
                row["method"] = "static".into();
                row["address"] = host.ip.clone().into();
                row["netmask"] = "16".into();
                row["cidr"] = format!("{}/16", host.ip).into();
            }
            row
        })
        .collect();
    rows.push(json!({ "iface": "eno1", "type": "eth", "active": 1, "exists": 1, "method": "manual", "method6": "manual", "families": ["inet"], "priority": 3 }));
    Ok(rows)
}

fn network(call: &Call) -> ApiResult<Reply> {
    let wanted = call.params.get("type");
    let rows = bridge_rows(call)?;
    let fits = |row: &Value| match wanted {
        None => true,
        Some("any_bridge" | "any_local_bridge" | "include_sdn") => row["type"] == "bridge",
        Some(kind) => row["type"] == kind,
    };
    Ok(Value::from(rows.into_iter().filter(fits).collect::<Vec<_>>()).into())
}

fn interface(call: &Call) -> ApiResult<Reply> {
    let name = call.params.need("iface");
    let row = bridge_rows(call)?.into_iter().find(|row| row["iface"] == name);
    row.map(Reply::Data).ok_or_else(|| ApiError::param("iface", "interface does not exist"))
}

fn cpu_models() -> Reply {
    let models = ["host", "kvm64", "max", "qemu64", "x86-64-v2", "x86-64-v2-AES", "x86-64-v3", "x86-64-v4"];
    Value::from(models.map(|name| json!({ "name": name, "custom": 0, "vendor": "default" })).to_vec()).into()
}

fn machines(call: &Call) -> Reply {
    let qemu = call.sim.world().version.qemu();
    let short = qemu.rsplit_once('.').map_or(qemu, |(short, _)| short).to_owned();
    let types = ["i440fx", "q35"];
    Value::from(
        types.map(|kind| json!({ "id": format!("pc-{kind}-{short}"), "type": kind, "version": short })).to_vec(),
    )
    .into()
}
