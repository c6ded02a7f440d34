//! The broker dies, forgets a consumer, takes rights away; a daemon is frozen: no handoff is lost, none is done twice.

mod rights;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bus::{TailFrom, identity::Identity, streams};
use cortexctl::watch::Told;
use messages::subject::Party;
use serde_json::{Value, json};
use tests::{
    process::{Process, signal},
    world::{World, WorldOptions},
};
use uuid::Uuid;

use crate::scenario::{Scenario, told};

/// Which daemon's health is looked at.
const INFRASTRUCTURE: usize = 0;
const TALOS: usize = 1;

/// The last handoff of a deployment.
const CLUSTER_READY: &str = "cortex.handoff.infrastructure.cluster_ready";

pub(crate) fn edge(scenario: &Scenario) -> Uuid {
    scenario.submit("provision_cluster", &request()).unwrap()
}

fn request() -> serde_json::Value {
    json!({ "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "edge", "worker_nodes": 1 })
}

/// Each time it is away until both daemons have noticed, and for `BROKER_DOWN_SECONDS` (default: one).
#[test]
fn a_broker_that_dies_twice_in_a_deployment_loses_nothing() {
    let seconds = std::env::var("BROKER_DOWN_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(1);
    let away = Duration::from_secs(seconds);
    let mut scenario = Scenario::start(&WorldOptions::default());
    let flow = edge(&scenario);
    for at in ["vm_created", "config_applied"] {
        wait_for_event(&scenario, at);
        scenario.world.nats.kill();
        let since = Instant::now();
        for of in [INFRASTRUCTURE, TALOS] {
            wait_for_trouble(&scenario, of, "the bus is not connected");
        }
        std::thread::sleep(away.saturating_sub(since.elapsed()));
        for of in [INFRASTRUCTURE, TALOS] {
            wait_for_trouble(&scenario, of, "the bus is not connected");
        }
        println!("the broker was away for {:?}", since.elapsed());
        scenario.world.nats.start_again().unwrap();
    }
    expect_one_of_each(&scenario, flow);
    for of in [INFRASTRUCTURE, TALOS] {
        wait_until_healthy(&scenario, of);
    }
}

#[test]
fn consumers_deleted_by_hand_are_missed_by_name_and_made_again_by_init() {
    let scenario = Scenario::start(&WorldOptions::default());
    let consumers = bus_consumers();
    assert_eq!(consumers.len(), 4);
    for (_, stream, consumer) in &consumers {
        let told = scenario.broker(&format!("CONSUMER.DELETE.{stream}.{consumer}"), &json!({}));
        assert_eq!(told["success"], true, "{told}");
    }
    // By the stream, as coordinators ask: the request waits there, too.
    let flow = Uuid::now_v7();
    let asked = request();
    let published = scenario.operator.publish(Party::Infrastructure, "provision_cluster", flow, &asked);
    scenario.runtime.block_on(published).unwrap();
    for (of, _, consumer) in &consumers {
        wait_for_trouble(&scenario, *of, consumer);
    }
    assert_eq!(scenario.machines(), 0, "the request was not heard");
    scenario.runtime.block_on(scenario.world.nats.init()).unwrap();
    expect_one_of_each(&scenario, flow);
    for of in [INFRASTRUCTURE, TALOS] {
        wait_until_healthy(&scenario, of);
    }
}

/// Whose, on which stream, and the name of every durable consumer.
fn bus_consumers() -> Vec<(usize, &'static str, String)> {
    let of = |name: &str| if name.ends_with("talos") { TALOS } else { INFRASTRUCTURE };
    streams::consumers().into_iter().map(|spec| (of(&spec.name), spec.stream, spec.name)).collect()
}

#[test]
fn infrastructure_that_was_frozen_goes_on_without_doing_anything_twice() {
    frozen_goes_on("vm_created", |world| &world.infrastructure);
}

#[test]
fn talos_that_was_frozen_goes_on_without_doing_anything_twice() {
    frozen_goes_on("config_applied", |world| &world.talos);
}

/// Freezes a daemon in the middle of its part of a deployment, when an event of the given type comes.
fn frozen_goes_on(at: &str, daemon: fn(&World) -> &Process) {
    let scenario = Scenario::start(&WorldOptions::default());
    let flow = edge(&scenario);
    wait_for_event(&scenario, at);
    let frozen = daemon(&scenario.world).id().unwrap();
    signal(frozen, "STOP").unwrap();
    std::thread::sleep(frozen_for());
    assert!(!handoffs(&scenario).contains_key(CLUSTER_READY), "it stands still in the middle of the flow");
    signal(frozen, "CONT").unwrap();
    expect_one_of_each(&scenario, flow);
}

/// Longer than the broker waits for an acknowledgement and for an answer to its pings: it delivers again. A machine that
/// swaps, or is moved, stands still for minutes: `FROZEN_SECONDS` says how many seconds.
fn frozen_for() -> Duration {
    let asked = std::env::var("FROZEN_SECONDS").ok();
    Duration::from_secs(asked.map_or(12, |seconds| seconds.parse().expect("a number of seconds")))
}

/// The flow succeeds with one machine per node, each handoff once in its stream.
pub(crate) fn expect_one_of_each(scenario: &Scenario, flow: Uuid) {
    let made = scenario.follow(flow).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    assert_eq!(scenario.machines(), 2, "one machine per node");
    let once = [CLUSTER_READY, "cortex.handoff.talos.vm_provisioned"];
    assert_eq!(handoffs(scenario), once.into_iter().map(|subject| (subject.to_owned(), 1)).collect());
}

/// How many handoffs of each subject there were.
pub(crate) fn handoffs(scenario: &Scenario) -> BTreeMap<String, usize> {
    let mut handoffs: BTreeMap<String, usize> = BTreeMap::new();
    scenario.runtime.block_on(async {
        let admin = scenario.world.nats.connect(Identity::Admin).await.unwrap();
        let mut tail = admin.tail(streams::HANDOFFS, TailFrom::Start, &[]).await.unwrap();
        let mut left = tail.pending;
        while left > 0 {
            let recorded = tail.next().await.unwrap();
            left = recorded.pending;
            *handoffs.entry(recorded.subject).or_default() += 1;
        }
    });
    handoffs
}

pub(crate) fn wait_for_event(scenario: &Scenario, kind: &str) {
    scenario.runtime.block_on(async {
        let wait = async {
            let mut tail = scenario.operator.events(TailFrom::Start, None, Some(kind)).await.unwrap();
            loop {
                if Told::read(&tail.next().await.unwrap()).is_some_and(|told| told.kind == kind) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(120), wait).await.expect("the event comes");
    });
}

fn troubles(scenario: &Scenario, of: usize) -> Vec<String> {
    let url = format!("{}/healthz", scenario.world.health[of]);
    scenario.runtime.block_on(async {
        let health: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        serde_json::from_value(health["troubles"].clone()).unwrap()
    })
}

pub(crate) fn wait_for_trouble(scenario: &Scenario, of: usize, part: &str) {
    wait(|| {
        let troubles = troubles(scenario, of);
        troubles.iter().any(|trouble| trouble.contains(part)).then_some(()).ok_or(troubles)
    });
}

pub(crate) fn wait_until_healthy(scenario: &Scenario, of: usize) {
    wait(|| {
        let troubles = troubles(scenario, of);
        troubles.is_empty().then_some(()).ok_or(troubles)
    });
}

/// Looks again until the condition holds; what it saw last otherwise.
fn wait(condition: impl Fn() -> Result<(), Vec<String>>) {
    let give_up = std::time::Instant::now() + Duration::from_secs(60);
    while let Err(seen) = condition() {
        assert!(std::time::Instant::now() < give_up, "not within a minute; seen last: {seen:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
