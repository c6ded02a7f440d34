//! Nodes whose clocks are wrong or were never set: the flow waits and says whose, goes on by itself, or ends by its deadline.

use serde_json::{Value, json};
use tests::{demo, world::WorldOptions};

use crate::scenario::{Scenario, told};

fn start() -> Scenario {
    Scenario::start(&WorldOptions { speed: 100.0, ..WorldOptions::default() })
}

fn request(workers: u32) -> Value {
    json!({
        "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "edge", "worker_nodes": workers,
        "service_account_key": "ecdsa-p256",
    })
}

/// Sets the clocks of the first VMs, which do not exist yet, or of those that run.
fn set(scenario: &Scenario, vmids: &[u32], ahead_seconds: i64, synced: bool) {
    for vmid in vmids {
        let clock = json!({ "clock": { "ahead_seconds": ahead_seconds, "synced": synced } });
        scenario.knob(&format!("vms/{vmid}"), &clock);
    }
}

#[test]
fn a_node_that_is_behind_or_has_no_time_is_named_until_its_clock_is_right() {
    let scenario = start();
    let before = scenario.snapshot();
    set(&scenario, &[100, 101], -3600, true);
    let mut late = request(0);
    late["deadline"] = json!("5s");
    let ended = scenario.ask("provision_cluster", &late).unwrap();
    assert_eq!(ended.state, "cancelled", "{}", told(&ended));
    for part in ["by deadline", "edge-cp-1: edge-cp-1 (127.", "refuses our certificate", "its clock is off"] {
        assert!(told(&ended).contains(part), "{part}: {}", told(&ended));
    }
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());

    set(&scenario, &[100, 101], 0, false);
    let flow = scenario.submit("provision_cluster", &request(0)).unwrap();
    scenario.says(flow, "edge-cp-1: Bootstrap on 127.");
    scenario.says(flow, "time is not in sync yet");
    set(&scenario, &[100, 101], 0, true);
    let made = scenario.follow(flow).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
}

#[test]
fn a_worker_that_waits_for_its_control_planes_clock_says_so_and_clocks_that_jump_are_followed() {
    let scenario = start();
    set(&scenario, &[100, 101], 0, false);
    let flow = scenario.submit("provision_cluster", &request(1)).unwrap();
    scenario.says(flow, "its certificate comes from a control plane: edge-cp-1 is booting (time: time is not synced");
    // Their time server comes back with another time than the rest of the world.
    set(&scenario, &[100, 101], 3600, true);
    scenario.says(flow, "its clock is ahead, or the one here behind");
    set(&scenario, &[100, 101], 0, true);
    let made = scenario.follow(flow).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    assert_eq!(scenario.machines(), 2);
}
