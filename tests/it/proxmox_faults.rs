//! Proxmox VE that fails, is full, hangs or is worked on by others: a flow goes through it with one VM per node, or waits and
//! says why, or fails and names what differs.

use bus::identity::Identity;
use messages::subject::Party;
use proxmox::{VmId, form::Params, new_vm::NewVm};
use serde_json::{Value, json};
use tests::{demo, hypervisor::smallest, world::WorldOptions};
use uuid::Uuid;

use crate::{
    command::call,
    scenario::{Scenario, told},
};

fn start() -> Scenario {
    let infrastructure = "\n[placement]\nlook_again_seconds = 1\n".to_owned();
    Scenario::start(&WorldOptions { speed: 100.0, more: [infrastructure, String::new()], ..WorldOptions::default() })
}

pub(crate) fn request(name: &str) -> Value {
    json!({
        "request_type": "provision_cluster", "cluster_name": name, "pattern": "edge", "worker_nodes": 1,
        "service_account_key": "ecdsa-p256",
    })
}

fn submit(scenario: &Scenario, name: &str) -> Uuid {
    scenario.submit("provision_cluster", &request(name)).unwrap()
}

#[track_caller]
pub(crate) fn expect_one_vm_per_node(scenario: &Scenario, flow: Uuid, name: &str) {
    let made = scenario.follow(flow).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    let own: Vec<String> = scenario.vms().into_keys().filter(|vm| vm.starts_with(&format!("{name}-"))).collect();
    assert_eq!(own, [format!("{name}-cp-1"), format!("{name}-worker-1")]);
}

/// What passes by itself: errors, empty bodies, lost replies, busy locks, warnings.
const PASSING: [&str; 15] = [
    "pve POST /nodes/*/qemu#1=error:500:got no worker upid - start worker failed",
    "pve POST /nodes/*/qemu#2=drop-reply",
    "pve POST /nodes/*/qemu#3=error:500:can't lock file '/var/lock/pve-manager/pve-storage-local-lvm' - got timeout",
    "pve GET /nodes/*/qemu/*/config#2=error:595:No route to host",
    "pve GET /nodes/*/qemu/*/config#5=error:500",
    "pve GET /cluster/resources#2=error:500",
    "pve GET /nodes/*/tasks/**#2=error:596:Connection timed out",
    "pve GET /nodes/*/tasks/**#4=drop-request",
    "pve GET /nodes/*/qemu/*/status/current=drop-reply",
    "pve POST /nodes/*/qemu/*/status/start#1=error:500:can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout",
    "pve POST /nodes/*/qemu/*/status/start#2=drop-reply",
    "pve POST /nodes/*/qemu/*/status/start#3=late-error:596:Connection timed out",
    "pve PUT /nodes/*/qemu/*/resize=drop-reply",
    "pve POST /nodes/*/storage/*/download-url=drop-reply",
    "pve task qmcreate *=warnings:2",
];

#[test]
fn a_deployment_goes_through_every_fault_that_passes_by_itself() {
    let scenario = start();
    let before = scenario.snapshot();
    scenario.plan(&PASSING);
    let flow = submit(&scenario, "edge");
    expect_one_vm_per_node(&scenario, flow, "edge");
    assert_eq!(scenario.idle_faults(), Vec::<String>::new(), "each fault has hit a call");

    scenario.lift();
    scenario.plan(&LOST);
    let gone = scenario.ask_with_consent("decommission_request", json!({ "cluster_name": "edge" })).unwrap();
    assert_eq!(gone.state, "succeeded", "{}", told(&gone));
    assert_eq!(scenario.idle_faults(), Vec::<String>::new(), "each fault has hit a call");
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
}

/// Replies that get lost while machines are taken away.
const LOST: [&str; 3] = [
    "pve PUT /nodes/*/qemu/*/config#1=drop-reply",
    "pve POST /nodes/*/qemu/*/status/stop#1=drop-reply",
    "pve DELETE /nodes/*/qemu/*#1=drop-reply",
];

/// What does not pass by itself, and what the flow says of it.
const FINAL: [(&str, &str); 4] = [
    ("pve POST /nodes/*/qemu=error:400:Parameter verification failed.", "Parameter verification failed"),
    (
        "pve POST /nodes/*/qemu=error:403:Permission check failed (/sdn/zones/localnetwork/vmbr0, SDN.Use)",
        "/sdn/zones/localnetwork/vmbr0, SDN.Use",
    ),
    ("pve task qmstart *=error:500:start failed: QEMU exited with code 1", "QEMU exited with code 1"),
    ("pve task qmcreate *=error:500:unable to create VM - bad option", "unable to create VM - bad option"),
];

#[test]
fn what_does_not_pass_fails_with_proxmoxs_own_words_and_leaves_nothing() {
    let scenario = start();
    let before = scenario.snapshot();
    for (fault, words) in FINAL {
        scenario.plan(&[fault]);
        let flow = submit(&scenario, "edge");
        let failed = scenario.follow(flow).unwrap();
        assert_eq!(failed.state, "failed", "{fault}: {}", told(&failed));
        assert!(told(&failed).contains(words), "{fault}: {}", told(&failed));
        assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new(), "{fault}");
        scenario.lift();
    }
}

#[test]
fn what_lasts_is_waited_for_with_its_reason_until_it_is_over() {
    let scenario = start();
    scenario.knob("storages/local-lvm", &json!("full"));
    let flow = submit(&scenario, "edge");
    scenario.says(flow, "local-lvm");
    // No quorum: reading works, writing does not.
    scenario.knob("quorum", &json!({ "present": false }));
    scenario.knob("storages/local-lvm", &json!({ "foreign-use": 0 }));
    scenario.says(flow, "no quorum");
    // The credential has expired: every call is refused.
    scenario.plan(&["pve GET **x*=error:401:token expired"]);
    scenario.knob("quorum", &json!({ "present": true }));
    scenario.says(flow, "token expired");
    scenario.lift();
    expect_one_vm_per_node(&scenario, flow, "edge");
}

#[test]
fn a_host_that_dies_while_it_makes_a_machine_is_waited_for_by_name() {
    let scenario = start();
    // One VM by its id: the other node's machine, made at the same time, is locked for a moment too.
    let vmid = "100";
    scenario.plan(&["pve task qmcreate 100#1=delay:20000"]);
    let flow = submit(&scenario, "edge");
    let host = scenario.until("VM 100 is being made", || {
        let vm = scenario.snapshot()["vms"][vmid].clone();
        let host = (vm["config"]["lock"] == "create").then(|| vm["host"].as_str().unwrap().to_owned());
        host.ok_or_else(|| vm.to_string())
    });
    scenario.knob(&format!("hosts/{host}"), &json!({ "power": false }));
    scenario.says(flow, "No route to host");
    scenario.knob(&format!("hosts/{host}"), &json!({ "power": true }));
    // What the dead task left has neither a mark of ours nor our rights on it: its id is left to an administrator.
    expect_one_vm_per_node(&scenario, flow, "edge");
    let half_made = &scenario.snapshot()["vms"][vmid];
    assert_eq!(half_made["config"]["lock"], "create", "{half_made}");
    let listed = call(&["quarantine", "list"], &scenario.world.environment(Identity::Operator), "");
    listed.ok().says(&[&format!("vmid/{vmid}")]);
}

#[test]
fn machines_that_others_work_on_are_found_where_they_are_and_strangers_are_left_alone() {
    let scenario = start();
    let before = scenario.snapshot();
    let root = scenario.root();
    // A stranger takes the id that was chosen while the machines are being asked for, and a call hangs until the client gives up.
    scenario.plan(&["pve POST /nodes/*/qemu#1x2=hold", "pve POST /nodes/*/qemu/*/status/start#2=hang"]);
    let flow = submit(&scenario, "edge");
    scenario.held("pve POST /nodes/*/qemu", 2);
    let stranger = smallest(100, "stranger");
    scenario.runtime.block_on(async {
        let task = root.create_vm("pve1", &stranger).await.unwrap();
        root.wait_for_task(&task, std::time::Duration::from_secs(20)).await.unwrap();
    });
    let left_alone = scenario.vms().remove("stranger");
    assert!(left_alone.is_some(), "it has taken the id");
    scenario.lift_one("pve POST /nodes/*/qemu");
    expect_one_vm_per_node(&scenario, flow, "edge");
    assert_eq!(scenario.idle_faults(), Vec::<String>::new());
    assert_eq!(scenario.vms().remove("stranger"), left_alone);

    let vms = scenario.vms();
    let (worker, vm) = &vms["edge-worker-1"];
    let (host, unprotected) = (vm["host"].as_str().unwrap(), Params::default().with_flag("protection", false));
    scenario.runtime.block_on(async {
        root.set_vm_config(host, VmId(*worker), &unprotected, None).await.unwrap();
        let stopped = root.stop_vm(host, VmId(*worker)).await.unwrap();
        root.wait_for_task(&stopped, std::time::Duration::from_secs(20)).await.unwrap();
        root.destroy_vm(host, VmId(*worker)).await.unwrap();
        let (plane, vm) = &vms["edge-cp-1"];
        let renamed = Params::default().with("name", "renamed-by-hand");
        root.set_vm_config(vm["host"].as_str().unwrap(), VmId(*plane), &renamed, None).await.unwrap();
    });
    let gone = scenario.ask_with_consent("decommission_request", json!({ "cluster_name": "edge" })).unwrap();
    assert_eq!(gone.state, "succeeded", "{}", told(&gone));
    assert_eq!(scenario.vms().remove("stranger"), left_alone);
    let left = demo::leftovers(&before, &scenario.snapshot());
    assert_eq!(left, ["member of pool cortex 100", "vm 100"], "the stranger, and nothing of ours");
    let clusters: messages::query::Listing =
        scenario.runtime.block_on(scenario.operator.query(Party::Infrastructure, "clusters.list", json!({}))).unwrap();
    assert_eq!(clusters.rows.len(), 0);
}

/// What the removal's call has looked at may have changed when its task has the lock.
#[test]
fn a_removal_that_its_task_refuses_for_a_moment_is_waited_for() {
    let scenario = start();
    let before = scenario.snapshot();
    let flow = submit(&scenario, "edge");
    expect_one_vm_per_node(&scenario, flow, "edge");
    scenario.plan(&[
        "pve task qmdestroy 100#1=error:500:VM 100 is running - destroy failed",
        "pve task qmdestroy 101#1=error:500:can't remove VM 101 - protection mode enabled",
    ]);
    let gone = scenario.ask_with_consent("decommission_request", json!({ "cluster_name": "edge" })).unwrap();
    assert_eq!(gone.state, "succeeded", "{}", told(&gone));
    assert_eq!(scenario.idle_faults(), Vec::<String>::new());
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
}

/// A flow fails before it makes its machines, and keeps their ids; Proxmox knows of no reservation.
#[test]
fn ids_that_strangers_take_before_a_kept_machine_was_made_do_not_keep_a_cluster_from_being_taken_away() {
    let scenario = start();
    let before = scenario.snapshot();
    scenario.plan(&["pve POST /nodes/*/storage/*/download-urlx*=error:400:Parameter verification failed"]);
    let mut body = request("edge");
    body["failure_policy"] = json!("keep");
    let failed = scenario.ask("provision_cluster", &body).unwrap();
    assert_eq!(failed.state, "failed", "{}", told(&failed));
    scenario.lift();
    let root = scenario.root();
    // One outside of the pool, which may not be seen, and one in it.
    for (vmid, pool) in [(100, None), (101, Some("cortex".to_owned()))] {
        let stranger = NewVm { pool, ..smallest(vmid, "stranger") };
        scenario.runtime.block_on(async {
            let task = root.create_vm("pve1", &stranger).await.unwrap();
            root.wait_for_task(&task, std::time::Duration::from_secs(20)).await.unwrap();
        });
    }
    let strangers = scenario.snapshot()["vms"].clone();
    let gone = scenario.ask_with_consent("decommission_request", json!({ "cluster_name": "edge" })).unwrap();
    assert_eq!(gone.state, "succeeded", "{}", told(&gone));
    assert_eq!(scenario.snapshot()["vms"], strangers, "they are as they were");
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), ["member of pool cortex 101", "vm 100", "vm 101"]);
    let listed = call(&["cluster", "list", "-o", "json"], &scenario.world.environment(Identity::Operator), "");
    assert_eq!(listed.ok().json(), json!([]));
}
