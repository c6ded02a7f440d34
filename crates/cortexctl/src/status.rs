//! How a cluster is, as people read it.

use serde_json::{Value, json};

use crate::{cli::Failure, output::Output};

/// Both contractors' answers as tables: the cluster, its machines, its nodes, its checks.
///
/// # Errors
/// If standard output is closed.
pub fn print(machines: &Value, cluster: &Value, out: &mut Output) -> Result<(), Failure> {
    let either = |name: &str| cluster.get(name).or_else(|| machines.get(name)).cloned().unwrap_or_default();
    let head = json!({
        "cluster": machines["cluster"], "state": machines["state"], "status": either("status"),
        "endpoint": either("endpoint"), "talos": either("talos"), "kubernetes": either("kubernetes"),
        "api_p95_ms": either("api_p95_ms"),
    });
    out.rows(&[head], &["cluster", "state", "status", "endpoint", "talos", "kubernetes", "api_p95_ms"])?;
    let vms = list(machines, "vms");
    out.text("")?;
    let columns = ["name", "vm_id", "host", "host_state", "ip", "power", "cpus", "memory", "disk_gib", "state"];
    out.rows(&vms.iter().map(machine).collect::<Vec<_>>(), &columns)?;
    let nodes = list(cluster, "nodes");
    if !nodes.is_empty() {
        out.text("")?;
        out.rows(nodes, &["node", "role", "pool", "ip", "state", "talos", "kubernetes", "host"])?;
    }
    if let Some(checks) = cluster.get("checks").and_then(Value::as_object) {
        let row =
            |(check, problem): (&String, &Value)| json!({ "check": check, "result": problem.as_str().unwrap_or("ok") });
        out.text("")?;
        out.rows(&checks.iter().map(row).collect::<Vec<_>>(), &["check", "result"])?;
    }
    if let Some(remark) = machines.get("remark").and_then(Value::as_str) {
        out.note(&format!("Proxmox VE was not asked: {remark}"));
    }
    if let Some(reason) = cluster.get("error").and_then(Value::as_str) {
        out.note(&format!("talos-contractor: {reason}"));
    }
    Ok(())
}

/// Used of what it has, where that is known.
fn machine(vm: &Value) -> Value {
    let mut row = vm.clone();
    let of = |used: &str, has: &str| match (&vm[used], &vm[has]) {
        (Value::Null, has) => has.clone(),
        (used, has) => format!("{used} of {has}").into(),
    };
    row["cpus"] = of("cpus_used", "cpus");
    row["memory"] = match of("memory_used_mib", "memory_mib") {
        Value::String(text) => format!("{text} MiB").into(),
        other => format!("{other} MiB").into(),
    };
    row
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
