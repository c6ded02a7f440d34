//! The whole life of a cluster on simulated Talos nodes, by the shipped playbooks.

use std::collections::BTreeMap;

use engine::report::Status;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::ListParams};
use serde_json::json;
use simulators::machine::Machines as _;
use talos_contractor::{inventory, kept};
use uuid::Uuid;

use crate::{
    bench::{Bench, CLUSTER},
    rack::{Rack, spec, succeeded},
    surface,
};

async fn ready_nodes(bench: &Bench) -> Vec<String> {
    let list = Api::<Node>::all(bench.client().await).list(&ListParams::default()).await.unwrap();
    list.items.into_iter().filter_map(|node| node.metadata.name).collect()
}

/// What is kept sealed is known by its dates, and by nothing else.
fn expect_certificates(bench: &Bench) {
    let now = Timestamp::now();
    let kept = kept::certificates(&bench.store.reader());
    let dated: BTreeMap<&str, i64> = kept.iter().map(|of| (of.object.as_str(), of.dates.days_left(now))).collect();
    let (decade, year) = (3649, 364);
    let wanted = [
        ("the Kubernetes authority", decade),
        ("the Talos API authority", decade),
        ("the aggregation layer's authority", decade),
        ("the etcd authority", decade),
        ("the sealed kubeconfig", year),
        ("the sealed talosconfig", year),
    ];
    assert_eq!(dated, wanted.into());
    assert!(kept.iter().all(|of| of.cluster.as_deref() == Some(CLUSTER) && of.file.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_made_grows_shrinks_and_is_forgotten() {
    let net = 131;
    let bench = Bench::start(net, &[]).await;
    let rack = Rack::new(net);
    let spec = spec("1.13.9", "1.36.3");
    let names = [("prod-cp-1", 10), ("prod-cp-2", 11), ("prod-cp-3", 12), ("prod-worker-1", 13), ("prod-worker-2", 14)];
    let nodes = names.map(|(name, number)| rack.power_on(name, number, "v1.13.9"));
    let report = bench.run("bootstrap-cluster", rack.handoff("create", nodes.into(), &spec)).await;
    succeeded(&report);
    let [ready] = bench.handoffs("cluster_ready").try_into().unwrap();
    assert_eq!((&ready["status"], &ready["cluster_uid"]), (&json!("healthy"), &json!(rack.cluster_uid)));
    assert_eq!(ready_nodes(&bench).await.len(), 5);
    surface::reads(&bench).await;
    surface::refusals(&bench).await;
    expect_certificates(&bench);

    let joining = rack.power_on("prod-worker-3", 15, "v1.13.9");
    let report = bench.run("join-nodes", rack.handoff("scale", vec![joining], &spec)).await;
    succeeded(&report);
    assert_eq!(bench.handoffs("nodes_ready").len(), 1);
    assert_eq!(ready_nodes(&bench).await.len(), 6);

    let request = json!({ "handoff_type": "scale_request", "cluster_name": CLUSTER, "pool": "worker", "count": 2 });
    let report = bench.run("remove-nodes", request).await;
    succeeded(&report);
    let [removed] = bench.handoffs("node_removed").try_into().unwrap();
    assert_eq!(removed["nodes"][0]["hostname"], "prod-worker-3");
    assert_eq!(ready_nodes(&bench).await.len(), 5);

    let request = json!({ "handoff_type": "decommission_request", "cluster_name": CLUSTER });
    let report = bench.run("forget-cluster", request).await;
    succeeded(&report);
    assert_eq!(bench.handoffs("cluster_removed").len(), 1);
    let store = bench.store.reader();
    assert!(store.secret_names("cluster/").unwrap().is_empty());
    assert_eq!(kept::certificates(&store), []);
    assert!(store.keys("node/").unwrap().is_empty() && store.keys("cluster/").unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_another_uuid_gets_no_configuration() {
    let net = 132;
    let bench = Bench::start(net, &[]).await;
    let rack = Rack::new(net);
    let mut node = rack.power_on("prod-cp-1", 10, "v1.13.9");
    node["smbios_uuid"] = json!(Uuid::new_v4());
    let address = node["ip"].as_str().unwrap().parse().unwrap();
    let run = bench.begin("bootstrap-cluster", rack.handoff("create", vec![node], &spec("1.13.9", "1.36.3"))).await;
    bench.says(run, "another machine answers at 127.132.1.10: its SMBIOS UUID is").await;
    surface::trust(address).await;
    bench.driver.cancel(run, "/test").await.unwrap();
    let report = bench.rest(run).await;
    assert_eq!(report.status, Status::Cancelled, "{report:#?}");
    assert_eq!(rack.nodes.guest(110).unwrap().state, "maintenance");
    let store = bench.store.reader();
    assert!(inventory::clusters(&store).unwrap().is_empty());
    assert!(store.secret_names("cluster/").unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_at_the_address_of_a_new_machine_is_waited_out_and_gets_nothing() {
    let net = 137;
    let (bench, rack) = (Bench::start(net, &[]).await, Rack::new(net));
    let node = rack.power_on("prod-cp-1", 10, "v1.13.9");
    rack.power_on("stranger", 99, "v1.13.9");
    rack.nodes.divert([127, net, 1, 10].into(), 199, false);
    let mut spec = spec("1.13.9", "1.36.3");
    (spec["network_cni"], spec["storage_backend"]) = (json!("flannel"), json!("none"));
    let run = bench.begin("bootstrap-cluster", rack.handoff("create", vec![node], &spec)).await;
    bench.says(run, "prod-cp-1: another machine answers at 127.137.1.10").await;
    assert!(rack.nodes.restore([127, net, 1, 10].into()));
    succeeded(&bench.rest(run).await);
    assert_eq!(rack.nodes.guest(199).unwrap().state, "maintenance");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_lines_of_talos_make_clusters_too() {
    for (net, talos, kubernetes) in [(133, "1.12.11", "1.35.4"), (134, "1.14.0-rc.1", "1.37.0-rc.0")] {
        let bench = Bench::start(net, &[]).await;
        let rack = Rack::new(net);
        let names = [("prod-cp-1", 10), ("prod-worker-1", 11)];
        let nodes = names.map(|(name, number)| rack.power_on(name, number, &format!("v{talos}")));
        let mut spec = spec(talos, kubernetes);
        (spec["network_cni"], spec["storage_backend"]) = (json!("flannel"), json!("local-path"));
        let report = bench.run("bootstrap-cluster", rack.handoff("create", nodes.into(), &spec)).await;
        succeeded(&report);
        assert_eq!(bench.handoffs("cluster_ready").len(), 1, "{talos}");
    }
}
