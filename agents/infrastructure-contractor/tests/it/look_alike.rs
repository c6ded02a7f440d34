//! VMs that carry part of a machine's proof: never touched, and nothing is made beside them.

use std::collections::BTreeMap;

use engine::report::{Report, Status};
use proxmox::{VmId, form::Params};
use simulators::faults::{Fault, FaultAction};
use uuid::Uuid;

use crate::{
    life::{assert_succeeded, request},
    world::{World, stranger},
};

/// The id that the first control plane gets.
const FIRST: u32 = 100;

/// From the `nth` of these calls on, whoever has to answer seems to be gone.
fn hold(world: &World, call: &str, nth: u64) {
    let action = FaultAction::Error { code: 595, message: "No route to host".into(), empty_body: true };
    world.proxmox.faults().add(Fault { call: call.to_owned(), nth, times: None, action });
}

/// A run that has reserved its three machines and cannot find out yet whether their ids are free.
async fn reserved(net: u8) -> (World, Uuid) {
    let world = World::start(net, |_| {}).await;
    hold(&world, "pve GET /cluster/nextid", 4);
    let run = world.submit("provision-vms", Uuid::new_v4(), request(0)).await;
    world.wait(run, |report| step(report).is_some_and(|waits| waits.contains("No route to host"))).await;
    (world, run)
}

/// A run that is interrupted between making the first machine and recording that it was made.
async fn interrupted(net: u8, reply_lost: bool) -> (World, Uuid) {
    let world = World::start(net, |_| {}).await;
    hold(&world, &format!("pve GET /nodes/*/qemu/{FIRST}/config"), 2);
    if reply_lost {
        world.proxmox.faults().add(Fault::once("pve POST /nodes/*/qemu", FaultAction::DropReply));
    }
    let run = world.submit("provision-vms", Uuid::new_v4(), request(0)).await;
    world.wait(run, |report| step(report).is_some_and(|waits| waits.contains("No route to host"))).await;
    world.until(|seen| seen.vms.get(&FIRST).is_some_and(|vm| !vm.config.contains_key("lock"))).await;
    (world, run)
}

/// What the first machine's creation waits for.
fn step(report: &Report) -> Option<&str> {
    let step = report.steps.iter().find(|step| step.step.ends_with("create[prod-cp-1]"))?;
    step.reason.as_deref()
}

fn config(world: &World, vmid: u32) -> BTreeMap<String, String> {
    world.proxmox.snapshot().vms[&vmid].config.clone()
}

/// Somebody puts back what tells whose the first machine's VM is.
async fn restore(world: &World, host: &str, before: &BTreeMap<String, String>) {
    let mut params = Params::default();
    for name in ["name", "description", "tags", "smbios1", "net0"] {
        params.push(name, &before[name]);
    }
    world.root().set_vm_config(host, VmId(FIRST), &params, None).await.unwrap();
}

/// Somebody changes the VM while its making is interrupted; then it goes on.
async fn changed_meanwhile(net: u8, reply_lost: bool, change: Params, words: &[&str]) {
    let (world, run) = interrupted(net, reply_lost).await;
    let before = config(&world, FIRST);
    let host = world.proxmox.snapshot().vms[&FIRST].host.clone();
    world.root().set_vm_config(&host, VmId(FIRST), &change, None).await.unwrap();
    let changed = config(&world, FIRST);
    world.proxmox.faults().clear();
    let report = world.rest(run).await;
    assert_eq!(report.status, Status::Stuck, "an operator must look: {report:#?}");
    let message = report.failure.unwrap().error.message;
    for words in words.iter().chain(&["carries", "no second VM was made"]) {
        assert!(message.contains(words), "{words}: {message}");
    }
    let seen = world.proxmox.snapshot();
    assert_eq!(seen.vms.keys().copied().collect::<Vec<_>>(), [FIRST], "no second one, and the others were taken back");
    assert_eq!(config(&world, FIRST), changed, "it was not touched");
    assert!(world.keys("quarantine/").contains(&format!("quarantine/vmid/{FIRST}")));

    restore(&world, &host, &before).await;
    world.driver.resume(run, "test").await.unwrap();
    let report = world.wait(run, |report| report.status == Status::Undone).await;
    assert_eq!(report.status, Status::Undone);
    assert!(world.proxmox.snapshot().vms.is_empty(), "once it is proven again it is taken back");
}

#[tokio::test]
async fn a_vm_whose_tags_are_stripped_while_it_is_made_gets_no_second_one_beside_it() {
    let change = Params::default().with("delete", "tags");
    changed_meanwhile(231, false, change, &["tag of the node is absent", "SMBIOS UUID"]).await;
}

#[tokio::test]
async fn a_vm_whose_uuid_is_changed_while_it_is_made_gets_no_second_one_beside_it() {
    let change = Params::default().with("smbios1", "uuid=00000000-0000-4000-8000-000000000000");
    changed_meanwhile(232, true, change, &["SMBIOS UUID is 00000000-0000-4000-8000-000000000000"]).await;
}

#[tokio::test]
async fn a_vm_that_only_its_name_tells_gets_no_second_one_beside_it() {
    let change = Params::default()
        .with("delete", "tags,description,smbios1")
        .with("net0", "virtio=BC:24:11:FF:FF:FF,bridge=vmbr0");
    changed_meanwhile(233, true, change, &["carries name of prod-cp-1", "MAC of net0 is BC:24:11:FF:FF:FF"]).await;
}

#[tokio::test]
async fn a_vm_that_only_its_mac_tells_gets_no_second_one_beside_it() {
    let change = Params::default().with("delete", "tags,description,smbios1").with("name", "renamed");
    changed_meanwhile(234, false, change, &["carries MAC of prod-cp-1"]).await;
}

#[tokio::test]
async fn a_vm_whose_reply_was_lost_and_that_nothing_tells_any_more_is_not_forgotten() {
    let (world, run) = interrupted(218, true).await;
    let before = config(&world, FIRST);
    let host = world.proxmox.snapshot().vms[&FIRST].host.clone();
    let change = Params::default()
        .with("delete", "tags,description,smbios1")
        .with("name", "renamed")
        .with("net0", "virtio=BC:24:11:FF:FF:FF,bridge=vmbr0");
    world.root().set_vm_config(&host, VmId(FIRST), &change, None).await.unwrap();
    let changed = config(&world, FIRST);
    world.proxmox.faults().clear();
    let report = world.rest(run).await;
    assert_eq!(report.status, Status::Stuck, "an operator must look: {report:#?}");
    assert_eq!(config(&world, FIRST), changed, "it was not touched");
    assert!(world.keys("vmid/").contains(&format!("vmid/{FIRST}")), "its id is not given back");

    restore(&world, &host, &before).await;
    world.driver.resume(run, "test").await.unwrap();
    world.wait(run, |report| report.status == Status::Undone).await;
    assert!(world.proxmox.snapshot().vms.is_empty(), "once it is proven again it is taken back");
}

#[tokio::test]
async fn a_namesake_under_another_id_stops_the_making_and_is_left_alone() {
    let (world, run) = reserved(235).await;
    world.create(&stranger(900, "prod-cp-1", Some("cortex"))).await;
    let theirs = config(&world, 900);
    world.proxmox.faults().clear();
    let report = world.rest(run).await;
    assert_eq!(report.status, Status::Undone, "{report:#?}");
    let message = report.failure.unwrap().error.message;
    assert!(message.contains("VM 900 on pve1 carries name of prod-cp-1"), "{message}");
    assert_eq!(world.proxmox.snapshot().vms.keys().copied().collect::<Vec<_>>(), [900]);
    assert_eq!(config(&world, 900), theirs);
    assert_eq!(world.keys(""), Vec::<String>::new());

    let root = world.root();
    world.until_async(async || root.locate_vm(VmId(900)).await.unwrap().unwrap().name.is_some()).await;
    let report = world.run("provision-vms", Uuid::new_v4(), request(0)).await;
    let message = report.failure.unwrap().error.message;
    assert!(message.contains("VM 900 on pve1 is called prod-cp-1 already and is not ours"), "{message}");
}

/// A stranger takes the reserved id before the machine is made: another id, and the stranger is left alone.
async fn taken_by_stranger(net: u8, pool: Option<&str>) {
    let (world, run) = reserved(net).await;
    world.create(&stranger(FIRST, "somebody-elses", pool)).await;
    let theirs = config(&world, FIRST);
    world.proxmox.faults().clear();
    assert_succeeded(&world.rest(run).await);
    assert_eq!(config(&world, FIRST), theirs, "it was not touched");
    assert_eq!(world.proxmox.snapshot().vms.len(), 4);
    assert_eq!(world.keys("quarantine/"), [format!("quarantine/vmid/{FIRST}")]);
    let handoff = world.handoffs("vm_provisioned").pop().unwrap();
    let ids: Vec<_> = handoff["nodes"].as_array().unwrap().iter().map(|node| node["vm_id"].as_str().unwrap()).collect();
    assert!(!ids.contains(&"100"), "{ids:?}");
}

#[tokio::test]
async fn a_stranger_that_we_can_see_keeps_the_id_that_it_took() {
    taken_by_stranger(236, Some("cortex")).await;
}

#[tokio::test]
async fn a_stranger_that_we_cannot_see_keeps_the_id_that_it_took() {
    taken_by_stranger(237, None).await;
}

#[tokio::test]
async fn when_a_flow_fails_that_left_its_id_to_a_stranger_neither_id_stays_taken() {
    let (world, run) = reserved(231).await;
    world.create(&stranger(FIRST, "somebody-elses", Some("cortex"))).await;
    world.proxmox.faults().clear();
    // The machine that takes another id is not made under it.
    let never = "pve task qmcreate 103=error:500:unable to create VM - bad option";
    world.proxmox.faults().add(Fault::parse(never).unwrap());
    let report = world.rest(run).await;
    assert_eq!(report.status, Status::Undone, "{report:#?}");
    assert!(report.failure.unwrap().error.message.contains("bad option"));
    assert_eq!(world.proxmox.snapshot().vms.keys().copied().collect::<Vec<_>>(), [FIRST]);
    assert_eq!(world.keys(""), [format!("quarantine/vmid/{FIRST}")]);
}
