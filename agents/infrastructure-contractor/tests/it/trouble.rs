//! What goes wrong between us and Proxmox VE, and what becomes of it.

use engine::report::Status;
use infrastructure_contractor::check;
use proxmox::{VmId, form::Params};
use serde_json::json;
use simulators::faults::{Fault, FaultAction};
use uuid::Uuid;

use crate::{
    life::{assert_succeeded, request},
    world::World,
};

fn fail(message: &str) -> FaultAction {
    FaultAction::Error { code: 500, message: message.to_owned(), empty_body: false }
}

fn fault(world: &World, call: &str, nth: u64, action: FaultAction) {
    world.proxmox.faults().add(Fault { call: call.to_owned(), nth, times: Some(1), action });
}

fn assert_clean(world: &World) {
    assert!(world.proxmox.snapshot().vms.is_empty(), "{:?}", world.proxmox.snapshot().vms.keys());
    assert_eq!(world.keys(""), Vec::<String>::new());
}

#[tokio::test]
async fn a_failed_step_is_rolled_back_to_a_clean_slate() {
    let world = World::start(244, |_| {}).await;
    fault(&world, "pve POST /nodes/*/qemu/*/status/start", 3, fail("start failed: QEMU exited with code 1"));
    let report = world.run("provision-vms", Uuid::new_v4(), request(1)).await;
    assert_eq!(report.status, Status::Undone, "{report:#?}");
    assert!(report.failure.unwrap().error.message.contains("QEMU exited with code 1"));
    assert_clean(&world);
}

#[tokio::test]
async fn a_lost_reply_makes_nothing_twice() {
    let world = World::start(245, |_| {}).await;
    for (call, nth) in [
        ("pve POST /nodes/*/qemu", 2),
        ("pve POST /nodes/*/qemu/*/status/start", 1),
        ("pve POST /nodes/*/storage/*/download-url", 1),
        ("pve PUT /nodes/*/qemu/*/resize", 2),
    ] {
        fault(&world, call, nth, FaultAction::DropReply);
    }
    assert_succeeded(&world.run("provision-vms", Uuid::new_v4(), request(1)).await);
    assert_eq!(world.proxmox.snapshot().vms.len(), 4);
    assert_eq!(world.keys("vmid/").len(), 4);
}

#[tokio::test]
async fn busy_locks_and_a_worker_that_did_not_start_are_waited_for() {
    let world = World::start(246, |_| {}).await;
    let busy = "can't lock file '/var/lock/pve-manager/pve-storage-local-lvm' - got timeout";
    fault(&world, "pve POST /nodes/*/qemu", 1, fail(busy));
    fault(&world, "pve POST /nodes/*/qemu/*/status/start", 2, fail("got no worker upid - start worker failed"));
    assert_succeeded(&world.run("provision-vms", Uuid::new_v4(), request(0)).await);
}

#[tokio::test]
async fn an_id_that_somebody_else_took_is_quarantined_and_another_one_used() {
    let world = World::start(247, |_| {}).await;
    let taken = "unable to create VM 100 - VM 100 already exists on node 'pve2'";
    fault(&world, "pve POST /nodes/*/qemu", 1, fail(taken));
    assert_succeeded(&world.run("provision-vms", Uuid::new_v4(), request(0)).await);
    let quarantined = world.keys("quarantine/vmid/");
    assert_eq!(quarantined.len(), 1);
    let held = world.keys("vmid/");
    assert_eq!(held.len(), 3, "{held:?}");
    assert!(!held.contains(&quarantined[0].replace("quarantine/", "")), "{held:?} {quarantined:?}");
}

#[tokio::test]
async fn a_vm_that_is_not_provably_ours_is_not_touched() {
    let world = World::start(248, |_| {}).await;
    let flow = Uuid::new_v4();
    assert_succeeded(&world.run("provision-vms", flow, request(0)).await);
    let handoff = world.handoffs("vm_provisioned").pop().unwrap();
    let (vmid, host) = (handoff["nodes"][0]["vm_id"].as_str().unwrap(), handoff["nodes"][0]["host"].as_str().unwrap());
    let foreign = VmId(vmid.parse().unwrap());
    let params = Params::default().with("smbios1", "uuid=00000000-0000-4000-8000-000000000000");
    world.root().set_vm_config(host, foreign, &params, None).await.unwrap();
    let removed = json!({
        "handoff_type": "node_removed", "cluster_name": "prod",
        "nodes": [{ "hostname": handoff["nodes"][0]["hostname"] }],
    });
    let report = world.run("release-vms", Uuid::new_v4(), removed).await;
    assert_eq!(report.status, Status::Paused, "{report:#?}");
    let message = report.failure.unwrap().error.message;
    assert!(message.contains("SMBIOS UUID is 00000000-0000-4000-8000-000000000000"), "{message}");
    assert!(world.proxmox.snapshot().vms[&foreign.0].running, "it was not touched");
    assert!(world.keys("quarantine/").contains(&format!("quarantine/vmid/{vmid}")));
}

#[tokio::test]
async fn without_room_a_run_waits_and_goes_on_when_there_is_some() {
    let world = World::start(249, |options| options.hosts.truncate(2)).await;
    world.proxmox.cut_host("pve1");
    world.proxmox.set_foreign_use("local-lvm", 1000 << 30);
    let run = world.submit("provision-vms", Uuid::new_v4(), request(0)).await;
    let waiting = world.wait(run, |report| report.waits_for.is_some()).await;
    let reason = waiting.waits_for.unwrap();
    assert!(reason.contains("pve1 is offline") && reason.contains("pve2 lacks"), "{reason}");
    assert!(world.keys("").is_empty(), "nothing is held while it waits");
    world.driver.cancel(waiting.flow, "test").await.unwrap();
    let ended = world.rest(run).await;
    assert!(matches!(ended.status, Status::Cancelled | Status::Undone), "{:?}", ended.status);
}

#[tokio::test]
async fn two_flows_at_once_never_share_anything() {
    let world = World::start(250, |_| {}).await;
    let other = json!({
        "request_type": "provision_cluster", "cluster_name": "test", "pattern": "ha", "worker_nodes": 1,
        "node_size": "small", "worker_size": "small",
    });
    let first = world.submit("provision-vms", Uuid::new_v4(), request(1)).await;
    let second = world.submit("provision-vms", Uuid::new_v4(), other).await;
    assert_succeeded(&world.rest(first).await);
    assert_succeeded(&world.rest(second).await);
    for key in ["vm_id", "ip", "mac", "smbios_uuid", "hostname"] {
        let nodes = world.handoffs("vm_provisioned");
        let mut values: Vec<String> =
            nodes.iter().flat_map(|h| h["nodes"].as_array().unwrap()).map(|node| node[key].to_string()).collect();
        values.sort();
        values.dedup();
        assert_eq!(values.len(), 8, "{key}");
    }
}

#[tokio::test]
async fn check_names_a_missing_right_and_content_type_with_the_line_that_mends_it() {
    let world = World::start(251, |options| {
        options.users[0].privileges.retain(|privilege| privilege != "Datastore.AllocateTemplate");
        options.storages[0].content.retain(|content| content != "import");
    })
    .await;
    let problems = check::check(&world.deps.proxmox, &world.deps.sections).await;
    let text = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(text.contains("lacks Datastore.AllocateTemplate on /storage/local\n    mend: pveum role add"), "{text}");
    assert!(text.contains("pvesm set local --content"), "{text}");
    let whole = World::start(252, |_| {}).await;
    assert_eq!(check::check(&whole.deps.proxmox, &whole.deps.sections).await, Vec::new());
}
