//! The client of the Talos API against a node: what each call gives, and what is refused.

use std::time::Duration;

use contractor::action::StepError;
use futures::StreamExt;
use secrecy::ExposeSecret;
use talos::{
    api::{AllowedTargets, Code, Connector, Error, Fingerprint, Happening, ResetOptions, Strange, cosi},
    pki::Role,
    talosconfig::TalosConfig,
};
use talos_contractor::inventory::{self, Node};

use crate::bench::{Bench, CLUSTER};

fn nodes(bench: &Bench) -> Vec<Node> {
    let known = inventory::nodes(&bench.store.reader(), &CLUSTER.parse().unwrap()).unwrap();
    known.into_iter().map(|node| node.value).collect()
}

/// Every read that flows and operators use, on a cluster that stands.
pub(crate) async fn reads(bench: &Bench) {
    let nodes = nodes(bench);
    let (plane, worker) = (&nodes[0], nodes.iter().find(|node| !node.is_control_plane()).unwrap());
    let store = bench.store.reader();
    let admin = bench.deps.node(&store, plane, Role::Admin).await.unwrap();

    assert_eq!(admin.version().await.unwrap().tag, "v1.13.9");
    let worker_uuid = worker.smbios_uuid.unwrap().to_string();
    let forwarded = admin.for_node(worker.ip).get::<cosi::SystemInformation>(cosi::SYSTEM_INFORMATION).await.unwrap();
    assert_eq!(forwarded.unwrap().spec.uuid, worker_uuid);
    assert_eq!(admin.etcd_members(false).await.unwrap().len(), 3);
    assert_ne!(admin.etcd_status().await.unwrap().leader, 0);
    let members = admin.list::<cosi::Member>().await.unwrap();
    assert_eq!(members.len(), nodes.len());
    let name = admin.get::<cosi::Nodename>(cosi::NODENAME).await.unwrap().unwrap();
    assert_eq!(name.spec.nodename, plane.hostname.as_str());
    assert!(admin.get::<cosi::Disk>("nosuchdisk").await.unwrap().is_none());

    let kubeconfig = admin.kubeconfig().await.unwrap();
    assert!(kubeconfig.expose_secret().contains("admin@prod"));
    let issued = admin.generate_client_configuration(&Role::Reader.into(), Duration::from_secs(3600)).await.unwrap();
    let talosconfig = TalosConfig::from_yaml(issued.talosconfig.expose_secret()).unwrap();
    assert!(talosconfig.contexts[&talosconfig.context].credentials.is_some());

    let mut events = admin.events(-1, None).await.unwrap();
    assert!(matches!(events.next().await.unwrap().unwrap().happening, Happening::Hello));
    assert!(!matches!(events.next().await.unwrap().unwrap().happening, Happening::Hello));
    let mut logs = std::pin::pin!(admin.logs("etcd", -1, false).await.unwrap());
    while let Some(line) = logs.next().await {
        line.unwrap();
    }
    let mut dmesg = std::pin::pin!(admin.dmesg(false, false).await.unwrap());
    assert!(!dmesg.next().await.unwrap().unwrap().is_empty());
    assert!(!admin.boot_id().await.unwrap().is_empty());
}

/// A reader may not do what administrators may; a worker does not forward; a second bootstrap is told from a first.
pub(crate) async fn refusals(bench: &Bench) {
    let nodes = nodes(bench);
    let (plane, worker) = (&nodes[0], nodes.iter().find(|node| !node.is_control_plane()).unwrap());
    let store = bench.store.reader();
    let reader = bench.deps.node(&store, plane, Role::Reader).await.unwrap();
    let options = ResetOptions { graceful: false, reboot: true, partitions: Vec::new() };
    assert_eq!(reader.reset(&options).await.unwrap_err().code(), Some(Code::PermissionDenied));
    let admin = bench.deps.node(&store, plane, Role::Admin).await.unwrap();
    assert_eq!(admin.bootstrap().await.unwrap_err().code(), Some(Code::AlreadyExists));
    let other = bench.deps.node(&store, worker, Role::Admin).await.unwrap().for_node(plane.ip);
    assert_eq!(other.version().await.unwrap_err().code(), Some(Code::PermissionDenied));
}

/// Nothing is dialled outside the allowed targets, and a pinned key is compared.
pub(crate) async fn trust(node: std::net::IpAddr) {
    let nowhere = Connector::new(AllowedTargets::default());
    assert!(matches!(nowhere.maintenance(node, None).await, Err(Error::Forbidden { .. })));
    let connector = Connector::new(AllowedTargets::loopback());
    let client = connector.maintenance(node, None).await.unwrap();
    assert!(!client.list::<cosi::Disk>().await.unwrap().is_empty());
    let wrong: Fingerprint = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".parse().unwrap();
    let refused = connector.maintenance(node, Some(wrong)).await;
    assert!(matches!(refused, Err(Error::Stranger { strange: Strange::Key, .. })), "{refused:?}");
    let error = talos_contractor::failure::reached(nowhere.maintenance(node, None).await.unwrap_err());
    assert!(matches!(error, StepError::Fail(failure) if failure.hint.is_some()));
}
