//! `kill -9` of each daemon in the middle of a deployment: it is resumed to the same end, and nothing is made twice.

use std::time::Duration;

use cortexctl::watch::{self, Told};
use serde_json::json;
use tests::world::WorldOptions;

use crate::scenario::{Scenario, told};

/// Kills a daemon when an event of the given type comes, starts it again, and expects the same end.
fn deployment_survives(kill_talos: bool, at: &str) {
    let mut scenario = Scenario::start(&WorldOptions::default());
    let tail = scenario.runtime.block_on(watch::events_from_now(&scenario.operator)).unwrap();
    let request = json!({
        "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "edge", "worker_nodes": 1,
    });
    let flow = scenario.submit("provision_cluster", &request).unwrap();
    scenario.runtime.block_on(async {
        let mut tail = tail;
        let wait = async {
            loop {
                let recorded = tail.next().await.unwrap();
                if Told::read(&recorded).is_some_and(|told| told.kind == at) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(120), wait).await.expect("the event comes");
    });
    let victim = if kill_talos { &mut scenario.world.talos } else { &mut scenario.world.infrastructure };
    victim.kill();
    victim.start(false).unwrap();
    scenario.world.wait_ready().unwrap();

    let made = scenario.follow(flow).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    assert_eq!(scenario.machines(), 2, "no machine was made twice");
}

#[test]
fn killing_infrastructure_while_machines_are_made_changes_nothing_in_the_end() {
    deployment_survives(false, "vm_created");
}

#[test]
fn killing_talos_after_a_configuration_was_applied_changes_nothing_in_the_end() {
    deployment_survives(true, "config_applied");
}

#[test]
fn killing_talos_right_after_etcd_was_bootstrapped_changes_nothing_in_the_end() {
    deployment_survives(true, "etcd_bootstrapped");
}
