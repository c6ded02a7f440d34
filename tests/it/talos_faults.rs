//! Talos nodes that refuse, break off, answer twice, lose power or never come up.

use bus::identity::Identity;
use serde_json::{Value, json};
use tests::{demo, world::WorldOptions};

use crate::{
    command::call,
    scenario::{Scenario, told},
};

fn request(workers: u32) -> Value {
    json!({
        "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "edge", "worker_nodes": workers,
        "service_account_key": "ecdsa-p256",
    })
}

fn start(options: WorldOptions) -> Scenario {
    Scenario::start(&WorldOptions { speed: 100.0, ..options })
}

/// Connections that break at the worst moment, replies that get lost, nodes that say that they are not ready.
const PASSING: [&str; 8] = [
    "talos * /machine.MachineService/ApplyConfiguration#1=drop-request",
    "talos * /machine.MachineService/ApplyConfiguration#2=drop-reply",
    "talos * /machine.MachineService/Bootstrap#1=error:9:bootstrap is not available yet",
    "talos * /machine.MachineService/Bootstrap#2=drop-reply",
    "talos * /cosi.resource.State/Get#3=drop-reply",
    "talos * /cosi.resource.State/Watch#1=drop-request",
    "talos * /cosi.resource.State/List#2=error:14:transport is closing",
    "talos * /machine.MachineService/ServiceList#1=drop-reply",
];

#[test]
fn a_deployment_goes_through_lost_replies_and_a_bootstrap_that_is_answered_twice() {
    let scenario = start(WorldOptions::default());
    scenario.plan(&PASSING);
    let made = scenario.ask("provision_cluster", &request(1)).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    assert_eq!(scenario.idle_faults(), Vec::<String>::new(), "each fault has hit a call");
}

/// Connections that break with all that is on them: before an answer, after its head, in the middle of a stream.
const BREAKING: [&str; 7] = [
    "talos * /machine.MachineService/ApplyConfiguration#1=drop-reply",
    "talos * /machine.MachineService/ApplyConfiguration#2=break:0",
    "talos * /machine.MachineService/Events#1=break:1",
    "talos * /machine.MachineService/Bootstrap#1=drop-reply",
    "talos * /cosi.resource.State/Watch#1=break:0",
    "talos * /cosi.resource.State/Watch#2=break:1",
    "talos * /cosi.resource.State/List#3=break:1",
];

#[test]
fn a_connection_that_breaks_in_the_middle_costs_no_attempt_and_nothing_is_done_twice() {
    let scenario = start(WorldOptions::default());
    scenario.plan(&BREAKING);
    let made = scenario.ask("provision_cluster", &request(1)).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    assert_eq!(scenario.idle_faults(), Vec::<String>::new(), "each fault has hit a call");
    assert_eq!(scenario.machines(), 2);
    let environment = scenario.world.environment(Identity::Operator);
    let told = |kind: &str| call(&["events", "tail", "--type", kind, "-o", "json"], &environment, "");
    told("step_waiting").ok().says(&["ApplyConfiguration on 127.", "Watch on 127.", ": the connection broke ("]);
    let retried = told("step_retrying");
    assert!(!retried.ok().out.contains("the connection broke"), "a node that is away is waited for: {}", retried.out);
}

#[test]
fn what_a_node_says_of_a_configuration_that_it_refuses_reaches_the_operator() {
    let scenario = start(WorldOptions::default());
    let before = scenario.snapshot();
    let words = "configuration validation failed: 1 error occurred: install disk is missing";
    scenario.plan(&[&format!("talos * /machine.MachineService/ApplyConfigurationx*=error:3:{words}")]);
    let failed = scenario.ask("provision_cluster", &request(1)).unwrap();
    assert_eq!(failed.state, "failed", "{}", told(&failed));
    assert!(told(&failed).contains(words), "{}", told(&failed));
    let view = scenario.flow(failed.flow);
    let run = view.runs.iter().find(|run| run.playbook == "bootstrap-cluster").unwrap().run.to_string();
    let environment = scenario.world.environment(Identity::Operator);
    call(&["runs", "show", &run], &environment, "").ok().says(&[words]);
    let events = call(&["events", "tail", "--type", "step_failed", "-o", "json"], &environment, "");
    events.ok().says(&[words]);
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
}

#[test]
fn a_node_that_never_comes_up_is_named_and_its_flow_ends_by_its_deadline() {
    let lab_arguments = vec!["--no-guests".to_owned()];
    let machines = "\n[machines]\npatience_seconds = 1\n".to_owned();
    let more = [machines, String::new()];
    let scenario = start(WorldOptions { lab_arguments, more, ..WorldOptions::default() });
    let before = scenario.snapshot();
    let mut request = request(1);
    request["deadline"] = json!("8s");
    let flow = scenario.submit("provision_cluster", &request).unwrap();
    scenario.says(flow, "edge-cp-1 does not answer at");
    let ended = scenario.follow(flow).unwrap();
    assert_eq!(ended.state, "cancelled", "{}", told(&ended));
    assert!(told(&ended).contains("its deadline"), "{}", told(&ended));
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
}

#[test]
fn a_node_that_loses_power_while_it_takes_its_configuration_joins_when_it_is_back() {
    let scenario = start(WorldOptions::default());
    // The answer never comes: the call ends with the power.
    scenario.plan(&["talos * /machine.MachineService/ApplyConfiguration#2=hang"]);
    let flow = scenario.submit("provision_cluster", &request(1)).unwrap();
    scenario.until("a configuration is on its way", || {
        let idle = scenario.idle_faults();
        idle.is_empty().then_some(()).ok_or_else(|| idle.join(", "))
    });
    for name in scenario.vms().into_keys() {
        scenario.power_cycle(&name);
    }
    let made = scenario.follow(flow).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    assert_eq!(scenario.machines(), 2);
}

#[test]
fn a_node_that_dies_with_its_configuration_for_good_is_named_and_its_flow_ends_by_its_deadline() {
    let scenario = start(WorldOptions::default());
    let before = scenario.snapshot();
    // A control plane that others wait for, and a worker that a cluster waits for.
    let [plane, worker] = [("one", 0), ("two", 1)].map(|(cluster, workers)| {
        let mut request = request(workers);
        (request["cluster_name"], request["deadline"]) = (json!(cluster), json!("30s"));
        scenario.submit("provision_cluster", &request).unwrap()
    });
    for (flow, node) in [(plane, "one-cp-1"), (worker, "two-worker-1")] {
        scenario.until(&format!("{node} has its configuration"), || {
            let view = scenario.flow(flow);
            let steps: Vec<_> = view.runs.iter().flat_map(|run| &run.steps).collect();
            let done = |step: &str| steps.iter().any(|it| it.step == step && it.state == "succeeded");
            done(&format!("apply[{node}]")).then_some(()).ok_or_else(|| told(&view))
        });
        scenario.crash(node);
    }
    scenario.says(plane, "one-cp-1: cannot connect to 127.");
    scenario.says(worker, "1 of 2 nodes are Ready; not two-worker-1: cannot connect to 127.");
    for (flow, node) in [(plane, "one-cp-1: "), (worker, "two-worker-1: ")] {
        let ended = scenario.follow(flow).unwrap();
        assert_eq!(ended.state, "cancelled", "{}", told(&ended));
        assert!(told(&ended).contains("by deadline") && told(&ended).contains(node), "{}", told(&ended));
    }
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
}

#[test]
fn nodes_that_lose_power_as_etcd_begins_and_as_they_join_are_waited_for() {
    let scenario = start(WorldOptions::default());
    scenario.plan(&["talos * /machine.MachineService/Bootstrap=drop-reply"]);
    let mut request = request(1);
    for (field, value) in [("pattern", "ha"), ("network_cni", "flannel"), ("storage_backend", "none")] {
        request[field] = json!(value);
    }
    let flow = scenario.submit("provision_cluster", &request).unwrap();
    let idle = || scenario.idle_faults().is_empty().then_some(()).ok_or_else(|| "no bootstrap yet".to_owned());
    scenario.until("etcd begins", idle);
    scenario.power_cycle("edge-cp-1");
    // The others join what the first one began, one after the other, and the worker waits for them.
    scenario.begins(flow, "members");
    scenario.power_cycle("edge-cp-2");
    scenario.power_cycle("edge-worker-1");
    let made = scenario.follow(flow).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    assert_eq!(scenario.machines(), 4);
}
