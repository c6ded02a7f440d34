//! The QEMU guest agent, as far as a guest answers it (proxmox.md 4).

use std::{net::IpAddr, time::Duration};

use serde_json::{Value, json};

use crate::{
    delays::Who,
    machine::Guest,
    proxmox::{
        call::{Call, Reply},
        error::{ApiError, ApiResult},
    },
};

pub(super) async fn dispatch(call: &Call, method: &str, action: &str) -> Option<ApiResult<Reply>> {
    let command = match (method, action) {
        ("GET", "") => return Some(Ok(json!([{ "name": "ping" }, { "name": "network-get-interfaces" }]).into())),
        ("POST", "") => call.params.need("command").to_owned(),
        (_, action) => action.trim_start_matches('/').to_owned(),
    };
    match command.as_str() {
        "ping" | "network-get-interfaces" | "get-host-name" | "info" | "get-osinfo" | "shutdown" => {
            Some(run(call, &command).await)
        }
        _ => None,
    }
}

async fn run(call: &Call, command: &str) -> ApiResult<Reply> {
    let vmid = call.vmid();
    let running = {
        let world = call.sim.world();
        let vm = world.vm(call.node(), vmid)?;
        if !vm.config.has("agent") {
            return Err(ApiError::die("No QEMU guest agent configured"));
        }
        if !vm.is_running() {
            return Err(ApiError::die(format!("VM {vmid} is not running")));
        }
        vm.qmp_status() == "running"
    };
    // A guest whose processors stand still answers nothing.
    let Some(guest) = call.sim.machines.guest(vmid).filter(|guest| guest.agent && running) else {
        // The ping that finds this out takes three seconds.
        call.sim.pace.pass(Who::Vm(vmid), "silent guest agent", Duration::from_secs(3)).await;
        return Err(ApiError::die("QEMU guest agent is not running"));
    };
    let result = match command {
        "network-get-interfaces" => interfaces(&guest),
        "get-host-name" => json!({ "host-name": guest.hostname }),
        "get-osinfo" => json!({ "id": "talos", "name": "Talos", "pretty-name": "Talos" }),
        "shutdown" => {
            call.sim.machines.power_off(vmid, crate::machine::PowerOff::Request);
            json!({})
        }
        _ => json!({}),
    };
    Ok(json!({ "result": result }).into())
}

fn interfaces(guest: &Guest) -> Value {
    let loopback = json!({
        "name": "lo",
        "hardware-address": "00:00:00:00:00:00",
        "ip-addresses": [{ "ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8 }],
    });
    let cards = guest.interfaces.iter().enumerate().map(|(at, (mac, addresses))| {
        let addresses: Vec<Value> = addresses.iter().map(address).collect();
        let mut card = json!({ "name": format!("eth{at}"), "hardware-address": mac.to_lowercase(), "statistics": {
            "rx-bytes": 0, "rx-packets": 0, "rx-errs": 0, "rx-dropped": 0, "tx-bytes": 0, "tx-packets": 0, "tx-errs": 0, "tx-dropped": 0
        } });
        if !addresses.is_empty() {
            card["ip-addresses"] = addresses.into();
        }
        card
    });
    std::iter::once(loopback).chain(cards).collect::<Vec<_>>().into()
}

fn address(address: &IpAddr) -> Value {
    let (kind, prefix) = if address.is_ipv4() { ("ipv4", 16) } else { ("ipv6", 64) };
    json!({ "ip-address": address.to_string(), "ip-address-type": kind, "prefix": prefix })
}
