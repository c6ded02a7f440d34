//! The Proxmox VE simulator against its checklist (proxmox.md 10).

use serde_json::json;

use crate::client::Cluster;

#[tokio::test]
async fn a_vm_lives_from_create_to_destroy() {
    let cluster = Cluster::start(|_| {}).await;
    let next = cluster.get("/cluster/nextid").await.data();
    assert_eq!(next, json!("100"));
    assert_eq!(cluster.create(100, "&tags=Zulu%3Balpha&agent=enabled%3D1").await, "OK");
    let config = cluster.get("/nodes/pve1/qemu/100/config").await.data();
    assert_eq!(config["tags"], "alpha;zulu");
    assert_eq!(config["scsi0"], "local-lvm:vm-100-disk-0,size=8G");
    assert_eq!(config["boot"], "order=scsi0;net0");
    assert_eq!((&config["memory"], &config["cores"]), (&json!("2048"), &json!(2)));
    assert!(config["net0"].as_str().unwrap().starts_with("virtio=BC:24:11:"));
    assert!(config["smbios1"].as_str().unwrap().starts_with("uuid=") && config["vmgenid"].is_string());
    let start = cluster.post("/nodes/pve1/qemu/100/status/start", "").await;
    assert_eq!(cluster.finish(&start).await, "OK");
    let status = cluster.get("/nodes/pve1/qemu/100/status/current").await.data();
    assert_eq!((&status["status"], &status["qmpstatus"]), (&json!("running"), &json!("running")));
    assert!(cluster.machines.machine(100).is_some());
    let refused = cluster.delete("/nodes/pve1/qemu/100").await;
    assert_eq!((refused.code, refused.reason.as_str()), (500, "VM 100 is running - destroy failed"));
    let stop = cluster.post("/nodes/pve1/qemu/100/status/stop", "").await;
    assert_eq!(cluster.finish(&stop).await, "OK");
    let destroy = cluster.delete("/nodes/pve1/qemu/100?purge=1&destroy-unreferenced-disks=1").await;
    assert_eq!(cluster.finish(&destroy).await, "OK");
    let gone = cluster.get("/nodes/pve1/qemu/100/config").await;
    assert_eq!(gone.code, 403, "the pool membership that gave the right is gone with the VM");
    assert!(cluster.proxmox.snapshot().volumes.values().all(Vec::is_empty));
}
