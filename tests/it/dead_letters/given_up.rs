//! A handoff that cannot be taken over all its deliveries.

use std::time::Duration;

use bus::{identity::Identity, streams};
use contractor::flows;
use messages::{event::DeadLetter, query::Accepted, subject::Party};
use serde_json::{Value, json};
use store::{Commit, InventoryChange, Options, Store};
use tests::world::WorldOptions;
use uuid::Uuid;

use super::{Letter, letters};
use crate::{letter::key_of, scenario::Scenario};

const PATIENCE: Duration = Duration::from_secs(20);
const SUBJECT: &str = "cortex.handoff.infrastructure.cluster_failed";

#[test]
fn what_cannot_be_taken_over_all_its_deliveries_is_put_aside_with_its_reason_and_can_be_brought_again() {
    let mut scenario = Scenario::start(&WorldOptions::default());
    let flow = Uuid::now_v7();
    change(&mut scenario, InventoryChange::put(flows::key(flow), json!({ "no": "record of a flow" })), |scenario| {
        let body = json!({
            "handoff_type": "cluster_failed", "cluster_name": "edge", "reason": "no quorum", "failure_policy": "keep"
        });
        let handoff = Letter::new(SUBJECT, "/talos", &body).of(flow).signed(&key_of(scenario, Identity::Talos));
        scenario.runtime.block_on(async {
            let talos = scenario.world.nats.connect(Identity::Talos).await.unwrap();
            let infrastructure = scenario.world.nats.connect(Identity::Infrastructure).await.unwrap();
            talos.publish(&handoff).await.unwrap();
            let consumer = streams::handoffs_of(Party::Infrastructure);
            let mut deliveries = infrastructure.deliveries(streams::HANDOFFS, &consumer).await.unwrap();
            for _ in 1..streams::MAX_DELIVERIES {
                let delivery = deliveries.next_within(PATIENCE).await.expect("it comes again");
                delivery.retry_later(Duration::ZERO).await.unwrap();
            }
            drop(deliveries);
            talos.close().await;
            infrastructure.close().await;
        });
    });

    let found = letters(&scenario, Party::Infrastructure, 1);
    let letter: DeadLetter = serde_json::from_slice(&found[0].body).unwrap();
    assert!(letter.reason.starts_with("it could not be taken in 30 deliveries: "), "{}", letter.reason);
    assert!(letter.reason.contains(&flow.to_string()), "it says which record: {}", letter.reason);

    let again = |scenario: &Scenario| {
        let arguments = json!({ "sequence": letter.sequence });
        let asked = scenario.operator.command::<Value>(Party::Infrastructure, "redeliver", arguments);
        scenario.runtime.block_on(asked)
    };
    let refused = again(&scenario).unwrap_err().to_string();
    assert!(refused.contains(&flow.to_string()), "what kept it from being taken is not mended: {refused}");
    change(&mut scenario, InventoryChange::delete(flows::key(flow)), |_| {});
    let told: Accepted = serde_json::from_value(again(&scenario).unwrap()).unwrap();
    assert_eq!((told.flow, told.duplicate), (flow, false));
}

/// Stops infrastructure-contractor, changes a row of its store, lets `meanwhile` happen, and starts it again.
fn change(scenario: &mut Scenario, change: InventoryChange, meanwhile: impl FnOnce(&Scenario)) {
    scenario.world.infrastructure.stop(PATIENCE).unwrap();
    let folder = scenario.world.folder.clone();
    let options = Options { key_file: Some(folder.join("infrastructure.age")), ..Options::default() };
    let store = Store::open(&folder.join("infrastructure-store"), options).unwrap();
    store.commit_blocking(Commit { inventory: vec![change], ..Commit::default() }).unwrap();
    store.close_blocking();
    meanwhile(scenario);
    scenario.world.infrastructure.start(false).unwrap();
    scenario.world.wait_ready().unwrap();
}
