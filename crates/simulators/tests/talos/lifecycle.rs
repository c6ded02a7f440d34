//! From power-on to a cluster, and what may go wrong on the way.

use secrecy::ExposeSecret as _;
use simulators::machine::{DiskContent, Machines as _};
use talos::api::{ApplyMode, cosi};
use talos::config::generate::Role;

use crate::harness::{DISK_BYTES, Lab, bootstrap, image, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_control_planes_and_workers_become_one_cluster() {
    let lab = Lab::new("v1.13.9");
    lab.cluster("v1.13.9", 2).await;
    let first = lab.secure(1).await;
    let members = until("three voters", || async {
        let members = first.etcd_members(false).await.ok()?;
        (members.len() == 3 && members.iter().all(|member| !member.is_learner)).then_some(members)
    })
    .await;
    let mut names: Vec<_> = members.iter().map(|member| member.hostname.clone()).collect();
    names.sort();
    assert_eq!(names, ["demo-1", "demo-2", "demo-3"]);
    let again = first.bootstrap().await.unwrap_err().to_string();
    assert!(again.contains("etcd data directory is not empty"), "{again}");
    let worker = lab.secure(4).await.bootstrap().await.unwrap_err().to_string();
    assert!(worker.contains("only available on control plane nodes"), "{worker}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_bootstraps_make_two_clusters() {
    let lab = Lab::new("v1.13.9");
    for number in [1, 2] {
        lab.join(lab.machine(number, "v1.13.9"), number, Role::ControlPlane).await;
    }
    let (first, second) = (lab.secure(1).await, lab.secure(2).await);
    let (one, two) = tokio::join!(bootstrap(&first), bootstrap(&second));
    let ((), ()) = (one, two);
    for client in [&first, &second] {
        let members = until("a member list", || async { client.etcd_members(true).await.ok() }).await;
        assert_eq!(members.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_booted_from_an_iso_installs_itself_and_keeps_its_configuration() {
    let lab = Lab::new("v1.13.9");
    let disk = DiskContent::blank();
    let iso = image("talos-v1.13.9-nocloud-amd64.iso", "v1.13.9");
    lab.join(lab.machine_with(1, disk.clone(), Some(iso)), 1, Role::ControlPlane).await;
    let first = lab.secure(1).await;
    assert_eq!(disk.image().unwrap().talos_version.as_deref(), Some("v1.13.9"));
    let before = first.boot_id().await.unwrap();
    bootstrap(&first).await;
    lab.running(1).await;
    // The power goes and comes back without the ISO: configuration and etcd data are on the disk.
    lab.cut(1);
    lab.nodes.power_on(lab.machine_with(1, disk, None));
    let again = lab.secure(1).await;
    lab.running(1).await;
    assert_ne!(again.boot_id().await.unwrap(), before);
    assert_eq!(again.etcd_members(true).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_shows_its_identity_and_hardware_in_maintenance() {
    let lab = Lab::new("v1.13.9");
    lab.nodes.power_on(lab.machine(1, "v1.13.9"));
    let client = lab.maintenance(1).await;
    let system = client.get::<cosi::SystemInformation>("systeminformation").await.unwrap().unwrap();
    assert_eq!(system.spec.uuid, uuid::Uuid::from_u128(0x1001).to_string());
    let disks = client.list::<cosi::Disk>().await.unwrap();
    assert!(disks.iter().any(|disk| disk.spec.dev_path == "/dev/sda" && disk.spec.size == DISK_BYTES));
    let links = client.list::<cosi::LinkStatus>().await.unwrap();
    assert!(links.iter().any(|link| link.id == "ens18" && link.spec.link_state));
    assert_eq!(client.version().await.unwrap().tag, "v1.13.9");
    let refused = client.boot_id().await.unwrap_err().to_string();
    assert!(refused.contains("not authorized"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_with_an_unknown_key_is_refused_and_the_node_stays_in_maintenance() {
    let lab = Lab::new("v1.13.9");
    lab.nodes.power_on(lab.machine(1, "v1.13.9"));
    let client = lab.maintenance(1).await;
    let good = lab.config(1, Role::Worker);
    let bad = good.expose_secret().replacen("machine:\n", "machine:\n    colour: red\n", 1);
    let refused = client.apply_configuration(&bad.into(), ApplyMode::Auto).await.unwrap_err().to_string();
    assert!(refused.contains("unknown keys") && refused.contains("InvalidArgument"), "{refused}");
    client.check_configuration(&good, ApplyMode::Auto).await.unwrap();
    assert_eq!(lab.nodes.guest(101).unwrap().state, "maintenance");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_of_talos_becomes_a_cluster() {
    for version in ["v1.12.11", "v1.14.0-rc.1"] {
        let lab = Lab::new(version);
        lab.cluster(version, 1).await;
        let client = lab.secure(1).await;
        assert_eq!(client.version().await.unwrap().tag, version);
        assert_eq!(client.etcd_members(false).await.unwrap().len(), 3);
        let node = client.get::<cosi::NodeStatus>("demo-1").await.unwrap().unwrap();
        assert!(node.spec.labels.contains_key("node-role.kubernetes.io/control-plane"), "{version}");
    }
}
