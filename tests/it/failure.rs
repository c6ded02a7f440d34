//! What a request wants to become of a flow that fails, on both sides: taken back, kept, or paused and resumed.

use std::time::Duration;

use bus::{Tail, identity::Identity};
use cortexctl::watch::{self, Told};
use messages::{query::FlowView, subject::Party};
use serde_json::{Value, json};
use tests::{demo, world::WorldOptions};
use uuid::Uuid;

use crate::{
    command,
    scenario::{Scenario, told},
};

/// The node refuses to be the first of its etcd, for good; nothing that a retry would mend.
const BOOTSTRAP_REFUSED: &str = "talos **MachineService/Bootstrapx*=error:7:not today";
/// The hypervisor refuses to make machines.
const CREATE_REFUSED: &str = "pve POST /nodes/*/qemux*=error:400:parameter verification failed";

fn start(faults: &[&str]) -> Scenario {
    let faults = faults.iter().map(|fault| (*fault).to_owned()).collect();
    Scenario::start(&WorldOptions { faults, ..WorldOptions::default() })
}

fn request(policy: &str) -> Value {
    json!({ "request_type": "provision_cluster", "cluster_name": "one", "pattern": "single", "failure_policy": policy })
}

/// Waits for an event of the flow.
fn wait_for(scenario: &Scenario, tail: &mut Tail, flow: Uuid, kind: &str) -> Told {
    scenario.runtime.block_on(async {
        let wait = async {
            loop {
                let recorded = tail.next().await.expect("the event stream can be read");
                if let Some(told) = Told::read(&recorded).filter(|told| told.kind == kind)
                    && told.body["flow"] == json!(flow)
                {
                    return told;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(240), wait).await.unwrap_or_else(|_| panic!("{kind} does not come"))
    })
}

fn cortexctl(scenario: &Scenario, arguments: &[&str]) -> command::Told {
    let told = command::call(arguments, &scenario.world.environment(Identity::Operator), "");
    told.ok();
    told
}

/// A flow that fails is paused at one contractor, with nothing taken back, and goes on from there when the flow or
/// its run is told to.
fn pauses_and_goes_on(fault: &str, at: Party, order: [&str; 2]) {
    let scenario = start(&[fault]);
    let mut tail = scenario.runtime.block_on(watch::events_from_now(&scenario.operator)).unwrap();
    let flow = scenario.submit("provision_cluster", &request("pause")).unwrap();
    let paused = wait_for(&scenario, &mut tail, flow, "run_paused");
    assert_eq!(paused.from, at.to_string());
    let before = scenario.flow(flow);
    let run = before.runs.iter().find(|run| run.state == "paused").expect("one run is paused");
    let made = steps(&before, "succeeded");
    assert!(!made.is_empty() && steps(&before, "undone").is_empty(), "{before:#?}");

    scenario.lift();
    let id = if order[0] == "flows" { flow } else { run.run };
    cortexctl(&scenario, &[order[0], order[1], &id.to_string()]).warns(&["goes on"]);
    let ended = scenario.follow(flow).unwrap();
    assert_eq!(ended.state, "succeeded", "{}", told(&ended));
    assert_eq!(scenario.machines(), 1, "nothing was made twice");
    let after = scenario.flow(flow);
    assert!(made.iter().all(|step| steps(&after, "succeeded").contains(step)), "it went on where it was");
}

fn steps(view: &FlowView, state: &str) -> Vec<(String, String, Option<jiff::Timestamp>)> {
    let of_run = |run: &messages::query::RunView| {
        let steps = run.steps.iter().filter(|step| step.state == state);
        steps.map(|step| (run.playbook.clone(), step.step.clone(), step.started)).collect::<Vec<_>>()
    };
    view.runs.iter().flat_map(of_run).collect()
}

#[test]
fn a_paused_run_of_talos_is_resumed_to_the_flows_success() {
    pauses_and_goes_on(BOOTSTRAP_REFUSED, Party::Talos, ["runs", "resume"]);
}

#[test]
fn a_paused_run_of_infrastructure_is_resumed_to_the_flows_success() {
    pauses_and_goes_on(CREATE_REFUSED, Party::Infrastructure, ["flows", "resume"]);
}

#[test]
fn what_a_failed_flow_keeps_is_there_until_it_is_decommissioned() {
    let scenario = start(&[BOOTSTRAP_REFUSED]);
    let before = scenario.snapshot();
    let failed = scenario.ask("provision_cluster", &request("keep")).unwrap();
    assert_eq!(failed.state, "failed", "{}", told(&failed));
    assert!(failed.reason.as_deref().is_some_and(|reason| reason.contains("not today")), "{}", told(&failed));
    assert_eq!(scenario.machines(), 1, "the machine is kept");
    let view = scenario.flow(failed.flow);
    let ends: Vec<&str> = view.runs.iter().map(|run| run.state.as_str()).collect();
    assert_eq!(ends, ["succeeded", "kept"], "{view:#?}");
    for at in [Party::Infrastructure, Party::Talos] {
        let asked = scenario.operator.query::<Value>(at, "clusters.list", json!({}));
        let known = scenario.runtime.block_on(asked).unwrap();
        assert_eq!(known["rows"][0]["state"], "failed", "no longer in the making at {at}: {known}");
    }
    let grow = json!({ "handoff_type": "scale_request", "cluster_name": "one", "pool": "worker", "count": 2 });
    let refused = scenario.submit("scale_request", &grow).unwrap_err().to_string();
    assert!(refused.contains("one whose making failed"), "{refused}");

    scenario.lift();
    let gone = scenario.ask_with_consent("decommission_request", json!({ "cluster_name": "one" })).unwrap();
    assert_eq!(gone.state, "succeeded", "{}", told(&gone));
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
}

#[test]
fn a_flow_that_is_cancelled_while_talos_works_is_taken_back_on_both_sides() {
    let scenario = start(&[]);
    let before = scenario.snapshot();
    let mut tail = scenario.runtime.block_on(watch::events_from_now(&scenario.operator)).unwrap();
    let flow = scenario.submit("provision_cluster", &request("rollback")).unwrap();
    wait_for(&scenario, &mut tail, flow, "config_applied");
    let run = scenario.flow(flow).runs[0].run.to_string();
    cortexctl(&scenario, &["runs", "cancel", &run]).warns(&["is being cancelled"]);
    let watched = command::call(&["runs", "watch", &run], &scenario.world.environment(Identity::Operator), "");
    watched.ended(1);
    assert!((watched.out + &watched.err).contains("cancelled"), "whether it was over by then or not");
    let ended = scenario.follow(flow).unwrap();
    assert_eq!(ended.state, "cancelled", "{}", told(&ended));
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
}

#[test]
fn a_flow_that_is_cancelled_on_its_way_to_talos_is_taken_back_and_never_begun_there() {
    let mut scenario = start(&[]);
    let before = scenario.snapshot();
    let mut tail = scenario.runtime.block_on(watch::events_from_now(&scenario.operator)).unwrap();
    scenario.world.talos.kill();
    let flow = scenario.submit("provision_cluster", &request("rollback")).unwrap();
    wait_for(&scenario, &mut tail, flow, "run_succeeded");
    // The flow is known where it is kept; that the other does not answer keeps nobody from telling that one.
    cortexctl(&scenario, &["flows", "cancel", &flow.to_string()])
        .warns(&["talos-contractor was not told", "is being cancelled"]);
    scenario.world.talos.start(false).unwrap();
    scenario.world.wait_ready().unwrap();
    let ended = scenario.follow(flow).unwrap();
    assert_eq!(ended.state, "cancelled", "{}", told(&ended));
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
}
