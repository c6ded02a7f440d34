//! Rights on the bus are taken away, one by one: the daemon says which, loses nothing, and goes on when they are back.

use std::{fs, time::Instant};

use bus::identity::Identity;
use messages::{event::DeadLetter, subject::Party};
use serde_json::{Value, json};
use tests::world::WorldOptions;
use uuid::Uuid;

use super::{
    CLUSTER_READY, INFRASTRUCTURE, TALOS, edge, expect_one_of_each, handoffs, wait_for_trouble, wait_until_healthy,
};
use crate::{
    command::run,
    dead_letters::letters,
    letter::{Letter, key_of},
    scenario::{Scenario, told},
};

#[test]
fn rights_taken_away_are_named_and_work_goes_on_when_they_are_back() {
    let scenario = Scenario::start(&WorldOptions::default());
    let all = take_away(&scenario, &["cortex.handoff.talos.*"], false);
    // The answer to a call that comes in this moment may be refused to the contractor; the flow is found all the same.
    let flow = edge(&scenario);
    wait_for_trouble(&scenario, INFRASTRUCTURE, "cortex.handoff.talos.vm_provisioned");
    let config_of_daemon = scenario.world.folder.join("infrastructure-contractor.toml").display().to_string();
    let check = run("infrastructure-contractor", &["check", "--config", &config_of_daemon], &[], "");
    check.ended(1).says(&["the bus does not let infrastructure publish on cortex.handoff.talos.*", "bus configure"]);
    assert!(!check.out.contains("cortex.event"), "the other rights are there: {}", check.out);
    give_back(&scenario, &all);
    expect_one_of_each(&scenario, flow);
    wait_until_healthy(&scenario, INFRASTRUCTURE);
}

/// A right that is taken away.
struct Right {
    /// Whose.
    of: usize,
    /// The subjects.
    subjects: &'static [&'static str],
    /// What its daemon is then told that it may not do.
    told: &'static str,
    /// Whether it is to answer what comes.
    to_answer: bool,
}

const fn right(of: usize, subjects: &'static [&'static str], told: &'static str) -> Right {
    Right { of, subjects, told, to_answer: false }
}

const fn to_answer(of: usize, subjects: &'static [&'static str], told: &'static str) -> Right {
    Right { of, subjects, told, to_answer: true }
}

const RIGHTS: [Right; 10] = [
    right(
        TALOS,
        &["$JS.API.CONSUMER.MSG.NEXT.CORTEX_HANDOFFS.handoffs-talos"],
        "publish $JS.API.CONSUMER.MSG.NEXT.CORTEX_HANDOFFS.handoffs-talos",
    ),
    right(
        INFRASTRUCTURE,
        &["$JS.API.CONSUMER.MSG.NEXT.CORTEX_HANDOFFS.handoffs-infrastructure"],
        "publish $JS.API.CONSUMER.MSG.NEXT.CORTEX_HANDOFFS.handoffs-infrastructure",
    ),
    right(
        INFRASTRUCTURE,
        &["$JS.API.CONSUMER.MSG.NEXT.CORTEX_REQUESTS.requests-infrastructure"],
        "publish $JS.API.CONSUMER.MSG.NEXT.CORTEX_REQUESTS.requests-infrastructure",
    ),
    to_answer(
        TALOS,
        &["$JS.ACK.CORTEX_HANDOFFS.handoffs-talos.>", "$JS.ACK.*.*.CORTEX_HANDOFFS.handoffs-talos.>"],
        "CORTEX_HANDOFFS.handoffs-talos.",
    ),
    to_answer(
        INFRASTRUCTURE,
        &["$JS.ACK.CORTEX_HANDOFFS.handoffs-infrastructure.>", "$JS.ACK.*.*.CORTEX_HANDOFFS.handoffs-infrastructure.>"],
        "CORTEX_HANDOFFS.handoffs-infrastructure.",
    ),
    to_answer(
        INFRASTRUCTURE,
        &["$JS.ACK.CORTEX_REQUESTS.requests-infrastructure.>", "$JS.ACK.*.*.CORTEX_REQUESTS.requests-infrastructure.>"],
        "CORTEX_REQUESTS.requests-infrastructure.",
    ),
    right(TALOS, &["_INBOX.talos.>"], "subscribe _INBOX.talos."),
    right(INFRASTRUCTURE, &["cortex.cmd.infrastructure.>"], "subscribe cortex.cmd.infrastructure."),
    right(TALOS, &["cortex.handoff.infrastructure.*"], CLUSTER_READY),
    right(TALOS, &["cortex.event.talos.*.*"], "cortex.event.talos."),
];

/// One after the other, each with a deployment of its own, which is asked for by the stream, as coordinators do.
#[test]
fn rights_taken_away_one_by_one_are_named_and_work_goes_on_when_they_are_back() {
    let scenario = Scenario::start(&WorldOptions::default());
    for (right, number) in RIGHTS.iter().zip(1..) {
        let name = format!("edge-{number}");
        let body = json!({ "request_type": "provision_cluster", "cluster_name": name, "pattern": "single" });
        let (flow, began) = (Uuid::now_v7(), Instant::now());
        let all = take_away(&scenario, right.subjects, right.to_answer);
        let published = scenario.operator.publish(Party::Infrastructure, "provision_cluster", flow, &body);
        scenario.runtime.block_on(published).unwrap();
        wait_for_trouble(&scenario, right.of, right.told);
        let said = began.elapsed();
        give_back(&scenario, &all);
        let made = scenario.follow(flow).unwrap();
        println!("{:?}: said after {said:.1?}, made after {:.1?}", right.subjects, began.elapsed());
        assert_eq!(made.state, "succeeded", "{:?}: {}", right.subjects, told(&made));
        assert_eq!(scenario.machines(), number, "{:?}: one machine per node", right.subjects);
        for party in [Party::Infrastructure, Party::Talos] {
            scenario.until(&format!("{party} hears commands again"), || {
                let listed = scenario.operator.command::<Value>(party, "outbox.retry", json!({}));
                scenario.runtime.block_on(listed).map_err(|error| format!("{:?}: {error}", right.subjects))
            });
        }
    }
    for of in [INFRASTRUCTURE, TALOS] {
        wait_until_healthy(&scenario, of);
    }
    let runs = scenario.runs();
    for playbook in ["provision-vms", "bootstrap-cluster", "register-monitoring"] {
        let succeeded = runs.iter().filter(|run| run.ends_with(&format!(": {playbook} succeeded"))).count();
        assert_eq!((succeeded, runs.len()), (RIGHTS.len(), 3 * RIGHTS.len()), "{runs:#?}");
    }
    let once = handoffs(&scenario);
    assert_eq!(once[CLUSTER_READY], RIGHTS.len(), "each was handed over once: {once:?}");
}

/// Takes rights away from whom they belong to. Returns the configuration before.
fn take_away(scenario: &Scenario, rights: &[&str], to_answer: bool) -> String {
    let config = scenario.world.nats.setup().config.clone();
    let all = fs::read_to_string(&config).unwrap();
    let mut without = rights.iter().fold(all.clone(), |text, right| {
        let quoted = format!("\"{right}\"");
        assert!(text.contains(&quoted), "{right} is there");
        text.replace(&quoted, "\"cortex.nobody\"")
    });
    // Whatever it is sent a contractor may answer once within a minute, and an acknowledgement is an answer.
    if to_answer {
        without = without.replace("\"expires\": \"1m\"", "\"expires\": \"1ns\"");
    }
    fs::write(&config, without).unwrap();
    scenario.world.nats.reload().unwrap();
    all
}

fn give_back(scenario: &Scenario, all: &str) {
    fs::write(&scenario.world.nats.setup().config, all).unwrap();
    scenario.world.nats.reload().unwrap();
}

/// The dead letter waits, what else there is does not, and it is told when the right is back.
#[test]
fn a_dead_letter_that_may_not_be_published_waits_and_holds_nothing_up() {
    let scenario = Scenario::start(&WorldOptions::default());
    let subject = "cortex.deadletter.infrastructure";
    let all = take_away(&scenario, &[subject], false);
    let bad =
        Letter::new("cortex.request.infrastructure.provision_cluster", "/operator/test", &json!({ "pattern": 7 }))
            .signed(&key_of(&scenario, Identity::Operator));
    scenario.runtime.block_on(async {
        let operator = scenario.world.nats.connect(Identity::Operator).await.unwrap();
        operator.publish(&bad).await.unwrap();
        operator.close().await;
    });
    wait_for_trouble(&scenario, INFRASTRUCTURE, subject);
    let flow = edge(&scenario);
    expect_one_of_each(&scenario, flow);
    assert_eq!(letters(&scenario, Party::Infrastructure, 0).len(), 0, "it waits");
    give_back(&scenario, &all);
    let found = letters(&scenario, Party::Infrastructure, 1);
    let letter: DeadLetter = serde_json::from_slice(&found[0].body).unwrap();
    assert!(letter.reason.contains("does not validate"), "{}", letter.reason);
    wait_until_healthy(&scenario, INFRASTRUCTURE);
}
