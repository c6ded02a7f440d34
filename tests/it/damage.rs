//! A daemon whose store holds a damaged record: it starts, names what cannot be read, and answers as before.

use messages::{
    query::{FlowView, RunView},
    subject::Party,
};
use serde_json::{Value, json};
use tests::world::WorldOptions;

use crate::{
    broker::{edge, wait_for_event, wait_for_trouble},
    scenario::Scenario,
};

const INFRASTRUCTURE: usize = 0;

#[test]
fn a_run_that_cannot_be_read_is_named_wherever_one_looks() {
    let mut scenario = Scenario::start(&WorldOptions::default());
    let flow = edge(&scenario);
    wait_for_event(&scenario, "vm_created");
    let runs = scenario.flow(flow).runs;
    let run = runs.iter().find(|run| run.contractor == "infrastructure").unwrap().run;
    scenario.world.infrastructure.kill();
    damage(&scenario.world.folder.join("infrastructure-store/data-1"), &format!("journal/{run}/{:016x}", 1));
    scenario.world.infrastructure.start(false).unwrap();
    scenario.world.wait_ready().unwrap();

    wait_for_trouble(&scenario, INFRASTRUCTURE, &format!("run {run} does not go on"));
    let shown: RunView = ask(&scenario, "runs.show", json!({ "run": run }));
    let listed: Vec<RunView> = ask(&scenario, "runs.list", json!({ "flow": flow }));
    let whole: FlowView = ask(&scenario, "flows.show", json!({ "flow": flow }));
    for view in [&shown, &listed[0], &whole.runs[0]] {
        assert_eq!(view.run, run);
        assert!(view.reason.as_ref().is_some_and(|reason| reason.contains("does not go on")), "{view:?}");
        assert!(view.hint.as_ref().is_some_and(|hint| hint.contains("store verify")), "{view:?}");
    }
    let flows: Vec<FlowView> = ask(&scenario, "flows.list", json!({}));
    assert!(flows.iter().any(|of| of.flow == flow), "{flows:?}");
    let verified: Value = ask(&scenario, "store.verify", json!({}));
    let problems = verified["problems"].to_string();
    assert!(problems.contains(&format!("journal/{run}/")), "{problems}");

    // What cannot be answered without a damaged row is refused, with what to do.
    scenario.world.infrastructure.kill();
    damage(&scenario.world.folder.join("infrastructure-store/data-1"), "inventory/cluster/edge");
    scenario.world.infrastructure.start(false).unwrap();
    scenario.world.wait_ready().unwrap();
    let list = scenario.operator.query::<Value>(Party::Infrastructure, "clusters.list", json!({}));
    let refused = scenario.runtime.block_on(list).unwrap_err();
    let cortexctl::client::Error::Refused(refusal) = refused else { panic!("{refused}") };
    assert!(refusal.message.contains("inventory/cluster/edge"), "{refusal:?}");
    let hint = refusal.hint.unwrap_or_default();
    assert!(hint.contains("`cortexctl store import --folder STORE.PATH --replace FILE`"), "{hint}");
}

fn ask<T: serde::de::DeserializeOwned>(scenario: &Scenario, name: &str, arguments: Value) -> T {
    scenario.runtime.block_on(scenario.operator.query(Party::Infrastructure, name, arguments)).unwrap()
}

/// Writes nonsense over a row of a store that no process has open.
fn damage(data: &std::path::Path, key: &str) {
    let db = sled::Config::new().path(data).segment_size(4 << 20).open().unwrap();
    assert!(db.insert(key, b"nonsense").unwrap().is_some(), "there is no {key}");
    db.flush().unwrap();
}
