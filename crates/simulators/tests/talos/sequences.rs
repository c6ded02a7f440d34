//! Reboot, reset, shutdown and recovery as their callers see them.

use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use simulators::machine::{Machines as _, Power};
use talos::api::{Happening, ResetOptions};
use talos::config::generate::Role;
use talos::pki;
use talos::proto::common::Data;
use talos::proto::machine::machine_service_client::MachineServiceClient;
use talos::proto::machine::{BootstrapRequest, EtcdSnapshotRequest, sequence_event};

use crate::harness::{Lab, bootstrap, channel, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reboot_is_told_by_events_and_ends_in_another_boot() {
    let lab = Lab::new("v1.13.9");
    lab.join(lab.machine(1, "v1.13.9"), 1, Role::ControlPlane).await;
    let client = lab.secure(1).await;
    bootstrap(&client).await;
    lab.running(1).await;
    let before = client.boot_id().await.unwrap();
    let mut events = client.events(0, None).await.unwrap();
    assert!(matches!(events.next().await.unwrap().unwrap().happening, Happening::Hello));
    let actor = client.reboot().await.unwrap();
    let mut seen = Vec::new();
    while let Some(Ok(event)) = events.next().await {
        match event.happening {
            Happening::Sequence(sequence) if event.actor == actor => {
                seen.push((sequence.sequence.clone(), sequence.action()))
            }
            Happening::Task(task) if event.actor == actor => seen.push((task.task, sequence_event::Action::Noop)),
            _ => {}
        }
    }
    assert_eq!(seen[0], ("reboot".to_owned(), sequence_event::Action::Start));
    assert!(seen.iter().any(|(task, _)| task == "stopAllServices"));
    let again = lab.secure(1).await;
    lab.running(1).await;
    assert_ne!(again.boot_id().await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_reset_leaves_etcd_and_switches_the_machine_off() {
    let lab = Lab::new("v1.13.9");
    let changes: Arc<Mutex<Vec<(u32, Power)>>> = Arc::default();
    let heard = Arc::clone(&changes);
    lab.nodes.set_power_listener(Arc::new(move |vmid, power| heard.lock().unwrap().push((vmid, power))));
    lab.cluster("v1.13.9", 1).await;
    let first = lab.secure(1).await;
    let third = lab.secure(3).await;
    let options = ResetOptions { graceful: true, reboot: false, partitions: Vec::new() };
    third.reset(&options).await.unwrap();
    until("the machine is off", || async { changes.lock().unwrap().contains(&(103, Power::Off)).then_some(()) }).await;
    assert_eq!(first.etcd_members(false).await.unwrap().len(), 2);
    // Wiping STATE and EPHEMERAL brings a worker back to maintenance.
    let partitions = vec!["STATE".to_owned(), "EPHEMERAL".to_owned()];
    let options = ResetOptions { graceful: true, reboot: true, partitions };
    lab.secure(4).await.reset(&options).await.unwrap();
    lab.maintenance(4).await;
    lab.secure(2).await.shutdown(true).await.unwrap();
    until("the machine is off", || async { changes.lock().unwrap().contains(&(102, Power::Off)).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_brings_a_wiped_cluster_back() {
    let lab = Lab::new("v1.13.9");
    lab.join(lab.machine(1, "v1.13.9"), 1, Role::ControlPlane).await;
    bootstrap(&lab.secure(1).await).await;
    lab.running(1).await;
    let admin = lab.credentials(pki::Role::Admin);
    let mut machine = MachineServiceClient::new(channel(&lab, 1, &admin).await);
    let mut frames = machine.etcd_snapshot(EtcdSnapshotRequest {}).await.unwrap().into_inner();
    let mut snapshot = Vec::new();
    while let Some(frame) = frames.message().await.unwrap() {
        snapshot.extend_from_slice(&frame.bytes);
    }
    assert_eq!(snapshot.len() % 512, 32);

    let options = ResetOptions { graceful: false, reboot: true, partitions: vec!["EPHEMERAL".to_owned()] };
    lab.secure(1).await.reset(&options).await.unwrap();
    until("the node went away", || async { lab.nodes.guest(101)?.state.contains("starting").then_some(()) }).await;
    let client = lab.secure(1).await;
    let mut machine = MachineServiceClient::new(channel(&lab, 1, &admin).await);
    until("the snapshot is taken", || async {
        let chunks: Vec<Data> =
            snapshot.chunks(4096).map(|chunk| Data { metadata: None, bytes: chunk.to_vec().into() }).collect();
        let mut machine = machine.clone();
        machine.etcd_recover(futures::stream::iter(chunks)).await.ok()
    })
    .await;
    machine.bootstrap(BootstrapRequest { recover_etcd: true, recover_skip_hash_check: false }).await.unwrap();
    lab.running(1).await;
    assert_eq!(client.etcd_members(true).await.unwrap().len(), 1);
}
