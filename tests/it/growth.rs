//! A cluster that asks for a worker itself: pods without room, over real daemons, to the pod that runs.

use std::{fs, time::Duration};

use cortexctl::watch::{self, Told};
use messages::{query::Listing, subject::Party};
use serde_json::{Value, json};
use tests::world::WorldOptions;

use crate::{
    kubectl::Kubectl,
    scenario::{Scenario, told},
};

/// Two pods that do not share a node, where there is one worker.
const APART: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: { name: apart, namespace: default }
spec:
  replicas: 2
  selector: { matchLabels: { app: apart } }
  template:
    metadata: { labels: { app: apart } }
    spec:
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            - { topologyKey: kubernetes.io/hostname, labelSelector: { matchLabels: { app: apart } } }
      containers: [{ name: one, image: "registry.example/one:1" }]
"#;

#[test]
fn pods_without_room_bring_a_worker_and_then_run() {
    let folder = tempfile::tempdir().unwrap();
    // As it ships, but for how long pods must have waited.
    let shipped = include_str!("../../playbooks/scale-on-pressure.yaml");
    let impatient = shipped.replace("hold: 1m", "hold: 1s");
    assert_ne!(impatient, shipped);
    let playbooks = folder.path().join("playbooks");
    fs::create_dir(&playbooks).unwrap();
    fs::write(playbooks.join("scale-on-pressure.yaml"), impatient).unwrap();
    let own = format!("\n[playbooks]\nfolder = {playbooks:?}\n");
    let scenario = Scenario::start_in(folder, &WorldOptions { more: [String::new(), own], ..WorldOptions::default() });
    let request = json!({
        "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "edge", "worker_nodes": 1,
        "worker_autoscaling": true, "service_account_key": "ecdsa-p256",
    });
    let made = scenario.ask("provision_cluster", &request).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    assert_eq!(scenario.machines(), 2);

    let mut tail = scenario.runtime.block_on(watch::events_from_now(&scenario.operator)).unwrap();
    let manifest = scenario.world.folder.join("apart.yaml");
    fs::write(&manifest, APART).unwrap();
    let program = Kubectl::of(&scenario, "edge");
    let kubectl = |arguments: &[&str]| program.run(arguments).unwrap_or_else(|said| panic!("{arguments:?}: {said}"));
    kubectl(&["apply", "-f", manifest.to_str().unwrap()]);
    let flow = scenario.runtime.block_on(async {
        let asked = async {
            loop {
                let recorded = tail.next().await.unwrap();
                let Some(told) = Told::read(&recorded) else { continue };
                if told.kind == "pressure_detected" {
                    return told.body["flow"].as_str().unwrap().parse().unwrap();
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), asked).await.expect("pressure is felt")
    });
    let grown = scenario.follow(flow).unwrap();
    assert_eq!(grown.state, "succeeded", "{}", told(&grown));
    assert!(grown.runs.iter().any(|run| run.playbook == "scale-pool"), "{:?}", grown.runs);
    kubectl(&["rollout", "status", "deployment/apart", "--timeout", "60s"]);
    let hosts = kubectl(&["get", "pods", "-l", "app=apart", "-o", "jsonpath={.items[*].spec.nodeName}"]);
    let mut hosts: Vec<_> = hosts.split(' ').collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["edge-worker-1", "edge-worker-2"]);
    assert_eq!(scenario.machines(), 3);
    let nodes = scenario.operator.query(Party::Talos, "nodes.list", json!({ "cluster": "edge" }));
    let nodes: Listing = scenario.runtime.block_on(nodes).unwrap();
    assert_eq!(nodes.rows.len(), 3, "both inventories agree");
    let pools = scenario.operator.query(Party::Infrastructure, "pools.list", json!({ "cluster": "edge" }));
    let pools: Value = scenario.runtime.block_on(pools).unwrap();
    let workers = pools["rows"].as_array().unwrap().iter().find(|pool| pool["pool"] == "worker").unwrap();
    assert_eq!(workers["count"], 2, "{workers}");
}
