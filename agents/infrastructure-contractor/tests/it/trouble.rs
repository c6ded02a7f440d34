//! What goes wrong between us and Proxmox VE, and what becomes of it.

use engine::report::{Report, Status};
use infrastructure_contractor::{check, config::Sections, deps};
use proxmox::{VmId, form::Params, storage::Download};
use reqwest::Method;
use serde_json::json;
use simulators::faults::{Fault, FaultAction};
use uuid::Uuid;

use crate::{
    life::{active, assert_succeeded, request},
    shell::Shell,
    world::{World, mirror_url},
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
async fn a_call_that_was_carried_out_and_answered_by_the_proxy_makes_nothing_twice() {
    let world = World::start(207, |_| {}).await;
    for call in ["pve POST /nodes/*/qemu", "pve POST /nodes/*/qemu/*/status/start"] {
        let late = FaultAction::LateError { code: 596, message: "Connection timed out".into() };
        fault(&world, call, 1, late);
    }
    assert_succeeded(&world.run("provision-vms", Uuid::new_v4(), request(0)).await);
    assert_all_fired(&world);
    assert_eq!(world.proxmox.snapshot().vms.len(), 3);
    assert_eq!(world.keys("vmid/").len(), 3);
    assert_eq!(world.keys("quarantine/"), Vec::<String>::new());
}

#[tokio::test]
async fn lost_replies_while_machines_are_protected_and_taken_away_leave_nothing() {
    let world = World::start(209, |_| {}).await;
    fault(&world, "pve PUT /nodes/*/qemu/*/config", 2, FaultAction::DropReply);
    let created = active(&world, Uuid::new_v4()).await;
    assert_all_fired(&world);
    let is_last = |node: &&serde_json::Value| node["hostname"] == "prod-worker-2";
    let last = created["nodes"].as_array().unwrap().iter().find(is_last).unwrap();
    let removed = json!({
        "handoff_type": "node_removed", "cluster_name": "prod", "cluster_uid": created["cluster_uid"],
        "nodes": [{ "hostname": last["hostname"], "node_uid": last["node_uid"], "pool": "worker" }],
    });
    lose_replies_of_a_destruction(&world);
    assert_succeeded(&world.run("release-vms", Uuid::new_v4(), removed).await);
    assert_all_fired(&world);
    assert_eq!(world.proxmox.snapshot().vms.len(), 4, "that one, and no other");
    assert_eq!(world.keys("vm/").len(), 4);

    lose_replies_of_a_destruction(&world);
    let gone = json!({ "handoff_type": "cluster_removed", "cluster_name": "prod" });
    assert_succeeded(&world.run("destroy-cluster", Uuid::new_v4(), gone).await);
    assert_all_fired(&world);
    assert_clean(&world);
}

fn lose_replies_of_a_destruction(world: &World) {
    world.proxmox.faults().clear();
    for call in ["PUT /nodes/*/qemu/*/config", "POST /nodes/*/qemu/*/status/stop", "DELETE /nodes/*/qemu/*"] {
        fault(world, &format!("pve {call}"), 1, FaultAction::DropReply);
    }
}

#[track_caller]
fn assert_all_fired(world: &World) {
    let rules = world.proxmox.faults().rules();
    assert!(rules.iter().all(|rule| rule.fired > 0), "each fault has hit a call: {rules:?}");
}

#[tokio::test]
async fn a_storage_that_fills_up_while_a_machine_is_made_is_waited_for_and_nothing_half_made_is_left() {
    let world = World::start(208, |_| {}).await;
    fault(&world, "pve task qmcreate *", 2, fail("unable to create VM 101 - not enough free space (4096 < 20971520)"));
    let run = world.submit("provision-vms", Uuid::new_v4(), request(0)).await;
    let full = |report: &Report| {
        let mut reasons = report.steps.iter().filter_map(|step| step.reason.as_deref());
        reasons.any(|reason| reason.contains("not enough free space (4096 < 20971520)"))
    };
    let waiting = world.wait(run, full).await;
    let quarantined = world.keys("quarantine/");
    assert_eq!(quarantined, Vec::<String>::new(), "the id is good still");
    world.until(|seen| seen.vms.values().all(|vm| !vm.config.contains_key("lock"))).await;
    assert_eq!(world.proxmox.snapshot().vms.len(), 2, "the others are made");
    world.driver.cancel(waiting.flow, "test").await.unwrap();
    let ended = world.rest(run).await;
    assert!(matches!(ended.status, Status::Cancelled | Status::Undone), "{:?}", ended.status);
    assert_clean(&world);
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
    let quick = |sections: &mut Sections| sections.placement.look_again_seconds = 1;
    let world = World::start_with(249, |_| {}, quick).await;
    world.proxmox.cut_host("pve1");
    world.proxmox.set_foreign_use("local-lvm", 1000 << 30);
    let run = world.submit("provision-vms", Uuid::new_v4(), request(0)).await;
    let waiting = world.wait(run, |report| report.waits_for.is_some()).await;
    let reason = waiting.waits_for.unwrap();
    assert!(reason.contains("pve1 is offline") && reason.contains("pve2 lacks"), "{reason}");
    assert!(world.keys("").is_empty(), "nothing is held while it waits");
    world.proxmox.set_foreign_use("local-lvm", 0);
    assert_succeeded(&world.rest(run).await);
    assert!(world.proxmox.snapshot().vms.values().all(|vm| vm.host != "pve1"), "that host is still off");
    assert_eq!(world.proxmox.snapshot().vms.len(), 3);
}

#[tokio::test]
async fn clusters_asked_for_at_once_share_the_room_and_the_rest_of_them_wait() {
    let all_of_it = |sections: &mut Sections| sections.placement.storage_headroom_percent = 0;
    let world = World::start_with(250, |_| {}, all_of_it).await;
    for host in ["pve2", "pve3"] {
        assert!(world.proxmox.set_host_maintenance(host, true));
    }
    // Disks of 20 GiB: there is room for five.
    world.proxmox.set_foreign_use("local-lvm", 890 << 30);
    let mut runs = Vec::new();
    for number in 0..8 {
        let one = json!({
            "request_type": "provision_cluster", "cluster_name": format!("edge-{number}"), "pattern": "single",
            "node_size": "small",
        });
        runs.push(world.submit("provision-vms", Uuid::new_v4(), one).await);
    }
    let mut waiting = Vec::new();
    for run in runs {
        let no_room = |report: &Report| report.waits_for.clone().filter(|reason| reason.contains("no host has room"));
        let report = world.wait(run, |report| report.status == Status::Succeeded || no_room(report).is_some()).await;
        waiting.extend(no_room(&report));
    }
    assert_eq!(waiting.len(), 3, "{waiting:#?}");
    assert!(waiting.iter().all(|reason| reason.contains("pve1 lacks 10.0 GiB")), "{waiting:#?}");
    assert_eq!(world.proxmox.snapshot().vms.len(), 5);
    assert_eq!(world.keys("vmid/").len(), 5);
}

#[tokio::test]
async fn a_run_that_waits_for_room_can_be_cancelled_and_holds_nothing() {
    let world = World::start(238, |_| {}).await;
    world.proxmox.fill_storage("local-lvm");
    let run = world.submit("provision-vms", Uuid::new_v4(), request(0)).await;
    let waiting = world.wait(run, |report| report.waits_for.is_some()).await;
    world.driver.cancel(waiting.flow, "test").await.unwrap();
    let ended = world.rest(run).await;
    assert!(matches!(ended.status, Status::Cancelled | Status::Undone), "{:?}", ended.status);
    assert_clean(&world);
}

#[tokio::test]
async fn a_host_in_maintenance_gets_nothing_and_check_says_so() {
    let world = World::start(240, |_| {}).await;
    assert!(world.proxmox.set_host_maintenance("pve1", true));
    assert_succeeded(&world.run("provision-vms", Uuid::new_v4(), request(1)).await);
    assert!(world.proxmox.snapshot().vms.values().all(|vm| vm.host != "pve1"));
    let problems = check::check(&world.deps.proxmox, &world.deps.sections).await;
    assert_eq!(problems.iter().map(|p| p.what.as_str()).collect::<Vec<_>>(), ["host pve1 is in maintenance"]);
}

#[tokio::test]
async fn the_certificate_that_the_hypervisor_shows_is_watched() {
    let world = World::start(232, |_| {}).await;
    assert_eq!(deps::server_certificates(&world.deps.proxmox), [], "nobody was asked yet");
    world.deps.proxmox.version().await.unwrap();
    let [shown] = deps::server_certificates(&world.deps.proxmox).try_into().unwrap();
    assert_eq!(shown.dates.fingerprint, world.proxmox.fingerprint().replace(':', "").to_lowercase());
    assert!(shown.object.starts_with("the Proxmox API at https://127.232.0.1:"), "{}", shown.object);
}

#[tokio::test]
async fn disks_on_one_shared_storage_wait_for_each_other_whatever_their_hosts() {
    let one = |sections: &mut Sections| {
        sections.machines.storage = "shared".into();
        sections.proxmox.parallel_per_storage = 1;
    };
    let world = World::start_with(241, |_| {}, one).await;
    let held = world.proxmox.faults();
    held.add(Fault::always("pve POST /nodes/*/qemu", FaultAction::Delay { milliseconds: 300 }));
    let run = world.submit("provision-vms", Uuid::new_v4(), request(0)).await;
    let limit = "limit storage/shared: 1 at work already";
    world.wait(run, |report| report.waits_for.as_deref() == Some(limit)).await;
    assert_succeeded(&world.rest(run).await);
    let hosts: std::collections::BTreeSet<_> = world.proxmox.snapshot().vms.into_values().map(|vm| vm.host).collect();
    assert_eq!(hosts.len(), 3, "they are on three hosts");
}

#[tokio::test]
async fn a_machine_that_moved_before_its_host_died_is_found_where_it_is() {
    let shared = |sections: &mut Sections| sections.machines.storage = "shared".into();
    let world = World::start_with(227, |_| {}, shared).await;
    assert_succeeded(&world.run("provision-vms", Uuid::new_v4(), request(0)).await);
    let node = world.handoffs("vm_provisioned").pop().unwrap()["nodes"][0].clone();
    let (vmid, host) = (node["vm_id"].as_str().unwrap(), node["host"].as_str().unwrap());
    let target = if host == "pve1" { "pve2" } else { "pve1" };
    let form = [("target", target), ("online", "1")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let path = format!("/nodes/{host}/qemu/{vmid}/migrate");
    let (status, text) = Shell::open(&world).await.call(Method::POST, &path, &form).await;
    assert!(status.is_success(), "{text}");
    let vmid: u32 = vmid.parse().unwrap();
    world.until(|seen| seen.vms[&vmid].host == target && !seen.vms[&vmid].config.contains_key("lock")).await;
    assert!(world.proxmox.cut_host(host));
    let removed = json!({
        "handoff_type": "node_removed", "cluster_name": "prod", "nodes": [{ "hostname": node["hostname"] }],
    });
    assert_succeeded(&world.run("release-vms", Uuid::new_v4(), removed).await);
    assert!(!world.proxmox.snapshot().vms.contains_key(&vmid));
}

#[tokio::test]
async fn an_address_that_somebody_uses_already_is_passed_over() {
    let world = World::start(253, |_| {}).await;
    let _squatter = tokio::net::TcpListener::bind("127.253.1.12:50000").await.unwrap();
    assert_succeeded(&world.run("provision-vms", Uuid::new_v4(), request(0)).await);
    let handoff = world.handoffs("vm_provisioned").pop().unwrap();
    let addresses: Vec<_> = handoff["nodes"].as_array().unwrap().iter().map(|node| node["ip"].clone()).collect();
    assert_eq!(addresses, ["127.253.1.13", "127.253.1.14", "127.253.1.15"], "after the VIP, one excluded, one in use");
}

#[tokio::test]
async fn a_file_that_is_not_the_image_is_not_booted() {
    let world = World::start(226, |_| {}).await;
    assert_succeeded(&world.run("provision-vms", Uuid::new_v4(), request(0)).await);
    let removed = json!({ "handoff_type": "cluster_removed", "cluster_name": "prod" });
    assert_succeeded(&world.run("destroy-cluster", Uuid::new_v4(), removed).await);
    let (root, patience) = (world.root(), std::time::Duration::from_secs(20));
    let file = root.volumes("pve1", "local", "import").await.unwrap().remove(0).volid;
    let upid = root.delete_volume("pve1", "local", &file).await.unwrap().unwrap();
    root.wait_for_task(&upid, patience).await.unwrap();
    let other = Download {
        url: format!("{}/image/another/v1.13.9/nocloud-amd64.qcow2", mirror_url(&world)),
        file_name: file.rsplit('/').next().unwrap().to_owned(),
        content: "import".into(),
        sha256: None,
        verify_certificates: false,
    };
    let upid = root.download_url("pve1", "local", &other).await.unwrap();
    root.wait_for_task(&upid, patience).await.unwrap();
    let report = world.run("provision-vms", Uuid::new_v4(), request(0)).await;
    assert_eq!(report.status, Status::Undone, "{report:#?}");
    let failure = report.failure.unwrap().error;
    assert!(failure.message.contains("checksum mismatch: got"), "{}", failure.message);
    assert!(failure.hint.unwrap().contains("pvesm free"));
    assert_clean(&world);
}

/// Its hash would be taken from the line that it comes over.
#[tokio::test]
async fn an_image_that_nobody_pinned_is_not_taken_from_another_machine_unencrypted() {
    let open = |sections: &mut Sections| sections.images.factory = "http://192.0.2.1:8080".to_owned();
    let world = World::start_with(218, |_| {}, open).await;
    let report = world.run("provision-vms", Uuid::new_v4(), request(0)).await;
    assert_eq!(report.status, Status::Undone, "{report:#?}");
    let failure = report.failure.unwrap().error;
    assert!(failure.message.contains("http://192.0.2.1:8080/image/"), "{}", failure.message);
    assert!(failure.message.contains("is not encrypted"), "{}", failure.message);
    assert!(failure.hint.unwrap().contains("images.checksums"));
    assert_clean(&world);
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
