//! The key of a contractor is exchanged in the middle of a deployment: nothing is lost, and the old key is good for nothing.

use std::{fs, path::Path, time::Duration};

use bus::{Bus, ConnectError, Link, Outgoing, TailFrom, identity::Identity, streams};
use messages::{
    catalogue::{self, Family},
    envelope::Envelope,
    event::DeadLetter,
    signature,
};
use nkeys::KeyPair;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tests::world::WorldOptions;
use uuid::Uuid;

use crate::{
    broker::{edge, expect_one_of_each, wait_for_event},
    command::call,
    scenario::Scenario,
};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_key_is_exchanged_in_the_middle_of_a_deployment_and_the_old_one_is_refused() {
    let mut scenario = Scenario::start(&WorldOptions::default());
    let folder = scenario.world.nats.setup().folder.display().to_string();
    let old_seed = seed(&scenario);
    // Somebody who got hold of the seed.
    let (thief, mut link) = scenario.runtime.block_on(async {
        let bus = scenario.world.nats.connect(Identity::Talos).await.unwrap();
        let link = bus.link();
        (bus, link)
    });
    let flow = edge(&scenario);
    wait_for_event(&scenario, "vm_created");

    let keys = call(&["bus", "rotate", &folder, "talos", "-o", "json"], &[], "").json();
    let (old_key, new_key) = (text(&keys[0]["old_key"]), text(&keys[0]["new_key"]));
    scenario.world.nats.reload().unwrap();
    let pins = scenario.world.folder.join("infrastructure-contractor.toml");
    let (one, both) = (format!("\"/talos\" = [\"{old_key}\"]"), format!("\"/talos\" = [\"{new_key}\", \"{old_key}\"]"));
    change(&pins, &one, &both);
    scenario.world.infrastructure.kill();
    scenario.world.infrastructure.start(false).unwrap();
    // It reads its new seed where the old one was.
    scenario.world.talos.kill();
    scenario.world.talos.start(false).unwrap();
    scenario.world.wait_ready().unwrap();
    expect_one_of_each(&scenario, flow);
    assert_eq!(signer_of_cluster_ready(&scenario), new_key);

    let operator = scenario.world.environment(Identity::Operator);
    call(&["bus", "retire", &folder, "talos"], &operator, "").ok().says(&[&new_key]);
    call(&["bus", "retire", &folder, "talos"], &operator, "").ended(1).warns(&["is not being exchanged"]);
    scenario.world.nats.reload().unwrap();
    scenario.runtime.block_on(async {
        let gone = link.wait_for(|link| matches!(link, Link::Refused(_)));
        tokio::time::timeout(PATIENCE, gone).await.expect("the open connection of the old key is closed").unwrap();
        let mut options = scenario.world.nats.options(Identity::Talos).unwrap();
        options.seed = old_seed.clone();
        let error = Bus::connect(options).await.unwrap_err();
        assert!(matches!(error, ConnectError::NotAccepted { .. }), "{error}");
    });
    drop(thief);

    // The broker is not what protects: with the old key unpinned its messages are refused wherever they come from.
    change(&pins, &both, &format!("\"/talos\" = [\"{new_key}\"]"));
    scenario.world.infrastructure.kill();
    scenario.world.infrastructure.start(false).unwrap();
    scenario.world.wait_ready().unwrap();
    let reasons = refused(&scenario, [&old_seed, &seed(&scenario)]);
    assert!(reasons[0].contains("the key in cortex-key is not pinned for this source"), "{reasons:?}");
    assert!(!reasons[1].contains("not pinned"), "the new key is believed, its message makes no sense: {reasons:?}");
}

#[test]
fn a_key_is_not_given_up_while_messages_wait() {
    let mut scenario = Scenario::start(&WorldOptions::default());
    let folder = scenario.world.nats.setup().folder.display().to_string();
    scenario.world.infrastructure.kill();
    let waits = json!({ "handoff_type": "cluster_removed", "cluster_name": "gone", "cluster_uid": Uuid::now_v7() });
    scenario.runtime.block_on(async {
        let talos = scenario.world.nats.connect(Identity::Talos).await.unwrap();
        talos.publish(&handoff(&seed(&scenario), &waits)).await.unwrap();
    });
    call(&["bus", "rotate", &folder, "talos"], &[], "").ok();
    let operator = scenario.world.environment(Identity::Operator);
    let retire = || call(&["bus", "retire", &folder, "talos"], &operator, "");
    retire().ended(3).warns(&["1 for handoffs-infrastructure", "--offline"]);
    scenario.world.infrastructure.start(false).unwrap();
    scenario.world.wait_ready().unwrap();
    // Once the message is taken nothing waits.
    let give_up = std::time::Instant::now() + PATIENCE;
    while retire().code != 0 {
        assert!(std::time::Instant::now() < give_up, "the message was taken");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn seed(scenario: &Scenario) -> SecretString {
    bus::identity::read_seed(&scenario.world.nats.setup().keys[&Identity::Talos]).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn change(path: &Path, from: &str, to: &str) {
    let before = fs::read_to_string(path).unwrap();
    assert!(before.contains(from), "{from} is not in {}", path.display());
    fs::write(path, before.replace(from, to)).unwrap();
}

fn handoff(seed: &SecretString, body: &Value) -> Outgoing {
    let subject = "cortex.handoff.infrastructure.cluster_removed";
    let kind = catalogue::find(Family::Handoff, "cluster_removed").unwrap();
    let mut headers = Envelope::new(Uuid::now_v7(), "/talos", kind, jiff::Timestamp::now()).headers();
    let body = body.to_string().into_bytes();
    let key = KeyPair::from_seed(seed.expose_secret()).unwrap();
    signature::sign(&key, subject, &mut headers, &body).unwrap();
    Outgoing { subject: subject.to_owned(), headers, body: body.into() }
}

/// Why a handoff that each of these seeds signed is put aside, published by a connection that may publish it.
fn refused(scenario: &Scenario, seeds: [&SecretString; 2]) -> Vec<String> {
    let body = json!({ "handoff_type": "cluster_removed", "cluster_name": "edge", "cluster_uid": Uuid::now_v7() });
    scenario.runtime.block_on(async {
        let talos = scenario.world.nats.connect(Identity::Talos).await.unwrap();
        for seed in seeds {
            talos.publish(&handoff(seed, &body)).await.unwrap();
        }
        dead_letters(scenario, seeds.len()).await.into_iter().map(|letter| letter.reason).collect()
    })
}

async fn dead_letters(scenario: &Scenario, count: usize) -> Vec<DeadLetter> {
    let filter = ["cortex.deadletter.infrastructure".to_owned()];
    let mut tail = scenario.operator.bus().tail(streams::DEADLETTER, TailFrom::Start, &filter).await.unwrap();
    let mut letters = Vec::new();
    while letters.len() < count {
        let letter = tail.next_within(PATIENCE).await.unwrap().expect("another dead letter");
        letters.push(serde_json::from_slice(&letter.body).unwrap());
    }
    letters
}

fn signer_of_cluster_ready(scenario: &Scenario) -> String {
    scenario.runtime.block_on(async {
        let filter = ["cortex.handoff.infrastructure.cluster_ready".to_owned()];
        let admin = scenario.world.nats.connect(Identity::Admin).await.unwrap();
        let mut tail = admin.tail(streams::HANDOFFS, TailFrom::Start, &filter).await.unwrap();
        tail.next_within(PATIENCE).await.unwrap().unwrap().headers["cortex-key"].clone()
    })
}
