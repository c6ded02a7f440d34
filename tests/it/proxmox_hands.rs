//! Templates whose host dies while it clones them, and machines that somebody moves to other hosts.

use std::{collections::BTreeSet, time::Duration};

use infrastructure_contractor::schematic;
use serde_json::{Value, json};
use tests::{
    demo,
    hypervisor::{self, TEMPLATE, smallest},
    world::WorldOptions,
};

use crate::{
    knobs::reasons,
    proxmox_faults::{expect_one_vm_per_node, request},
    scenario::{Scenario, told},
};

const PATIENCE: Duration = Duration::from_secs(20);

fn start(options: WorldOptions) -> Scenario {
    let infrastructure = "\n[placement]\nlook_again_seconds = 1\n\n[machines]\nstorage = \"shared\"\n".to_owned();
    Scenario::start(&WorldOptions { speed: 100.0, more: [infrastructure, String::new()], ..options })
}

#[test]
fn a_host_that_dies_while_it_clones_a_template_is_waited_for_and_its_half_clone_is_nobodys() {
    let template = format!(
        "method = \"clone\"\n[[images.templates]]\nvmid = {TEMPLATE}\ntalos_version = \"1.13.9\"\nschematic = \"{}\"\n",
        schematic::id(&[])
    );
    let scenario = start(WorldOptions { images: template, ..WorldOptions::default() });
    let mirror = &scenario.world.facts.mirror;
    scenario.runtime.block_on(hypervisor::make_template(&scenario.root(), mirror)).unwrap();
    let before = scenario.snapshot();
    // Slow enough to be met at it.
    scenario.knob("speed", &json!({ "speed": 2 }));
    let flow = scenario.submit("provision_cluster", &request("edge")).unwrap();
    scenario.until("a template is being cloned", || {
        let half = half_clones(&scenario.snapshot());
        (!half.is_empty()).then_some(()).ok_or_else(|| {
            let view = scenario.flow(flow);
            let steps = view.runs.iter().flat_map(|run| &run.steps).map(|it| format!("{} {}", it.step, it.state));
            format!("no clone yet: {}: {}", steps.collect::<Vec<_>>().join(", "), reasons(&view).join(", "))
        })
    });
    scenario.knob("hosts/pve1", &json!({ "power": false }));
    let half = half_clones(&scenario.snapshot());
    assert!(!half.is_empty(), "the host has died while it cloned");
    scenario.knob("speed", &json!({ "speed": 100 }));
    scenario.says(flow, "No route to host");
    scenario.knob("hosts/pve1", &json!({ "power": true }));
    expect_one_vm_per_node(&scenario, flow, "edge");
    assert_eq!(half_clones(&scenario.snapshot()), half, "they carry neither a mark of ours nor our rights");

    let gone = scenario.ask_with_consent("decommission_request", json!({ "cluster_name": "edge" })).unwrap();
    assert_eq!(gone.state, "succeeded", "{}", told(&gone));
    let after = scenario.snapshot();
    let left: BTreeSet<&String> = after["vms"].as_object().unwrap().keys().collect();
    let template = TEMPLATE.to_string();
    assert_eq!(left, half.iter().chain([&template]).collect(), "the template, and what an administrator has to remove");
    let mut leftovers = demo::leftovers(&before, &after);
    leftovers.retain(|it| !half.iter().any(|vmid| it.contains(vmid)));
    assert_eq!(leftovers, Vec::<String>::new());
}

/// The VMs that are being cloned, or were when their host died.
fn half_clones(snapshot: &Value) -> BTreeSet<String> {
    let vms = snapshot["vms"].as_object().unwrap().iter();
    vms.filter(|(_, vm)| vm["config"]["lock"] == "clone").map(|(vmid, _)| vmid.clone()).collect()
}

#[test]
fn machines_that_are_moved_by_hand_are_found_where_they_are_and_nobody_elses_is_touched() {
    let scenario = start(WorldOptions::default());
    let root = scenario.root();
    let stranger = smallest(900, "stranger");
    scenario.runtime.block_on(async {
        let made = root.create_vm("pve1", &stranger).await.unwrap();
        root.wait_for_task(&made, PATIENCE).await.unwrap();
    });
    let before = scenario.snapshot();
    // Between the proof that a machine is ours and its start.
    let start = "pve POST /nodes/*/qemu/*/status/start";
    scenario.plan(&[&format!("{start}#1x2=hold")]);
    let flow = scenario.submit("provision_cluster", &request("edge")).unwrap();
    scenario.held(start, 2);
    let names = ["edge-cp-1", "edge-worker-1"];
    let hosts = || scenario.vms().into_iter().map(|(name, (_, vm))| (name, vm["host"].clone())).collect::<Vec<_>>();
    let held = hosts();
    for name in names {
        scenario.move_by_hand(name);
    }
    let moved = hosts();
    assert!(
        names.iter().all(|name| scenario.vms()[*name].1["running"] == false),
        "none was started before it was moved"
    );
    assert!(held.iter().zip(&moved).all(|(before, after)| before.0 == "stranger" || before.1 != after.1), "{moved:?}");
    scenario.lift();
    expect_one_vm_per_node(&scenario, flow, "edge");
    assert_eq!(hosts(), moved, "they were started where they are");

    let grown = scenario.follow(scenario.scale("edge", 2)).unwrap();
    assert_eq!(grown.state, "succeeded", "{}", told(&grown));
    for name in ["edge-cp-1", "edge-worker-1", "edge-worker-2"] {
        scenario.move_by_hand(name);
    }
    let shrunk = scenario.follow(scenario.scale("edge", 1)).unwrap();
    assert_eq!(shrunk.state, "succeeded", "{}", told(&shrunk));
    assert_eq!(scenario.vms().into_keys().collect::<Vec<_>>(), ["edge-cp-1", "edge-worker-1", "stranger"]);

    let gone = scenario.ask_with_consent("decommission_request", json!({ "cluster_name": "edge" })).unwrap();
    assert_eq!(gone.state, "succeeded", "{}", told(&gone));
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
    assert_eq!(scenario.snapshot()["vms"], before["vms"], "only the stranger is there, as it was");
}
