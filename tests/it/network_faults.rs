//! Links that are slow, break off, half close, reset or swallow everything, between the daemons and the hypervisors or the
//! bus: each flow goes through them with one machine, and nothing is left of it afterwards.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use simulators::lab::{Cut, Direction, Harm};
use tests::{
    demo,
    proxies::{Proxies, Way},
    world::WorldOptions,
};
use uuid::Uuid;

use crate::{
    broker::{handoffs, wait_for_trouble, wait_until_healthy},
    scenario::{Scenario, told},
};

/// Which daemon's health is looked at.
const INFRASTRUCTURE: usize = 0;
const TALOS: usize = 1;

const HARMLESS: Harm = Harm { delay_ms: 0, cut: None, after_bytes: 0, direction: Direction::Down };
const SLOW: Harm = Harm { delay_ms: 300, ..HARMLESS };
const BLACK_HOLE: Harm = ending(Cut::BlackHole);
/// No handshake ends within so few bytes.
const BREAKING: [(&str, Harm); 3] =
    [("closed", ending(Cut::Close)), ("reset", ending(Cut::Reset)), ("half", ending(Cut::HalfClose))];

const fn ending(cut: Cut) -> Harm {
    Harm { cut: Some(cut), after_bytes: 100, ..HARMLESS }
}

fn start() -> Scenario {
    let scenario = Scenario::start(&WorldOptions { speed: 100.0, through_proxies: true, ..WorldOptions::default() });
    assert!(open(&scenario, &ways(&scenario).bus) >= 2, "both daemons reach the bus through its proxy");
    scenario
}

fn ways(scenario: &Scenario) -> Proxies {
    scenario.world.proxies.clone().unwrap()
}

fn open(scenario: &Scenario, way: &Way) -> u64 {
    scenario.runtime.block_on(way.connections()).unwrap()
}

fn harm(scenario: &Scenario, way: &Way, harm: &Harm) {
    scenario.runtime.block_on(way.harm(harm)).unwrap();
}

/// A machine is made of a cluster of one node, and while that goes on something happens.
fn begin(scenario: &Scenario, name: &str) -> Uuid {
    scenario.plan(&["pve task qmcreate *=delay:2000"]);
    let request = json!({
        "request_type": "provision_cluster", "cluster_name": name, "pattern": "single", "network_cni": "flannel",
        "storage_backend": "none", "service_account_key": "ecdsa-p256",
    });
    let flow = scenario.submit("provision_cluster", &request).unwrap();
    let machine = format!("{name}-cp-1");
    scenario.until(&format!("{machine} is in the making"), || {
        let vms = scenario.vms();
        vms.contains_key(&machine).then_some(()).ok_or_else(|| format!("{:?}", vms.keys()))
    });
    flow
}

/// The cluster comes to stand with its one machine, is taken away, and nothing is left of it.
fn live_on(scenario: &Scenario, flow: Uuid, name: &str, before: &Value) {
    let made = scenario.follow(flow).unwrap();
    assert_eq!(made.state, "succeeded", "{name}: {}", told(&made));
    assert_eq!(scenario.machines(), 1, "{name}");
    let gone = scenario.ask_with_consent("decommission_request", json!({ "cluster_name": name })).unwrap();
    assert_eq!(gone.state, "succeeded", "{name}: {}", told(&gone));
    assert_eq!(demo::leftovers(before, &scenario.snapshot()), Vec::<String>::new(), "{name}");
}

#[test]
fn a_whole_life_goes_on_over_slow_links() {
    let scenario = start();
    let before = scenario.snapshot();
    let Proxies { proxmox, bus } = ways(&scenario);
    [&proxmox, &bus].into_iter().for_each(|way| harm(&scenario, way, &SLOW));
    let flow = begin(&scenario, "slow");
    scenario.until("the hypervisors are reached through their proxy", || match open(&scenario, &proxmox) {
        0 => Err("not yet".to_owned()),
        _ => Ok(()),
    });
    live_on(&scenario, flow, "slow", &before);
}

#[test]
fn hypervisors_behind_a_link_that_breaks_are_waited_for_by_their_address() {
    let scenario = start();
    let before = scenario.snapshot();
    let proxmox = ways(&scenario).proxmox;
    for (name, broken) in BREAKING {
        let flow = begin(&scenario, name);
        harm(&scenario, &proxmox, &broken);
        scenario.says(flow, &format!("https://{}: ", proxmox.address));
        harm(&scenario, &proxmox, &HARMLESS);
        live_on(&scenario, flow, name, &before);
    }
}

#[test]
fn hypervisors_that_swallow_everything_hold_up_neither_answers_nor_the_end_of_the_daemon() {
    let mut scenario = start();
    let before = scenario.snapshot();
    let proxmox = ways(&scenario).proxmox;
    let flow = begin(&scenario, "hole");
    harm(&scenario, &proxmox, &BLACK_HOLE);
    scenario.until("the flow says why it waits, and until when", || {
        let view = answered_soon(|| scenario.flow(flow));
        let health = answered_soon(|| health(&scenario));
        assert_eq!(health["troubles"], json!([]), "a flow that waits is no trouble of the daemon");
        let steps = view.runs.iter().flat_map(|run| &run.steps);
        let waits = steps.filter(|step| step.next_attempt.is_some()).find_map(|step| step.reason.clone());
        let named = |reason: &String| reason.contains("no answer within") || reason.contains("no connection in time");
        waits.filter(named).map(drop).ok_or_else(|| format!("{:?}", view.runs))
    });
    scenario.until("the next attempt is in the middle of a call", || {
        let view = scenario.flow(flow);
        let steps = view.runs.iter().flat_map(|run| &run.steps);
        let mut made = steps.filter(|step| step.action == "infrastructure.create_vm");
        made.any(|step| step.next_attempt.is_none()).then_some(()).ok_or_else(|| format!("{:?}", view.runs))
    });
    let ended = scenario.world.infrastructure.stop(Duration::from_secs(12)).expect("it ends within its grace");
    assert!(ended.success(), "{ended}");
    scenario.world.infrastructure.start(false).unwrap();
    scenario.world.wait_ready().expect("it is ready although nobody answers");
    harm(&scenario, &proxmox, &HARMLESS);
    live_on(&scenario, flow, "hole", &before);
}

fn answered_soon<T>(ask: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let answer = ask();
    assert!(begun.elapsed() < Duration::from_secs(5), "answered after {:?}", begun.elapsed());
    answer
}

fn health(scenario: &Scenario) -> Value {
    let url = format!("{}/healthz", scenario.world.health[INFRASTRUCTURE]);
    scenario.runtime.block_on(async { reqwest::get(url).await.unwrap().json().await.unwrap() })
}

#[test]
fn a_bus_behind_a_link_that_breaks_is_missed_by_both_daemons_and_every_handoff_comes_once() {
    let scenario = start();
    let before = scenario.snapshot();
    let bus = ways(&scenario).bus;
    let lives = BREAKING.into_iter().chain([("hole", BLACK_HOLE)]);
    for (name, broken) in lives.clone() {
        let flow = begin(&scenario, name);
        harm(&scenario, &bus, &broken);
        // There is no way around the proxy: what the server says of its own addresses is not followed.
        for of in [INFRASTRUCTURE, TALOS] {
            wait_for_trouble(&scenario, of, "the bus is not connected");
        }
        harm(&scenario, &bus, &HARMLESS);
        for of in [INFRASTRUCTURE, TALOS] {
            wait_until_healthy(&scenario, of);
        }
        live_on(&scenario, flow, name, &before);
    }
    let made = handoffs(&scenario).remove("cortex.handoff.talos.vm_provisioned");
    assert_eq!(made, Some(lives.count()));
}
