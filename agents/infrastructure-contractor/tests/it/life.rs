//! The smallest whole life: create, scale up, scale down, decommission.

use engine::report::{Report, Status};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::World;

pub(crate) fn request(workers: u32) -> Value {
    json!({
        "request_type": "provision_cluster", "cluster_name": "prod", "pattern": "ha", "worker_nodes": workers,
        "node_size": "small", "worker_size": "small", "storage_backend": "longhorn",
    })
}

pub(crate) fn assert_succeeded(report: &Report) {
    assert_eq!(report.status, Status::Succeeded, "{report:#?}");
}

/// A cluster that talos-contractor calls ready; returns what it was handed.
pub(crate) async fn active(world: &World, flow: Uuid) -> Value {
    assert_succeeded(&world.run("provision-vms", flow, request(2)).await);
    let handoff = world.handoffs("vm_provisioned").pop().unwrap();
    let nodes = handoff["nodes"].as_array().unwrap().iter();
    let mut endpoints: Vec<_> = nodes.map(|node| format!("https://{}:10250", node["ip"].as_str().unwrap())).collect();
    endpoints.push("http://127.0.0.9:9090".into());
    let ready = json!({
        "handoff_type": "cluster_ready", "cluster_name": "prod", "cluster_uid": handoff["cluster_uid"],
        "api_endpoint": handoff["api_endpoint"], "metrics_endpoints": endpoints, "status": "healthy",
    });
    assert_succeeded(&world.run("register-monitoring", flow, ready).await);
    handoff
}

/// What Prometheus scrapes of the cluster, in the file's order; none without a file.
fn scraped(world: &World) -> Option<Vec<String>> {
    let folder = world.deps.sections.monitoring.folder.as_ref().unwrap();
    let text = std::fs::read_to_string(folder.join("prod.json")).ok()?;
    let groups: Vec<Value> = serde_json::from_str(&text).unwrap();
    Some(groups.iter().map(|group| group["targets"][0].as_str().unwrap().to_owned()).collect())
}

#[tokio::test]
async fn a_cluster_request_becomes_machines_that_answer_where_the_handoff_says() {
    let world = World::start(242, |_| {}).await;
    assert_succeeded(&world.run("provision-vms", Uuid::new_v4(), request(3)).await);
    let handoff = world.handoffs("vm_provisioned").pop().unwrap();
    let nodes = handoff["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 6);
    assert_eq!(handoff["api_endpoint"], "https://127.242.1.10:6443", "the VIP comes first");
    assert_eq!(handoff["spec"]["endpoint_is_vip"], true);
    assert_eq!(nodes[0]["ip"], "127.242.1.12", "an excluded address is skipped");
    let snapshot = world.proxmox.snapshot();
    for node in nodes {
        let vmid: u32 = node["vm_id"].as_str().unwrap().parse().unwrap();
        let machine = world.machines.machine(vmid).unwrap();
        assert_eq!(machine.network.as_ref().unwrap().hostname.as_deref(), node["hostname"].as_str());
        assert_eq!(machine.smbios_uuid.to_string(), node["smbios_uuid"]);
        assert_eq!(machine.nics[0].mac.to_uppercase(), node["mac"].as_str().unwrap());
        assert_eq!(machine.disks[0].size_bytes, 20 << 30, "the imported disk was grown");
        let vm = &snapshot.vms[&vmid];
        assert!(vm.running && vm.tags.contains(&"cortex".to_owned()));
    }
    let hosts: Vec<_> = nodes.iter().filter(|node| node["role"] == "controlplane").map(|node| &node["host"]).collect();
    assert!(hosts[0] != hosts[1] && hosts[1] != hosts[2] && hosts[0] != hosts[2], "{hosts:?}");
}

#[tokio::test]
async fn the_whole_life_leaves_nothing_behind() {
    let world = World::start(243, |_| {}).await;
    let flow = Uuid::new_v4();
    let created = active(&world, flow).await;
    let uid = created["cluster_uid"].clone();
    let protected = |world: &World| {
        world.proxmox.snapshot().vms.values().filter(|vm| vm.config.get("protection").is_some_and(|v| v == "1")).count()
    };
    assert_eq!(protected(&world), 5);
    let first = scraped(&world).unwrap();
    assert_eq!(first.len(), 6);

    let flow = Uuid::new_v4();
    let up = json!({ "handoff_type": "scale_request", "cluster_name": "prod", "pool": "worker", "count": 3 });
    assert_succeeded(&world.run("scale-pool", flow, up).await);
    let joined = world.handoffs("vm_provisioned").pop().unwrap();
    assert_eq!((&joined["purpose"], &joined["nodes"][0]["hostname"]), (&json!("scale"), &json!("prod-worker-3")));
    assert_eq!(scraped(&world).unwrap(), first, "it is no node yet");
    let named =
        |node: &Value| json!({ "hostname": node["hostname"], "node_uid": node["node_uid"], "pool": node["pool"] });
    let node = named(&joined["nodes"][0]);
    let nodes_ready =
        json!({ "handoff_type": "nodes_ready", "cluster_name": "prod", "cluster_uid": uid, "nodes": [node] });
    assert_succeeded(&world.run("record-nodes", flow, nodes_ready).await);
    assert_eq!(protected(&world), 6);
    let third = format!("{}:10250", joined["nodes"][0]["ip"].as_str().unwrap());
    assert_eq!(scraped(&world).unwrap(), [&first[..], std::slice::from_ref(&third)].concat());

    let flow = Uuid::new_v4();
    let down = json!({ "handoff_type": "scale_request", "cluster_name": "prod", "pool": "worker", "count": 1 });
    assert_succeeded(&world.run("scale-pool", flow, down).await);
    let asked = world.handoffs("scale_request").pop().unwrap();
    assert_eq!((&asked["count"], &asked["generation"]), (&json!(1), &json!(3)));
    let nodes = created["nodes"].as_array().unwrap();
    let second = nodes.iter().find(|node| node["hostname"] == "prod-worker-2").unwrap();
    let other = named(second);
    let removed =
        json!({ "handoff_type": "node_removed", "cluster_name": "prod", "cluster_uid": uid, "nodes": [node, other] });
    assert_succeeded(&world.run("release-vms", flow, removed.clone()).await);
    let second = format!("{}:10250", second["ip"].as_str().unwrap());
    let left: Vec<_> = first.iter().filter(|target| **target != second).cloned().collect();
    assert_eq!(left.len(), 5);
    assert_eq!(scraped(&world).unwrap(), left, "neither of the two is scraped");
    assert_succeeded(&world.run("release-vms", flow, removed).await);
    assert_eq!(scraped(&world).unwrap(), left);
    assert_eq!(world.proxmox.snapshot().vms.len(), 4);
    assert_eq!(world.keys("vm/").len(), 4);

    let flow = Uuid::new_v4();
    let request = json!({ "handoff_type": "decommission_request", "cluster_name": "prod" });
    let plan = world.driver.plan("decommission-cluster", flow, &request).await.unwrap();
    assert!(plan.destroys(), "it needs consent");
    assert_succeeded(&world.run("decommission-cluster", flow, request).await);
    let handed = world.handoffs("decommission_request").pop().unwrap();
    let removed =
        json!({ "handoff_type": "cluster_removed", "cluster_name": "prod", "cluster_uid": handed["cluster_uid"] });
    assert_succeeded(&world.run("destroy-cluster", flow, removed).await);
    assert!(world.proxmox.snapshot().vms.is_empty());
    assert_eq!(world.keys(""), Vec::<String>::new());
    assert_eq!(scraped(&world), None);
}
