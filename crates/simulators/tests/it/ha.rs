//! High availability and what the status daemons tell, against the checklist's eighth item (proxmox.md 7 and 10).

use std::time::Duration;

use serde_json::{Value, json};
use simulators::pace::Pace;

use crate::client::Cluster;

/// Polls until a condition holds.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..2000 {
        if holds().await {
            return;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    panic!("never {what}");
}

async fn row(cluster: &Cluster, kind: &str, id: &str) -> Value {
    let rows = cluster.get(&format!("/cluster/resources?type={kind}")).await.data();
    rows.as_array().unwrap().iter().find(|row| row["id"] == id).cloned().unwrap_or_default()
}

/// A VM with its disk on a storage, managed by HA and started by it.
async fn managed(cluster: &Cluster, storage: &str) {
    let create = format!("vmid=100&name=a&scsi0={storage}:1&ha-managed=1");
    let create = cluster.post("/nodes/pve1/qemu", &create).await;
    assert_eq!(cluster.finish(&create).await, "OK");
    until("started by HA", || async { row(cluster, "vm", "qemu/100").await["status"] == "running" }).await;
}

#[tokio::test]
async fn wishes_are_filed_and_carried_out_later_and_a_lost_node_is_fenced() {
    let cluster = Cluster::start_at(|_| {}, Pace::new(200.0)).await.with_root().await;
    managed(&cluster, "shared").await;
    let ha = async || cluster.get("/cluster/ha/status/current").await.data();
    let service = async || ha().await.as_array().unwrap().iter().find(|row| row["type"] == "service").cloned().unwrap();
    assert_eq!(service().await["status"], "vm:100 (pve1, started)");
    assert_eq!(row(&cluster, "vm", "qemu/100").await["hastate"], "started");
    let status = cluster.get("/nodes/pve1/qemu/100/status/current").await.data();
    assert_eq!(status["ha"], json!({ "managed": 1, "state": "started" }));

    let stop = cluster.post("/nodes/pve1/qemu/100/status/stop", "").await;
    assert!(stop.data().as_str().unwrap().contains(":hastop:100:"));
    assert_eq!(cluster.finish(&stop).await, "OK");
    until("stopped", || async { service().await["crm_state"] == "stopped" }).await;
    let start = cluster.post("/nodes/pve1/qemu/100/status/start", "").await;
    assert!(start.data().as_str().unwrap().contains(":hastart:100:"));
    until("running again", || async { row(&cluster, "vm", "qemu/100").await["status"] == "running" }).await;

    let migrate = cluster.post("/nodes/pve1/qemu/100/migrate", "target=pve2&online=1").await;
    assert!(migrate.data().as_str().unwrap().contains(":hamigrate:100:"));
    assert_eq!(cluster.finish(&migrate).await, "OK");
    until("on pve2", || async { row(&cluster, "vm", "qemu/100").await["node"] == "pve2" }).await;

    cluster.proxmox.cut_host("pve2");
    until("fenced", || async { service().await["crm_state"] == "fence" }).await;
    let seen = row(&cluster, "vm", "qemu/100").await;
    assert_eq!((&seen["node"], &seen["status"]), (&json!("pve2"), &json!("running")), "what was said last");
    until("recovered", || async { row(&cluster, "vm", "qemu/100").await["node"] != "pve2" }).await;
    until("running elsewhere", || async { service().await["state"] == "started" }).await;
    assert_eq!(cluster.get("/nodes/pve1/qemu/100/status/current").await.data()["status"], "running");
}

#[tokio::test]
async fn what_cannot_start_elsewhere_ends_in_an_error_until_it_is_disabled() {
    let cluster = Cluster::start_at(|_| {}, Pace::new(500.0)).await.with_root().await;
    managed(&cluster, "local-lvm").await;
    cluster.proxmox.cut_host("pve1");
    let hastate = async || row(&cluster, "vm", "qemu/100").await["hastate"].clone();
    until("an error", || async { hastate().await == "error" }).await;
    let task = cluster.get("/cluster/tasks").await.data();
    let failed = task.as_array().unwrap().iter().find(|task| task["type"] == "qmstart" && task["status"] != "OK");
    assert_eq!(failed.unwrap()["status"], "volume 'local-lvm:vm-100-disk-0' does not exist");
    assert_eq!(cluster.put("/cluster/ha/resources/vm:100", "state=disabled").await.code, 200);
    until("cleared", || async { hastate().await == "stopped" }).await;
    cluster.proxmox.set_quorum(false);
    let refused = cluster.put("/cluster/ha/resources/vm:100", "state=started").await;
    assert_eq!((refused.code, refused.reason.as_str()), (500, "cfs-lock 'domain-ha' error: no quorum!"));
    assert_eq!(cluster.get("/cluster/ha/resources").await.code, 200, "reads go on");
}

#[tokio::test]
async fn a_silent_status_daemon_is_believed_for_five_minutes_and_an_absent_node_not_at_all() {
    let cluster = Cluster::start_at(|_| {}, Pace::new(200.0)).await.with_root().await;
    let node = async |name: &str| row(&cluster, "node", &format!("node/{name}")).await;
    until("online", || async { node("pve1").await["status"] == "online" && node("pve2").await["status"] == "online" })
        .await;
    assert!(node("pve1").await["uptime"].is_number());
    cluster.proxmox.set_host_reports("pve1", false);
    assert_eq!(node("pve1").await["status"], "online", "it was heard a moment ago");
    cluster.proxmox.cut_host("pve2");
    let gone = node("pve2").await;
    assert_eq!((&gone["status"], gone["maxmem"].is_number(), &gone["uptime"]), (&json!("offline"), true, &Value::Null));
    let storage = async || row(&cluster, "storage", "storage/pve2/local-lvm").await["status"].clone();
    assert_eq!(storage().await, "available", "what was said last");
    until("unknown", || async { node("pve1").await["status"] == "unknown" }).await;
    until("unknown storage", || async { storage().await == "unknown" }).await;
    assert_eq!(node("pve2").await["status"], "offline");
    cluster.proxmox.set_host_reports("pve1", true);
    until("heard again", || async { node("pve1").await["status"] == "online" }).await;
}

#[tokio::test]
async fn a_guest_that_stands_still_answers_no_agent_and_sees_no_button() {
    let cluster = Cluster::start_at(|_| {}, Pace::new(200.0)).await.with_root().await;
    let create = cluster.post("/nodes/pve1/qemu", "vmid=100&scsi0=local-lvm:1&agent=1&start=1").await;
    assert_eq!(cluster.finish(&create).await, "OK");
    let qmp = async || cluster.get("/nodes/pve1/qemu/100/status/current").await.data()["qmpstatus"].clone();
    assert_eq!(qmp().await, "running");
    cluster.proxmox.fill_storage("local-lvm");
    until("stopped by its storage", || async { qmp().await == "io-error" }).await;
    until("told", || async { row(&cluster, "vm", "qemu/100").await["status"] == "io-error" }).await;
    let agent = cluster.get("/nodes/pve1/qemu/100/agent/network-get-interfaces").await;
    assert_eq!((agent.code, agent.reason.as_str()), (500, "QEMU guest agent is not running"));
    let shutdown = cluster.post("/nodes/pve1/qemu/100/status/shutdown", "timeout=1").await;
    assert_eq!(cluster.finish(&shutdown).await, "VM quit/powerdown failed - got timeout");
    cluster.proxmox.set_foreign_use("local-lvm", 0);
    let resume = cluster.post("/nodes/pve1/qemu/100/status/resume", "").await;
    assert_eq!(cluster.finish(&resume).await, "OK");
    let shutdown = cluster.post("/nodes/pve1/qemu/100/status/shutdown", "").await;
    assert_eq!(cluster.finish(&shutdown).await, "OK");
}
