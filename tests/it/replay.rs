//! Handoffs of an earlier cluster of the same name come again: as they were, or signed anew by who has the key.

use bus::{Outgoing, TailFrom, identity::Identity, streams};
use jiff::{SignedDuration, Timestamp};
use messages::{event::DeadLetter, subject::Party};
use serde_json::{Value, json};
use tests::world::WorldOptions;

use crate::{
    broker::edge,
    letter::{Letter, key_of},
    scenario::{Scenario, told},
};

/// Signed messages may be so old.
const OLDEST: SignedDuration = SignedDuration::from_hours(7 * 24);

#[test]
fn handoffs_of_an_earlier_cluster_of_the_name_do_nothing_to_the_one_that_has_it_now() {
    let mut scenario = Scenario::start(&WorldOptions::default());
    let first = edge(&scenario);
    let made = scenario.follow(first).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    let machines = scenario.handed_over(Party::Talos, "vm_provisioned", first);
    let ready = scenario.handed_over(Party::Infrastructure, "cluster_ready", first);
    let gone = scenario.ask_with_consent("decommission_request", json!({ "cluster_name": "edge" })).unwrap();
    assert_eq!(gone.state, "succeeded", "{}", told(&gone));
    let again = scenario.follow(edge(&scenario)).unwrap();
    assert_eq!(again.state, "succeeded", "{}", told(&again));
    let (vms, runs) = (scenario.snapshot()["vms"].clone(), scenario.runs());

    // As they were signed: their takers remember them, over a restart too.
    scenario.give(Party::Talos, &[&machines, &machines]);
    scenario.give(Party::Infrastructure, &[&ready, &ready]);
    // Signed anew by who has the key: under another id, as old as a message may be, and older.
    let margin = SignedDuration::from_hours(1);
    for (recorded, sender, source) in
        [(&machines, Identity::Infrastructure, "/infrastructure"), (&ready, Identity::Talos, "/talos")]
    {
        let body: Value = serde_json::from_slice(&recorded.body).unwrap();
        for age in [OLDEST - margin, OLDEST + margin] {
            let letter = Letter::new(&recorded.subject, source, &body).of(first);
            let letter = Letter { time: Timestamp::now() - age, ..letter };
            let message: Outgoing = letter.signed(&key_of(&scenario, sender));
            scenario.send(&message);
        }
    }
    for (party, path) in [(Party::Talos, "/cluster_name"), (Party::Infrastructure, "/cluster_uid")] {
        let [young, old] = letters(&scenario, party);
        assert!(young.violations.iter().any(|violation| violation.path == path), "{young:?}");
        assert!(old.reason.starts_with("the message is stale"), "{old:?}");
        scenario.until("every handoff is answered", || {
            let consumer = scenario.consumer(party);
            let is_done = consumer["num_ack_pending"] == 0 && consumer["num_pending"] == 0;
            is_done.then_some(()).ok_or_else(|| consumer.to_string())
        });
    }
    assert_eq!(scenario.runs(), runs, "no run was begun");
    assert_eq!(scenario.snapshot()["vms"], vms);
}

/// The two letters of a contractor.
fn letters(scenario: &Scenario, of: Party) -> [DeadLetter; 2] {
    scenario.runtime.block_on(async {
        let filter = [format!("cortex.deadletter.{of}")];
        let bus = scenario.operator.bus();
        let mut tail = bus.tail(streams::DEADLETTER, TailFrom::Start, &filter).await.unwrap();
        let mut found = Vec::new();
        while found.len() < 2 {
            let next = tail.next_within(std::time::Duration::from_secs(60)).await.unwrap().expect("a dead letter");
            found.push(serde_json::from_slice(&next.body).unwrap());
        }
        <[DeadLetter; 2]>::try_from(found).unwrap()
    })
}
