//! What the contractor does to a cluster's Kubernetes API: installs, waits, labels, drains, removes.

use engine::report::Status;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::json;
use talos_contractor::{inventory, manifest};

use crate::world::World;

const INSTALL: (&str, &str) = (
    "install.yaml",
    r#"
playbook: install
version: 1
input: { type: object, required: [nodes], properties: { nodes: { type: array } } }
steps:
  - { id: kubernetes, action: talos.wait_kubernetes, with: { cluster: prod } }
  - { id: cilium, needs: [kubernetes], call: install-cni-cilium, with: { cluster: prod } }
  - { id: nodes, needs: [cilium], action: talos.wait_nodes_ready, with: { cluster: prod, nodes: "${input.nodes}" } }
  - { id: label, action: talos.label_nodes, with: { cluster: prod, nodes: "${steps.nodes.nodes}" } }
  - { id: storage, needs: [label], call: install-storage-local-path, with: { cluster: prod } }
  - { id: longhorn, needs: [label], call: install-storage-longhorn, with: { cluster: prod } }
  - { id: smoke, needs: [storage, longhorn], action: talos.smoke_test, with: { cluster: prod, storage: true } }
"#,
);

const LEAVE: (&str, &str) = (
    "leave.yaml",
    r#"
playbook: leave
version: 1
on_failure: keep
input: { type: object, required: [count], properties: { count: { type: integer } } }
steps:
  - { id: select, action: talos.select_nodes_to_remove, with: { cluster: prod, pool: worker, count: "${input.count}" } }
  - id: remove
    for_each: "${steps.select.nodes}"
    key: "${item.hostname}"
    call: leave-one
    with: { node: "${item.hostname}" }
"#,
);

/// `remove-node` without the Talos half.
const LEAVE_ONE: (&str, &str) = (
    "leave-one.yaml",
    r#"
playbook: leave-one
version: 1
on_failure: pause
input: { type: object, required: [node], properties: { node: { type: string } } }
steps:
  - { id: cordon, action: talos.cordon_node, with: { cluster: prod, node: "${input.node}" } }
  - { id: drain, needs: [cordon], action: talos.drain_node, with: { cluster: prod, node: "${input.node}" }, deadline: 5m }
  - { id: delete, needs: [drain], action: talos.delete_node, with: { cluster: prod, node: "${input.node}" } }
  - { id: forget, needs: [delete], action: talos.forget_node, with: { cluster: prod, node: "${input.node}" } }
"#,
);

/// A drain that is not given long.
const DRAIN: (&str, &str) = (
    "drain.yaml",
    r#"
playbook: drain
version: 1
on_failure: pause
input: { type: object, required: [node], properties: { node: { type: string } } }
steps:
  - { id: drain, action: talos.drain_node, with: { cluster: prod, node: "${input.node}" }, deadline: 3s }
"#,
);

fn all() -> serde_json::Value {
    json!({ "nodes": ["prod-cp-1", "prod-worker-1", "prod-worker-2"] })
}

/// Two replicas that may not both be away, on every worker one.
const WORKLOAD: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, namespace: default }
spec:
  replicas: 2
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec: { containers: [{ name: web, image: "registry.example/web:1" }] }
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: { name: web, namespace: default }
spec: { minAvailable: 1, selector: { matchLabels: { app: web } } }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn add_ons_come_up_nodes_are_labelled_and_a_volume_binds() {
    let world = World::start(121, &[INSTALL]).await;
    let report = world.bench.run("install", all()).await;
    assert_eq!(report.status, Status::Succeeded, "{report:#?}");
    let client = world.bench.client().await;
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.unwrap();
    for node in &nodes {
        assert_eq!(node.labels()["topology.kubernetes.io/zone"], "pve1");
        let provider = node.spec.as_ref().unwrap().provider_id.clone().unwrap();
        assert!(provider.starts_with("proxmox://"), "{provider}");
    }
    assert_eq!(nodes.items.len(), 3);
    let known = inventory::nodes(&world.bench.store.reader(), &"prod".parse().unwrap()).unwrap();
    assert!(known.iter().all(|node| node.value.state == inventory::NodeState::Ready));
    let classes = world.control_plane.list("storageclasses.storage.k8s.io", None);
    assert_eq!(classes.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_emptiest_worker_is_drained_under_its_budgets_and_leaves() {
    let world = World::start(122, &[INSTALL, LEAVE, LEAVE_ONE]).await;
    let report = world.bench.run("install", all()).await;
    assert_eq!(report.status, Status::Succeeded, "{report:#?}");
    let client = world.bench.client().await;
    manifest::apply(&client, &manifest::objects(WORKLOAD).unwrap()).await.unwrap();
    let report = world.bench.run("leave", json!({ "count": 1 })).await;
    assert_eq!(report.status, Status::Succeeded, "{report:#?}");
    // The kubelet of this test still runs and may register again; its pods and the inventory tell.
    let known = inventory::nodes(&world.bench.store.reader(), &"prod".parse().unwrap()).unwrap();
    let remaining: Vec<_> = known.iter().map(|node| node.value.hostname.to_string()).collect();
    assert_eq!(remaining.len(), 2);
    let pods = Api::<Pod>::namespaced(client, "default").list(&ListParams::default()).await.unwrap();
    let on = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    assert!(pods.items.iter().filter_map(on).all(|node| remaining.contains(&node)), "{pods:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_worker_goes_first_and_without_being_drained() {
    let mut world = World::start(123, &[INSTALL, LEAVE, LEAVE_ONE]).await;
    let report = world.bench.run("install", all()).await;
    assert_eq!(report.status, Status::Succeeded, "{report:#?}");
    world.power_off("prod-worker-1");
    let client = world.bench.client().await;
    let api = Api::<Node>::all(client);
    let unready = |node: Option<&Node>| {
        let conditions = node.and_then(|node| node.status.as_ref()).and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|is| is.type_ == "Ready" && is.status != "True")
    };
    kube::runtime::wait::await_condition(api.clone(), "prod-worker-1", unready).await.unwrap();
    let report = world.bench.run("leave", json!({ "count": 1 })).await;
    assert_eq!(report.status, Status::Succeeded, "{report:#?}");
    assert!(api.get_opt("prod-worker-1").await.unwrap().is_none());
    assert!(api.get_opt("prod-worker-2").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_a_budget_never_allows_ends_with_the_budgets_name() {
    let world = World::start(126, &[INSTALL, DRAIN]).await;
    let report = world.bench.run("install", all()).await;
    assert_eq!(report.status, Status::Succeeded, "{report:#?}");
    let client = world.bench.client().await;
    let strict = WORKLOAD.replace("minAvailable: 1", "minAvailable: 2");
    manifest::apply(&client, &manifest::objects(&strict).unwrap()).await.unwrap();
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    let mut changes = world.control_plane.changes();
    let placed = loop {
        let web = pods.list(&ListParams::default().labels("app=web")).await.unwrap();
        let running = |pod: &&Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        if let Some(pod) = web.items.iter().find(running) {
            break pod.clone();
        }
        changes.changed().await.unwrap();
    };
    let node = placed.spec.as_ref().unwrap().node_name.clone().unwrap();
    let report = world.bench.run("drain", json!({ "node": node })).await;
    assert_eq!(report.status, Status::Paused, "{report:#?}");
    let reason = report.failure.unwrap().error.message;
    assert!(reason.contains("disruption budget web") && reason.contains("default/web-"), "{reason}");
    assert!(pods.get_opt(&placed.name_any()).await.unwrap().is_some(), "it still runs there");
}
