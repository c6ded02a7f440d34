//! Handoffs come late, in any order, twice, or again because the answer was lost: none is lost, none is done twice.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bus::{Recorded, identity::Identity};
use messages::subject::Party;
use serde_json::{Value, json};
use simulators::lab::{Cut, Direction, Harm};
use tests::{demo, world::WorldOptions};
use uuid::Uuid;

use crate::{
    broker::{edge, expect_one_of_each, wait_for_event},
    letter::{Letter, key_of},
    scenario::{Scenario, told},
};

const INFRASTRUCTURE: Party = Party::Infrastructure;
const TALOS: Party = Party::Talos;

#[track_caller]
fn expect(scenario: &Scenario, flow: Uuid, state: &str, reason: &str) {
    let ended = scenario.follow(flow).unwrap();
    assert_eq!(ended.state, state, "{}", told(&ended));
    assert!(told(&ended).contains(reason), "`{}` does not say `{reason}`", told(&ended));
}

fn grow(scenario: &Scenario, count: u32) -> Uuid {
    let body = json!({ "cluster_name": "edge", "pool": "worker", "count": count });
    scenario.submit("scale_request", &body).unwrap()
}

/// So many runs of each kind, and no others.
#[track_caller]
fn expect_runs(scenario: &Scenario, expected: &[(&str, usize)]) {
    let mut counted: BTreeMap<String, usize> = BTreeMap::new();
    for run in scenario.runs() {
        *counted.entry(run).or_default() += 1;
    }
    let expected: BTreeMap<String, usize> = expected.iter().map(|(run, count)| ((*run).to_owned(), *count)).collect();
    assert_eq!(counted, expected);
}

/// `node_removed` comes before the `nodes_ready` of the same node, `cluster_removed` before what its nodes or the cluster
/// itself were still to say.
#[test]
fn what_talos_hands_over_may_come_late_in_any_order_and_twice() {
    let mut scenario = Scenario::start(&WorldOptions::default());
    let before = scenario.snapshot();
    scenario.hold(INFRASTRUCTURE);
    let made = edge(&scenario);
    let ready = scenario.intercept(INFRASTRUCTURE, "cluster_ready", made);
    scenario.give(INFRASTRUCTURE, &[&ready, &ready]);
    expect(&scenario, made, "succeeded", "");

    scenario.hold(INFRASTRUCTURE);
    let (grown, joined, shrunk, left) = grow_and_shrink(&scenario);
    scenario.give(INFRASTRUCTURE, &[&left, &joined, &left, &joined]);
    for flow in [grown, shrunk] {
        expect(&scenario, flow, "succeeded", "");
    }
    assert_eq!(scenario.machines(), 2, "one machine per node");
    let once = [
        ("infrastructure: provision-vms succeeded", 1),
        ("infrastructure: record-nodes succeeded", 1),
        ("infrastructure: register-monitoring succeeded", 1),
        ("infrastructure: release-vms succeeded", 1),
        ("infrastructure: scale-pool succeeded", 2),
        ("talos: bootstrap-cluster succeeded", 1),
        ("talos: join-nodes succeeded", 1),
        ("talos: remove-nodes succeeded", 1),
    ];
    expect_runs(&scenario, &once);

    scenario.hold(INFRASTRUCTURE);
    let (grown, joined, shrunk, left) = grow_and_shrink(&scenario);
    let request = json!({ "request_type": "provision_cluster", "cluster_name": "late", "pattern": "single" });
    let late = scenario.submit("provision_cluster", &request).unwrap();
    let ready = scenario.intercept(INFRASTRUCTURE, "cluster_ready", late);
    let mut given_up = Vec::new();
    for cluster in ["edge", "late"] {
        let flow = scenario.submit_with_consent("decommission_request", json!({ "cluster_name": cluster })).unwrap();
        given_up.push((flow, scenario.intercept(INFRASTRUCTURE, "cluster_removed", flow)));
    }
    let [(gone, removed), (gone_late, removed_late)] = &given_up[..] else { unreachable!("two clusters") };
    let all = [removed, removed_late, &left, &joined, &ready];
    scenario.give(INFRASTRUCTURE, &[all, all].concat());
    for flow in [*gone, *gone_late, shrunk] {
        expect(&scenario, flow, "succeeded", "");
    }
    // Nothing is done for what is gone, and nobody waits for its flow.
    for (flow, what) in [(grown, "nodes_ready"), (late, "cluster_ready")] {
        let refused =
            format!("infrastructure-contractor refuses the {what}: /cluster_name: expected the name of a cluster");
        expect_either(&scenario, flow, &refused);
    }
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
    let runs = scenario.runs();
    let count = |playbook: &str| runs.iter().filter(|run| run.contains(&format!(": {playbook} "))).count();
    let counted = ["destroy-cluster", "release-vms", "forget-cluster", "remove-nodes", "join-nodes"].map(count);
    assert_eq!(counted, [2, 2, 2, 2, 2], "{runs:#?}");
    assert!(count("record-nodes") <= 2 && count("register-monitoring") <= 2, "{runs:#?}");
}

/// A node more and, before anybody has heard of it, one less: both flows with what they hand over.
fn grow_and_shrink(scenario: &Scenario) -> (Uuid, Recorded, Uuid, Recorded) {
    let grown = grow(scenario, 2);
    let joined = scenario.intercept(INFRASTRUCTURE, "nodes_ready", grown);
    let shrunk = scenario.scale("edge", 1);
    let left = scenario.intercept(INFRASTRUCTURE, "node_removed", shrunk);
    let node =
        |handoff: &Recorded| serde_json::from_slice::<Value>(&handoff.body).unwrap()["nodes"][0]["node_uid"].clone();
    assert_eq!(node(&joined), node(&left), "the node that came last is the one that goes");
    (grown, joined, shrunk, left)
}

/// The flow ended well, as its message came before it could not be true any more, or with this reason.
#[track_caller]
fn expect_either(scenario: &Scenario, flow: Uuid, reason: &str) {
    let ended = scenario.follow(flow).unwrap();
    let told = told(&ended);
    assert!(ended.state == "succeeded" || (ended.state == "failed" && told.contains(reason)), "{told}");
}

/// The end of a flow comes before its beginning, the end of a cluster before nodes for it.
#[test]
fn what_infrastructure_hands_over_may_come_late_in_any_order_and_twice() {
    let mut scenario = Scenario::start(&WorldOptions::default());
    let before = scenario.snapshot();
    scenario.hold(TALOS);
    let made = edge(&scenario);
    let create = scenario.intercept(TALOS, "vm_provisioned", made);
    let request = json!({ "request_type": "provision_cluster", "cluster_name": "gone", "pattern": "single" });
    let unwanted = scenario.submit("provision_cluster", &request).unwrap();
    let begin = scenario.intercept(TALOS, "vm_provisioned", unwanted);
    let cancel = json!({ "flow": unwanted });
    let cancelled = scenario.operator.command::<Value>(INFRASTRUCTURE, "flows.cancel", cancel);
    scenario.runtime.block_on(cancelled).unwrap();
    let stop = scenario.intercept(TALOS, "cancel_request", unwanted);
    assert_eq!(scenario.machines(), 3, "all are made");
    scenario.give(TALOS, &[&stop, &create, &begin, &create, &stop, &begin]);
    expect(&scenario, made, "succeeded", "");
    expect(&scenario, unwanted, "cancelled", "");
    wait_for_rest(&scenario);
    assert_eq!(scenario.machines(), 2, "one machine per node");
    expect_runs(
        &scenario,
        &[
            ("infrastructure: provision-vms succeeded", 1),
            ("infrastructure: provision-vms undone", 1),
            ("infrastructure: register-monitoring succeeded", 1),
            ("talos: bootstrap-cluster cancelled", 1),
            ("talos: bootstrap-cluster succeeded", 1),
        ],
    );

    scenario.hold(TALOS);
    let grown = grow(&scenario, 2);
    let growth = scenario.intercept(TALOS, "vm_provisioned", grown);
    let gone = scenario.submit_with_consent("decommission_request", json!({ "cluster_name": "edge" })).unwrap();
    let end = scenario.intercept(TALOS, "decommission_request", gone);
    scenario.give(TALOS, &[&end, &growth, &end, &growth]);
    expect(&scenario, gone, "succeeded", "");
    // It is not lost: whoever asked hears why there was nothing to do.
    expect(&scenario, grown, "failed", "cluster");
    wait_for_rest(&scenario);
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
    let runs = scenario.runs();
    let count = |playbook: &str| runs.iter().filter(|run| run.contains(&format!(": {playbook} "))).count();
    let counted = ["scale-pool", "decommission-cluster", "forget-cluster", "destroy-cluster"].map(count);
    assert_eq!(counted, [1, 1, 1, 1], "{runs:#?}");
    assert!(count("join-nodes") <= 1, "{runs:#?}");
}

/// Waits until no run goes on.
fn wait_for_rest(scenario: &Scenario) {
    scenario.until("every run is over", || {
        let runs = scenario.runs();
        let over = ["succeeded", "undone", "cancelled"];
        runs.iter().all(|run| over.iter().any(|state| run.ends_with(state))).then_some(()).ok_or(format!("{runs:?}"))
    });
}

/// Only a contractor that lies, or a broker with its key, says so early; it is believed once, and work that was not handed
/// over yet is taken back instead.
#[test]
fn a_failure_that_is_told_before_its_machines_were_handed_over_takes_them_back() {
    let faults = vec!["pve task qmstart **x*=hold".to_owned()];
    let mut scenario = Scenario::start(&WorldOptions { faults, ..WorldOptions::default() });
    let before = scenario.snapshot();
    let flow = edge(&scenario);
    wait_for_event(&scenario, "vm_created");
    scenario.hold(INFRASTRUCTURE);
    let failed = json!({
        "handoff_type": "cluster_failed", "cluster_name": "edge", "step": "apply", "reason": "told too early",
        "failure_policy": "rollback",
    });
    let failed = Letter::new("cortex.handoff.infrastructure.cluster_failed", "/talos", &failed).of(flow);
    scenario.send(&failed.signed(&key_of(&scenario, Identity::Talos)));
    let early = scenario.intercept(INFRASTRUCTURE, "cluster_failed", flow);
    scenario.give(INFRASTRUCTURE, &[&early, &early]);
    scenario.until("the failure is taken", || {
        let consumer = scenario.consumer(INFRASTRUCTURE);
        let taken = consumer["num_pending"] == 0 && consumer["num_ack_pending"] == 0;
        taken.then_some(()).ok_or_else(|| consumer.to_string())
    });
    scenario.lift();
    expect(&scenario, flow, "failed", "apply: told too early");
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
    expect_runs(&scenario, &[("infrastructure: provision-vms undone", 1)]);
}

/// The acknowledgement of the handoff is lost each time, so it comes again.
#[test]
fn a_handoff_whose_acknowledgement_is_lost_comes_again_and_is_done_once() {
    let mut scenario = Scenario::start(&WorldOptions::default());
    let proxies = [TALOS, INFRASTRUCTURE].map(|party| (party, scenario.put_behind_proxy(party)));
    let to_the_broker = Harm { cut: Some(Cut::BlackHole), direction: Direction::Up, ..Harm::default() };
    let waiting = |party: Party| {
        let consumer = scenario.consumer(party);
        (consumer["num_waiting"].as_u64().unwrap_or(0), consumer)
    };
    for (party, _) in &proxies {
        scenario.hold(*party);
    }
    let flow = edge(&scenario);
    for ((party, proxy), kind) in proxies.iter().zip(["vm_provisioned", "cluster_ready"]) {
        scenario.handed_over(*party, kind, flow);
        // Only what asks for messages on a new connection asks for as long as they take to come again.
        proxy.set_harm(to_the_broker.clone());
        proxy.cut(Cut::Reset);
        scenario.until("its old connection is forgotten", || {
            let (waiting, consumer) = waiting(*party);
            (waiting == 0).then_some(()).ok_or_else(|| consumer.to_string())
        });
        proxy.set_harm(Harm::default());
        proxy.cut(Cut::Reset);
        scenario.until("it asks for messages again", || {
            let (waiting, consumer) = waiting(*party);
            (waiting > 0).then_some(()).ok_or_else(|| consumer.to_string())
        });
        proxy.set_harm(to_the_broker.clone());
        scenario.let_go(*party);
        // On this connection, or on the next if one side has given this one up before the broker's patience was over.
        let seen = scenario.until("its acknowledgement is lost", || {
            let (waiting, consumer) = waiting(*party);
            let lost = consumer["num_redelivered"] != 0 || waiting == 0;
            lost.then_some(()).ok_or_else(|| consumer.to_string())?;
            Ok(consumer)
        });
        assert_eq!(seen["num_ack_pending"], 1, "{seen}");
        proxy.set_harm(Harm::default());
        proxy.cut(Cut::Reset);
        scenario.until("it comes again", || {
            let consumer = scenario.consumer(*party);
            let came = consumer["delivered"]["consumer_seq"].as_u64() > Some(1);
            came.then_some(()).ok_or_else(|| consumer.to_string())
        });
    }
    expect_one_of_each(&scenario, flow);
    for (party, _) in &proxies {
        scenario.until("every handoff is acknowledged", || {
            let consumer = scenario.consumer(*party);
            let is_done = consumer["num_ack_pending"] == 0 && consumer["num_redelivered"] == 0;
            is_done.then_some(()).ok_or_else(|| consumer.to_string())
        });
    }
    expect_runs(
        &scenario,
        &[
            ("infrastructure: provision-vms succeeded", 1),
            ("infrastructure: register-monitoring succeeded", 1),
            ("talos: bootstrap-cluster succeeded", 1),
        ],
    );
}

/// Every piece of data between broker and daemons is late, in both directions, for the whole of a deployment.
#[test]
fn a_slow_way_to_the_broker_loses_nothing() {
    let late = Harm { delay_ms: 150, direction: Direction::Both, ..Harm::default() };
    let mut scenario = Scenario::start(&WorldOptions::default());
    let proxies = [TALOS, INFRASTRUCTURE].map(|party| scenario.put_behind_proxy(party));
    for proxy in &proxies {
        proxy.set_harm(late.clone());
    }
    let asked = Instant::now();
    let runs = scenario.runs();
    assert!(runs.is_empty() && asked.elapsed() > Duration::from_millis(600), "each of two answers is late both ways");
    for party in [TALOS, INFRASTRUCTURE] {
        scenario.daemon(party).kill();
        scenario.daemon(party).start(false).unwrap();
        scenario.world.wait_ready().unwrap();
        // The broker knows of a daemon that says it is ready, however late it heard.
        let asked: Result<Value, _> = scenario.runtime.block_on(scenario.operator.query(party, "runs.list", json!({})));
        assert_eq!(asked.unwrap(), json!([]), "{party}");
    }
    let flow = edge(&scenario);
    expect_one_of_each(&scenario, flow);
    expect_runs(
        &scenario,
        &[
            ("infrastructure: provision-vms succeeded", 1),
            ("infrastructure: register-monitoring succeeded", 1),
            ("talos: bootstrap-cluster succeeded", 1),
        ],
    );
}
