//! `kill -9` of each daemon in the middle of its work: it is resumed to the same end, and nothing is made or given up twice.

use std::time::Duration;

use cortexctl::watch::{self, Told};
use messages::{query::Listing, subject::Party};
use serde_json::{Value, json};
use tests::{
    demo,
    survive::rounds::{self, Kills},
    world::WorldOptions,
};
use uuid::Uuid;

use crate::scenario::{Scenario, told};

/// Has something done, kills a daemon when an event of the given type comes, starts it again, and expects the same end.
fn survives(scenario: &mut Scenario, victim: Party, at: &str, ask: impl FnOnce(&Scenario) -> Uuid) {
    let mut tail = scenario.runtime.block_on(watch::events_from_now(&scenario.operator)).unwrap();
    let flow = ask(scenario);
    scenario.runtime.block_on(async {
        let wait = async {
            loop {
                let recorded = tail.next().await.unwrap();
                if Told::read(&recorded).is_some_and(|told| told.kind == at) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(120), wait).await.unwrap_or_else(|_| panic!("no {at}"));
    });
    let victim = match victim {
        Party::Talos => &mut scenario.world.talos,
        _ => &mut scenario.world.infrastructure,
    };
    victim.kill();
    victim.start(false).unwrap();
    scenario.world.wait_ready().unwrap();

    let ended = scenario.follow(flow).unwrap();
    assert_eq!(ended.state, "succeeded", "killed at {at}: {}", told(&ended));
}

fn create(scenario: &Scenario) -> Uuid {
    let request = json!({
        "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "edge", "worker_nodes": 1,
    });
    scenario.submit("provision_cluster", &request).unwrap()
}

fn decommission(scenario: &Scenario) -> Uuid {
    scenario.submit_with_consent("decommission_request", json!({ "cluster_name": "edge" })).unwrap()
}

fn deployment_survives(victim: Party, at: &str) {
    let mut scenario = Scenario::start(&WorldOptions::default());
    survives(&mut scenario, victim, at, create);
    assert_eq!(scenario.machines(), 2, "no machine was made twice");
}

/// Three deaths: while a pool grows, while it shrinks and while the cluster is taken away.
fn the_rest_of_its_life_survives(victim: Party, at: [&str; 3]) {
    let mut scenario = Scenario::start(&WorldOptions::default());
    let before = scenario.snapshot();
    let made = create(&scenario);
    let made = scenario.follow(made).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    for (count, at) in [(3, at[0]), (1, at[1])] {
        survives(&mut scenario, victim, at, |scenario| scenario.scale("edge", count));
        let wanted = 1 + count as usize;
        assert_eq!(scenario.machines(), wanted, "killed at {at}");
        let nodes = scenario.operator.query(Party::Talos, "nodes.list", json!({ "cluster": "edge" }));
        let nodes: Listing = scenario.runtime.block_on(nodes).unwrap();
        assert_eq!(nodes.rows.len(), wanted, "killed at {at}: {:?}", nodes.rows);
    }
    survives(&mut scenario, victim, at[2], decommission);
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
    for party in [Party::Infrastructure, Party::Talos] {
        let left: Value =
            scenario.runtime.block_on(scenario.operator.query(party, "clusters.list", json!({}))).unwrap();
        assert_eq!(left["rows"], json!([]), "{party}");
    }
}

#[test]
fn killing_infrastructure_while_machines_are_made_changes_nothing_in_the_end() {
    deployment_survives(Party::Infrastructure, "vm_created");
}

#[test]
fn killing_talos_after_a_configuration_was_applied_changes_nothing_in_the_end() {
    deployment_survives(Party::Talos, "config_applied");
}

#[test]
fn killing_talos_right_after_etcd_was_bootstrapped_changes_nothing_in_the_end() {
    deployment_survives(Party::Talos, "etcd_bootstrapped");
}

#[test]
fn killing_infrastructure_while_pools_change_and_the_cluster_goes_changes_nothing_in_the_end() {
    the_rest_of_its_life_survives(Party::Infrastructure, ["vm_created", "vm_released", "vm_released"]);
}

#[test]
fn killing_talos_while_pools_change_and_the_cluster_goes_changes_nothing_in_the_end() {
    the_rest_of_its_life_survives(Party::Talos, ["config_applied", "node_drained", "cluster_leaving"]);
}

/// The bounded part of `cargo survive -- --real`: each daemon amid a run of its own, and within 20 ms of its start.
#[test]
fn kills_at_random_instants_and_right_after_starts_change_nothing_in_the_end() {
    let seed = std::env::var("SURVIVE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("SURVIVE_SEED={seed}");
    let mut all = [Kills::default(); 2];
    let options = rounds::Options { seed, rounds: 1, starts: 100, patience: rounds::PATIENCE, forgets: false };
    let played = rounds::play(options, &mut |round| {
        for (all, more) in all.iter_mut().zip(round.kills) {
            *all += more;
        }
    });
    played.unwrap_or_else(|error| panic!("SURVIVE_SEED={seed}: {error:#}"));
    assert!(all.iter().all(|kills| kills.amid_a_run > 0 && kills.in_store > 0 && kills.at_start >= 50), "{all:?}");
}
