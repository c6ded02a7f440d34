//! The cloud-init drive: what is on it, and writing it anew (proxmox.md 3.5).

use serde_json::{Value, json};

use crate::proxmox::{
    boot,
    call::{Call, Reply},
    error::{ApiError, ApiResult},
};

pub(super) fn dump(call: &Call) -> ApiResult<Reply> {
    let world = call.sim.world();
    let vm = world.vm(call.node(), call.vmid())?;
    let network = boot::network(call.vmid(), vm);
    let hostname = network.hostname.clone().unwrap_or_default();
    Ok(match call.params.need("type") {
        "network" => boot::network_v1(call.vmid(), vm),
        "meta" => format!("instance-id: {}\n", vm.digest()),
        _ => format!("#cloud-config\nhostname: {hostname}\nmanage_etc_hosts: true\nusers:\n  - default\n"),
    }
    .into())
}

/// The cloud-init options with what is pending for them.
pub(super) fn pending(call: &Call) -> ApiResult<Reply> {
    let world = call.sim.world();
    let vm = world.vm(call.node(), call.vmid())?;
    let is_ours = |key: &str| {
        key.starts_with("ipconfig")
            || matches!(key, "nameserver" | "searchdomain" | "ciuser" | "cipassword" | "citype" | "sshkeys" | "name")
    };
    let rows: Vec<Value> = vm
        .config
        .iter()
        .filter(|(key, _)| is_ours(key))
        .map(|(key, value)| match vm.pending.set.get(key) {
            Some(new) => json!({ "key": key, "value": value, "pending": new }),
            None => json!({ "key": key, "value": value }),
        })
        .collect();
    Ok(rows.into())
}

pub(super) fn regenerate(call: &Call) -> ApiResult<Reply> {
    let world = call.sim.world();
    let vm = world.vm(call.node(), call.vmid())?;
    vm.check_lock().map_err(ApiError::die)?;
    // The guest reads the drive when it starts, which is when the lab builds it from the configuration.
    Ok(Reply::NULL)
}
