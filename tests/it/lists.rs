//! What contractors know may be more than a message holds: lists come in parts, and hide nothing that needs somebody.

use std::time::Duration;

use bus::identity::Identity;
use cortexctl::client::{Error, Submission};
use jiff::{SignedDuration, Timestamp};
use messages::{
    query::{FlowView, Refusal},
    subject::Party,
};
use serde_json::{Value, json};
use store::{Commit, InventoryChange, Options, Store};
use tests::world::WorldOptions;
use uuid::Uuid;

use crate::{
    command::call,
    scenario::{Scenario, told},
};

/// More than one answer may tell of, and with their reasons more than a message holds.
const FLOWS: usize = 400;

#[test]
fn a_flow_that_waits_for_somebody_is_listed_however_many_came_after_it() {
    let mut scenario = Scenario::start(&WorldOptions::default());
    let request = json!({ "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "single" });
    let made = scenario.ask("provision_cluster", &request).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    let (gone, body) = (Uuid::now_v7(), json!({ "cluster_name": "edge" }));
    let asked = scenario.operator.submit(Party::Infrastructure, "decommission_request", gone, &body);
    let asked = scenario.runtime.block_on(asked).unwrap();
    assert!(matches!(asked, Submission::AwaitsApproval { .. }), "{asked:?}");
    let patience = Duration::from_secs(20);
    scenario.world.infrastructure.stop(patience).unwrap();
    remember(&scenario);
    scenario.world.infrastructure.start(false).unwrap();
    scenario.world.wait_ready().unwrap();

    let list = |arguments: Value| -> Result<Vec<FlowView>, Refusal> {
        let answer = scenario.operator.query(Party::Infrastructure, "flows.list", arguments);
        scenario.runtime.block_on(answer).map_err(|error| match error {
            Error::Refused(refusal) => refusal,
            other => panic!("{other}"),
        })
    };
    let newest = list(json!({})).unwrap();
    let waits: Vec<_> = newest.iter().filter(|flow| flow.state == "awaiting_approval").map(|flow| flow.flow).collect();
    assert_eq!((newest.len(), waits), (100, vec![gone]));
    assert!(newest.is_sorted_by_key(|flow| std::cmp::Reverse(flow.started)));
    assert_eq!(list(json!({ "limit": 3 })).unwrap().len(), 3);
    let of_edge: Vec<_> =
        list(json!({ "cluster": "edge" })).unwrap().into_iter().map(|flow| (flow.kind, flow.state)).collect();
    let expected = [("decommission_request", "awaiting_approval"), ("provision_cluster", "succeeded")];
    assert_eq!(of_edge, expected.map(|(kind, state)| (kind.to_owned(), state.to_owned())));

    let refused = list(json!({ "limit": 300 })).unwrap_err();
    assert!(refused.message.contains("ask for less by a smaller limit, or of one cluster"), "{refused:?}");
    let refused = list(json!({ "limit": "many" })).unwrap_err();
    assert_eq!(refused.message, "argument `limit` must be of type integer");
    let environment = scenario.world.environment(Identity::Operator);
    let waiting = call(&["flows", "list", "--state", "awaiting_approval", "-o", "json"], &environment, "");
    waiting.ok().warns(&["not all flows that have ended are looked at; --limit looks at more than 100"]);
    assert_eq!(waiting.json()[0]["flow"], gone.to_string());
}

/// Puts flows into the store of a contractor that is stopped, all of which began and ended after now.
fn remember(scenario: &Scenario) {
    let folder = &scenario.world.folder;
    let options = Options { key_file: Some(folder.join("infrastructure.age")), ..Options::default() };
    let store = Store::open(&folder.join("infrastructure-store"), options).unwrap();
    let now = Timestamp::now();
    let records: Vec<_> = (1..=FLOWS)
        .map(|number| {
            let (flow, at) = (Uuid::now_v7(), now + SignedDuration::from_secs(number as i64));
            let record = json!({
                "flow": flow, "kind": "scale_request", "cluster": format!("cluster-{number}"), "source": "/operator/ada",
                "started": at, "deadline": at, "state": "failed", "ended": at, "reason": "no ".repeat(600),
            });
            InventoryChange::create(format!("flow/{flow}"), record)
        })
        .collect();
    for some in records.chunks(100) {
        store.commit_blocking(Commit { inventory: some.to_vec(), ..Commit::default() }).unwrap();
    }
    store.close_blocking();
}
