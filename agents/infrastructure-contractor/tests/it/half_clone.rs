//! Clones that have not been given their hardware yet: ours by the nonce that they were asked for with, and by nothing less.

use std::{collections::BTreeMap, time::Duration};

use engine::report::{Report, Status};
use infrastructure_contractor::{inventory::Vm, ownership};
use proxmox::{VmId, form::Params};
use serde_json::{Value, json};
use simulators::faults::{Fault, FaultAction};
use uuid::Uuid;

use crate::{
    life::assert_succeeded,
    template::{TEMPLATE, with_template},
    world::{World, stranger},
};

/// The id that the first control plane gets.
const FIRST: u32 = 100;

/// A cluster without workers, of the image that the template has.
fn request(pattern: &str) -> Value {
    json!({
        "request_type": "provision_cluster", "cluster_name": "prod", "pattern": pattern, "worker_nodes": 0,
        "node_size": "small", "storage_backend": "local-path",
    })
}

/// From the `nth` of these calls on, whoever has to answer seems to be gone.
fn hold(world: &World, call: &str, nth: u64) {
    let action = FaultAction::Error { code: 595, message: "No route to host".into(), empty_body: true };
    world.proxmox.faults().add(Fault { call: call.to_owned(), nth, times: None, action });
}

fn waits(report: &Report) -> bool {
    let step = report.steps.iter().find(|step| step.step.ends_with("create[prod-cp-1]"));
    step.and_then(|step| step.reason.as_deref()).is_some_and(|reason| reason.contains("No route to host"))
}

/// A run that has reserved its three machines and has not asked for one of them.
async fn reserved(net: u8) -> (World, Uuid) {
    let world = with_template(net).await;
    hold(&world, "pve GET /cluster/nextid", 4);
    let run = world.submit("provision-vms", Uuid::new_v4(), request("ha")).await;
    world.wait(run, waits).await;
    (world, run)
}

/// A run whose first machine is cloned and has not been given its hardware.
async fn half_cloned(net: u8) -> (World, Uuid) {
    let world = with_template(net).await;
    hold(&world, &format!("pve GET /nodes/*/qemu/{FIRST}/config"), 2);
    let run = world.submit("provision-vms", Uuid::new_v4(), request("ha")).await;
    world.wait(run, waits).await;
    world.until(|seen| seen.vms.get(&FIRST).is_some_and(|vm| !vm.config.contains_key("lock"))).await;
    let half = config(&world, FIRST);
    assert!(half["description"].contains("cortex-clone: ") && !half.contains_key("ipconfig0"), "{half:?}");
    (world, run)
}

async fn cancel(world: &World, run: Uuid) {
    let flow = world.driver.report(run).unwrap().unwrap().flow;
    world.driver.cancel(flow, "test").await.unwrap();
}

fn config(world: &World, vmid: u32) -> BTreeMap<String, String> {
    world.proxmox.snapshot().vms[&vmid].config.clone()
}

/// What the machine's VM will say of itself, as everybody may read it on its siblings and work it out.
fn description(world: &World) -> String {
    let rows = world.deps.store.reader().scan::<Vm>("vm/").unwrap();
    let machine = rows.into_iter().map(|row| row.value.machine).find(|machine| machine.vmid == FIRST).unwrap();
    ownership::description(&machine)
}

/// Somebody makes a VM with our machine's description under its id, which we have not asked for.
async fn place_copy(world: &World) -> BTreeMap<String, String> {
    let mut copy = stranger(FIRST, "prod-cp-1", Some("cortex"));
    copy.description = description(world);
    world.create(&copy).await;
    config(world, FIRST)
}

#[track_caller]
fn assert_untouched(world: &World, report: &Report, before: &BTreeMap<String, String>, words: &[&str]) {
    assert_eq!(report.status, Status::Stuck, "an operator must look: {report:#?}");
    let told = format!("{:?} {:?}", report.failure, report.steps);
    for words in words {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert_eq!(&config(world, FIRST), before, "it was not touched");
    let left: Vec<u32> = world.proxmox.snapshot().vms.into_keys().collect();
    assert_eq!(left, [FIRST, TEMPLATE], "the others were taken back");
}

#[tokio::test]
async fn a_copy_of_the_description_makes_no_half_clone_of_ours() {
    let (world, run) = reserved(210).await;
    let theirs = place_copy(&world).await;
    world.proxmox.faults().clear();
    let report = world.rest(run).await;
    assert_untouched(&world, &report, &theirs, &["carries node uid in the description", "was not touched"]);
}

#[tokio::test]
async fn an_undo_before_anything_was_asked_for_takes_no_copy_away() {
    let (world, run) = reserved(211).await;
    let theirs = place_copy(&world).await;
    cancel(&world, run).await;
    world.proxmox.faults().clear();
    let report = world.rest(run).await;
    assert_untouched(&world, &report, &theirs, &["was not touched"]);
}

#[tokio::test]
async fn a_half_clone_that_somebody_switched_on_is_left_alone() {
    let (world, run) = half_cloned(212).await;
    let host = world.proxmox.snapshot().vms[&FIRST].host.clone();
    let root = world.root();
    let upid = root.start_vm(&host, VmId(FIRST)).await.unwrap();
    root.wait_for_task(&upid, Duration::from_secs(20)).await.unwrap();
    let before = config(&world, FIRST);
    let process = world.proxmox.vm_process(FIRST);
    world.proxmox.faults().clear();
    let report = world.rest(run).await;
    assert_untouched(&world, &report, &before, &["power is on, not off"]);
    assert!(process.is_some() && world.proxmox.vm_process(FIRST) == process, "it runs on");
}

#[tokio::test]
async fn a_half_clone_whose_nonce_somebody_took_away_is_left_alone() {
    let (world, run) = half_cloned(213).await;
    let host = world.proxmox.snapshot().vms[&FIRST].host.clone();
    let half = config(&world, FIRST)["description"].clone();
    let root = world.root();
    let without = Params::default().with("description", description(&world));
    root.set_vm_config(&host, VmId(FIRST), &without, None).await.unwrap();
    let before = config(&world, FIRST);
    world.proxmox.faults().clear();
    let report = world.rest(run).await;
    assert_untouched(&world, &report, &before, &["carries node uid in the description"]);

    root.set_vm_config(&host, VmId(FIRST), &Params::default().with("description", half), None).await.unwrap();
    world.driver.resume(run, "test").await.unwrap();
    world.wait(run, |report| report.status == Status::Undone).await;
    let left: Vec<u32> = world.proxmox.snapshot().vms.into_keys().collect();
    assert_eq!(left, [TEMPLATE], "with its nonce it is taken back");
}

#[tokio::test]
async fn a_half_clone_is_finished_when_the_run_goes_on_and_taken_back_when_it_is_cancelled() {
    let (world, run) = half_cloned(214).await;
    world.proxmox.faults().clear();
    assert_succeeded(&world.rest(run).await);
    assert!(!config(&world, FIRST)["description"].contains("cortex-clone"));
    assert_eq!(world.proxmox.snapshot().vms.len(), 4);

    let (world, run) = half_cloned(215).await;
    cancel(&world, run).await;
    world.proxmox.faults().clear();
    let report = world.rest(run).await;
    assert!(matches!(report.status, Status::Cancelled | Status::Undone), "{report:#?}");
    assert_eq!(world.proxmox.snapshot().vms.into_keys().collect::<Vec<_>>(), [TEMPLATE]);
    assert_eq!(world.keys(""), Vec::<String>::new());
}

#[tokio::test]
async fn a_clone_whose_answer_was_lost_is_known_by_its_nonce() {
    let world = with_template(216).await;
    let lost = ["pve POST /nodes/*/qemu/*/clone#2=drop-reply", "pve PUT /nodes/*/qemu/*/config#2=drop-reply"];
    for fault in lost {
        world.proxmox.faults().add(Fault::parse(fault).unwrap());
    }
    let asked = world.proxmox.faults().add(Fault {
        call: "pve task qmclone *".into(),
        nth: u64::MAX,
        times: None,
        action: FaultAction::DropReply,
    });
    assert_succeeded(&world.run("provision-vms", Uuid::new_v4(), request("ha")).await);
    let rules = world.proxmox.faults().rules();
    assert!(rules.iter().all(|rule| rule.id == asked || rule.fired == 1), "{rules:?}");
    let clones = rules.iter().find(|rule| rule.id == asked).unwrap().seen;
    assert_eq!(clones, 3, "none was asked for twice");
    assert_eq!(world.proxmox.snapshot().vms.len(), 4, "one for each machine, and the template");
    assert_eq!(world.keys("quarantine/"), Vec::<String>::new());
}

#[tokio::test]
async fn a_clone_that_comes_late_is_waited_for_before_another_is_asked_for_and_before_its_machine_is_given_up() {
    let world = with_template(217).await;
    // The answer is lost, and the task has not begun to write.
    for fault in ["pve task qmclone *=hold", "pve POST /nodes/*/qemu/*/clone=drop-reply"] {
        world.proxmox.faults().add(Fault::parse(fault).unwrap());
    }
    let late = |report: &Report| {
        let mut reasons = report.steps.iter().filter_map(|step| step.reason.as_deref());
        reasons.any(|reason| reason.contains("a task of ours still makes VM 100"))
    };
    let run = world.submit("provision-vms", Uuid::new_v4(), request("single")).await;
    world.wait(run, late).await;
    cancel(&world, run).await;
    world.wait(run, |report| report.status == Status::Undoing && late(report)).await;
    let [task, _] = world.proxmox.faults().rules().try_into().unwrap();
    assert_eq!(task.seen, 1, "none was asked for twice");
    world.proxmox.faults().clear();
    let report = world.rest(run).await;
    assert!(matches!(report.status, Status::Cancelled | Status::Undone), "{report:#?}");
    assert_eq!(world.proxmox.snapshot().vms.into_keys().collect::<Vec<_>>(), [TEMPLATE]);
    assert_eq!(world.keys(""), Vec::<String>::new());
}
