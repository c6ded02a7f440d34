//! The Proxmox VE simulator against its checklist (proxmox.md 10).

use std::time::Duration;

use serde_json::{Value, json};
use simulators::{
    faults::{Fault, FaultAction},
    pace::Pace,
    proxmox::{HostOptions, Storage, StorageKind, Version},
};

use crate::client::{Answer, Cluster};

fn refused(answer: &Answer) -> (u16, &str) {
    (answer.code, answer.reason.as_str())
}

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
    let running = cluster.delete("/nodes/pve1/qemu/100").await;
    assert_eq!(refused(&running), (500, "VM 100 is running - destroy failed"));
    let stop = cluster.post("/nodes/pve1/qemu/100/status/stop", "").await;
    assert_eq!(cluster.finish(&stop).await, "OK");
    let destroy = cluster.delete("/nodes/pve1/qemu/100?purge=1&destroy-unreferenced-disks=1").await;
    assert_eq!(cluster.finish(&destroy).await, "OK");
    let gone = cluster.get("/nodes/pve1/qemu/100/config").await;
    assert_eq!(gone.code, 403, "the pool membership that gave the right is gone with the VM");
    assert!(cluster.proxmox.snapshot().volumes.values().all(Vec::is_empty));
}

#[tokio::test]
async fn errors_are_told_in_the_status_line_and_in_the_body() {
    let cluster = Cluster::start(|_| {}).await.with_root().await;
    let missing = cluster.get("/nodes/pve1/qemu/999/config").await;
    let text = "Configuration file 'nodes/pve1/qemu-server/999.conf' does not exist";
    assert_eq!(refused(&missing), (500, text));
    assert_eq!(missing.json(), json!({ "data": null, "message": format!("{text}\n") }));
    assert!(missing.headers.contains("Connection: close") && missing.headers.contains("Server: pve-api-daemon/3.0"));
    let bad = cluster.post("/nodes/pve1/qemu", "vmid=5&cores=x&frob=1&name=a_b").await;
    assert_eq!(refused(&bad), (400, "Parameter verification failed."));
    let errors = &bad.json()["errors"];
    assert_eq!(errors["vmid"], "invalid format - value does not look like a valid VM ID\n");
    assert_eq!(errors["cores"], "type check ('integer') failed - got 'x'");
    assert_eq!(errors["name"], "invalid format - value does not look like a valid DNS name\n");
    assert_eq!(errors.as_object().unwrap().len(), 4);
    let nothing = cluster.get("/nodes/pve1/frobnicate").await;
    assert_eq!(refused(&nothing), (501, "Method 'GET /nodes/pve1/frobnicate' not implemented"));
    let conflict = cluster.put("/nodes/pve1/qemu/100/config", "vmid=101").await;
    assert_eq!(
        conflict.json()["errors"]["vmid"],
        "duplicate parameter (already defined in URI) with conflicting values!"
    );
    let old = Cluster::start(|options| options.message_in_body = false).await.with_root().await;
    assert_eq!(old.get("/nodes/pve1/qemu/999/config").await.json(), json!({ "data": null }));
}

#[tokio::test]
async fn framing_is_as_strict_as_pveproxy() {
    let cluster = Cluster::start(|_| {}).await;
    let auth = &cluster.authorization;
    let send = |head: &str, body: &str| format!("{head} HTTP/1.1\r\nHost: x\r\n{auth}\r\nConnection: close\r\n{body}");
    let cases = [
        (send("HEAD /api2/json/version", "\r\n"), (501, "method 'HEAD' not available")),
        (send("PATCH /api2/json/version", "Content-Length: 0\r\n\r\n"), (501, "method 'PATCH' not available")),
        (
            send("POST /api2/json/nodes/pve1/qemu", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            (501, "chunked transfer encoding not supported"),
        ),
        (
            send("DELETE /api2/json/nodes/pve1/qemu/100", "Content-Length: 7\r\n\r\npurge=1"),
            (501, "Unexpected content for method 'DELETE'"),
        ),
        (
            send("POST /api2/json/nodes/pve1/qemu", "Content-Type: text/xml\r\nContent-Length: 1\r\n\r\nx"),
            (506, "upload 'Content-Type 'text/xml' not implemented"),
        ),
        (send("GET /api2/yaml/version", "\r\n"), (501, "no formatter for uri /api2/yaml/version, yaml")),
        (send("GET /api2/", "\r\n"), (501, "no such uri")),
    ];
    for (request, expected) in cases {
        let answer = cluster.raw(&request).await.unwrap();
        assert_eq!(refused(&answer), expected);
        assert!(answer.body.is_empty(), "{answer:?}");
    }
    let ext = cluster.raw(&send("GET /api2/extjs/nodes/pve1/qemu/999/config", "\r\n")).await.unwrap();
    assert_eq!((ext.code, &ext.json()["success"], &ext.json()["status"]), (200, &json!(0), &json!(403)));
}

#[tokio::test]
async fn credentials_are_checked_as_pve_checks_them() {
    let mut cluster = Cluster::start(|_| {}).await;
    cluster.api.authorization = "X-None: 1".to_owned();
    let none = cluster.get("/version").await;
    assert_eq!((refused(&none), none.body.as_str()), ((401, "No ticket"), ""));
    assert_eq!(cluster.get("/access/domains").await.code, 200);
    cluster.api.authorization = "Authorization: PVEAPIToken=cortex@pve!infrastructure=wrong".to_owned();
    assert_eq!(refused(&cluster.get("/version").await), (401, "Authentication failed!"));
    cluster.api.authorization = "X-None: 1".to_owned();
    let wrong = cluster.post("/access/ticket", "username=root@pam&password=nope").await;
    assert_eq!(
        (refused(&wrong), &wrong.json()["message"]),
        ((401, "authentication failure"), &json!("authentication failure\n"))
    );
    let mut cluster = cluster.with_root().await;
    assert_eq!(cluster.get("/version").await.data()["release"], "9.1");
    assert_eq!(cluster.post("/pools", "poolid=a").await.code, 200);
    let with_csrf = cluster.authorization.clone();
    cluster.api.authorization = with_csrf.split("\r\n").next().unwrap().to_owned();
    assert_eq!(refused(&cluster.post("/pools", "poolid=b").await), (401, "Permission denied - invalid csrf token"));
    cluster.api.authorization = with_csrf;
    cluster.proxmox.set_ticket_lifetime(0);
    assert_eq!(refused(&cluster.get("/version").await), (401, "Authentication failed!"));
    let old = Cluster::start(|options| options.version = Version::V8).await;
    let request = "GET /api2/json/version HTTP/1.1\r\nHost: x\r\nAuthorization: PVEAPIToken=cortex@pve!none=x\r\nConnection: close\r\n\r\n";
    let answer = old.raw(request).await.unwrap();
    assert_eq!(refused(&answer), (401, "no such token 'none' for user 'cortex@pve'"));
}

#[tokio::test]
async fn a_token_that_has_expired_is_refused_for_reads_and_writes_until_its_end_is_put_off() {
    let mut cluster = Cluster::start(|_| {}).await.with_root().await;
    let token = "/access/users/cortex@pve/token/infrastructure";
    let (root, secret) = (cluster.authorization.clone(), "11111111-2222-4333-8444-555555555555");
    let changed = cluster.put(token, "expire=1&comment=soon+over").await.data();
    assert_eq!(changed, json!({ "privsep": 1, "expire": 1, "comment": "soon over" }));
    cluster.api.authorization = format!("Authorization: PVEAPIToken=cortex@pve!infrastructure={secret}");
    assert_eq!(refused(&cluster.get("/version").await), (401, "Authentication failed!"));
    assert_eq!(
        refused(&cluster.post("/nodes/pve1/qemu", "vmid=100&pool=cortex").await),
        (401, "Authentication failed!")
    );
    cluster.api.authorization = root;
    assert_eq!(cluster.put(token, "delete=expire").await.data()["expire"], 0);
    assert_eq!(cluster.put("/access/users/cortex@pve/token/none", "expire=0").await.code, 500);
    cluster.api.authorization = format!("Authorization: PVEAPIToken=cortex@pve!infrastructure={secret}");
    assert_eq!(cluster.get("/version").await.code, 200);
}

#[tokio::test]
async fn rights_come_before_parameters_and_dead_nodes_before_both_are_checked() {
    let cluster = Cluster::start(|_| {}).await;
    let outside = cluster.post("/nodes/pve1/qemu", "vmid=100&memory=512").await;
    assert_eq!(refused(&outside), (403, "Permission check failed"));
    let unknown = cluster.post("/nodes/pve1/qemu", "vmid=100&pool=nope").await;
    assert_eq!(refused(&unknown), (403, "Permission check failed (pool 'nope' does not exist)"));
    let foreign = cluster.post("/nodes/pve1/qemu/100/status/start", "frob=1").await;
    assert_eq!(refused(&foreign), (403, "Permission check failed (/vms/100, VM.PowerMgmt)"));
    let args = cluster.post("/nodes/pve1/qemu", "vmid=100&pool=cortex&args=-x").await;
    assert_eq!(refused(&args), (500, "only root can set 'args' config"));
    assert!(cluster.proxmox.cut_host("pve2"));
    let dead = cluster.post("/nodes/pve2/qemu", "frob=1").await;
    assert_eq!((refused(&dead), dead.body.as_str()), ((595, "No route to host"), ""));
    let stranger = cluster.get("/nodes/pve9/status").await;
    let text = "hostname lookup 'pve9' failed - failed to get address info for: pve9: Name or service not known";
    assert_eq!(refused(&stranger), (500, text));
    let status = cluster.get("/cluster/status").await.data();
    let row = |name: &str| status.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().clone();
    assert_eq!((&row("pve2")["online"], &row("lab")["quorate"]), (&json!(0), &json!(1)));
    cluster.proxmox.cut_host("pve3");
    let lost = cluster.post("/nodes/pve1/qemu", "vmid=100&pool=cortex").await;
    assert_eq!(refused(&lost), (500, "cluster not ready - no quorum?"));
}

#[tokio::test]
async fn create_takes_its_id_at_once_and_a_clone_late() {
    let cluster = Cluster::start_at(|_| {}, Pace::new(20.0)).await;
    let first = cluster.post("/nodes/pve1/qemu", "vmid=100&pool=cortex&scsi0=local-lvm:1").await;
    assert_eq!(first.code, 200);
    let config = cluster.proxmox.snapshot().vms[&100].config.clone();
    assert_eq!(config["lock"], "create");
    let second = cluster.post("/nodes/pve2/qemu", "vmid=100&pool=cortex").await;
    assert_eq!(refused(&second), (500, "unable to create VM 100 - VM 100 already exists on node 'pve1'"));
    assert_eq!(cluster.get("/cluster/nextid").await.data(), "101");
    let taken = cluster.get("/cluster/nextid?vmid=100").await;
    assert_eq!((taken.code, &taken.json()["errors"]["vmid"]), (400, &json!("VM 100 already exists")));
    assert_eq!(cluster.finish(&first).await, "OK");
    cluster.proxmox.pace().hold();
    let clone = cluster.post("/nodes/pve1/qemu/100/clone", "newid=101&pool=cortex&full=1").await;
    assert_eq!(clone.code, 200);
    assert_eq!(cluster.get("/cluster/nextid").await.data(), "101", "a clone's id is still handed out after the POST");
    cluster.proxmox.pace().release();
    assert_eq!(cluster.finish(&clone).await, "OK");
    assert!(cluster.proxmox.snapshot().vms.contains_key(&101));
}

#[tokio::test]
async fn templates_are_cloned_linked_with_new_identities() {
    let cluster = Cluster::start(|_| {}).await;
    cluster.create(900, "&scsi1=local-zfs:4&ide2=local-lvm:cloudinit&tags=base").await;
    let template = cluster.post("/nodes/pve1/qemu/900/template", "").await;
    assert_eq!(cluster.finish(&template).await, "OK");
    let again = cluster.post("/nodes/pve1/qemu/900/template", "").await;
    assert_eq!(refused(&again), (500, "you can't convert a template to a template"));
    let config = cluster.get("/nodes/pve1/qemu/900/config").await.data();
    assert_eq!((&config["scsi0"], &config["template"]), (&json!("local-lvm:base-900-disk-0,size=8G"), &json!(1)));
    let storage = cluster.post("/nodes/pve1/qemu/900/clone", "newid=901&pool=cortex&storage=local-zfs").await;
    assert_eq!(refused(&storage), (500, "parameter 'storage' not allowed for linked clones"));
    let clone = cluster.post("/nodes/pve1/qemu/900/clone", "newid=901&pool=cortex&name=copy").await;
    assert_eq!(cluster.finish(&clone).await, "OK");
    let copy = cluster.get("/nodes/pve1/qemu/901/config").await.data();
    assert_eq!(copy["scsi0"], "local-lvm:vm-901-disk-0,size=8G");
    assert_eq!(copy["scsi1"], "local-zfs:base-900-disk-0/vm-901-disk-0,size=4G");
    assert_eq!((&copy["name"], &copy["tags"]), (&json!("copy"), &json!("base")));
    assert!(copy["net0"] != config["net0"] && copy["smbios1"] != config["smbios1"] && copy["template"].is_null());
    let destroy = cluster.delete("/nodes/pve1/qemu/900").await;
    assert_eq!(
        cluster.finish(&destroy).await,
        "base volume 'local-lvm:base-900-disk-0' is still in use by linked cloned"
    );
}

#[tokio::test]
async fn configuration_keeps_pending_changes_unused_disks_and_digests() {
    let cluster = Cluster::start(|_| {}).await;
    cluster.create(100, "&description=first%0Asecond%0A").await;
    let config = cluster.get("/nodes/pve1/qemu/100/config").await.data();
    assert_eq!(config["description"], "first\nsecond");
    let digest = config["digest"].as_str().unwrap();
    let stale = cluster.put("/nodes/pve1/qemu/100/config", &format!("cores=4&digest={}", "0".repeat(40))).await;
    assert_eq!(refused(&stale), (500, "checksum mismatch (file change by other user?)"));
    assert_eq!(cluster.put("/nodes/pve1/qemu/100/config", &format!("cores=4&digest={digest}")).await.code, 200);
    assert_eq!(refused(&cluster.put("/nodes/pve1/qemu/100/config", "").await), (500, "no options specified"));
    let both = cluster.put("/nodes/pve1/qemu/100/config", "cores=2&delete=cores").await;
    assert_eq!(both.json()["errors"]["delete"], "you can't use '-cores' and -delete cores' at the same time");
    let unknown = cluster.put("/nodes/pve1/qemu/100/config", "delete=frob").await;
    assert_eq!(unknown.json()["errors"]["delete"], "unknown option 'frob'");
    let start = cluster.post("/nodes/pve1/qemu/100/status/start", "").await;
    cluster.finish(&start).await;
    cluster.put("/nodes/pve1/qemu/100/config", "memory=4096&tags=live").await;
    let current = cluster.get("/nodes/pve1/qemu/100/config?current=1").await.data();
    assert_eq!((&current["memory"], &current["tags"]), (&json!("2048"), &json!("live")));
    assert_eq!(cluster.get("/nodes/pve1/qemu/100/config").await.data()["memory"], "4096");
    let pending = cluster.get("/nodes/pve1/qemu/100/pending").await.data();
    let row = pending.as_array().unwrap().iter().find(|row| row["key"] == "memory").unwrap().clone();
    assert_eq!(row, json!({ "key": "memory", "value": "2048", "pending": "4096" }));
    let stop = cluster.post("/nodes/pve1/qemu/100/status/stop", "").await;
    cluster.finish(&stop).await;
    assert_eq!(cluster.get("/nodes/pve1/qemu/100/config?current=1").await.data()["memory"], "4096");
    cluster.put("/nodes/pve1/qemu/100/config", "delete=scsi0").await;
    let config = cluster.get("/nodes/pve1/qemu/100/config").await.data();
    assert_eq!((&config["scsi0"], &config["unused0"]), (&Value::Null, &json!("local-lvm:vm-100-disk-0")));
    cluster.put("/nodes/pve1/qemu/100/config", "delete=unused0").await;
    assert!(cluster.proxmox.snapshot().volumes.values().all(Vec::is_empty));
}

#[tokio::test]
async fn locks_and_protection_refuse_in_pves_words() {
    let cluster = Cluster::start(|_| {}).await;
    cluster.create(100, "").await;
    cluster.proxmox.set_vm_lock_key(100, Some("backup"));
    let start = cluster.post("/nodes/pve1/qemu/100/status/start", "").await;
    assert_eq!(cluster.finish(&start).await, "VM is locked (backup)");
    cluster.proxmox.set_vm_lock_key(100, None);
    cluster.proxmox.hold_vm_lock("pve1", 100, Duration::from_secs(2));
    tokio::task::yield_now().await;
    let start = cluster.post("/nodes/pve1/qemu/100/status/start", "").await;
    assert_eq!(cluster.finish(&start).await, "can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout");
    let cluster = Cluster::start(|_| {}).await;
    cluster.create(100, "&protection=1").await;
    let protected = cluster.delete("/nodes/pve1/qemu/100").await;
    assert_eq!(refused(&protected), (500, "can't remove VM 100 - protection mode enabled"));
    let shrink = cluster.put("/nodes/pve1/qemu/100/resize", "disk=scsi0&size=1G").await;
    assert_eq!(cluster.finish(&shrink).await, "shrinking disks is not supported");
    let grow = cluster.put("/nodes/pve1/qemu/100/resize", "disk=scsi0&size=%2B2G").await;
    assert_eq!(cluster.finish(&grow).await, "OK");
    assert_eq!(cluster.get("/nodes/pve1/qemu/100/config").await.data()["scsi0"], "local-lvm:vm-100-disk-0,size=10G");
    let root = Cluster::start(|_| {}).await.with_root().await;
    let start = root.post("/nodes/pve1/qemu/777/status/start", "").await;
    assert_eq!(root.finish(&start).await, "Configuration file 'nodes/pve1/qemu-server/777.conf' does not exist");
    let reset = root.post("/nodes/pve1/qemu/777/status/reset", "").await;
    assert_eq!(refused(&reset), (500, "unable to find configuration file for VM 777 on node 'pve1'"));
}

#[tokio::test]
async fn storage_without_room_or_content_type_refuses() {
    let cluster = Cluster::start(|options| {
        options.storages.push(Storage::new("thick", StorageKind::Lvm, &["images"], 10 << 30));
        options.storages.push(Storage::new("isos", StorageKind::Dir, &["iso"], 10 << 30));
    })
    .await;
    let wrong = cluster.post("/nodes/pve1/qemu", "vmid=100&pool=cortex&scsi0=isos:4").await;
    assert_eq!(wrong.json()["errors"]["storage"], "storage 'isos' does not support vm images");
    let full = cluster.post("/nodes/pve1/qemu", "vmid=100&pool=cortex&scsi0=thick:11").await;
    assert_eq!(cluster.finish(&full).await, "unable to create VM 100 - not enough free space (10485760 < 11534336)");
    assert!(!cluster.proxmox.snapshot().vms.contains_key(&100), "a failed create leaves nothing");
    cluster.proxmox.fill_storage("local-lvm");
    assert_eq!(cluster.create(100, "").await, "OK", "a thin volume takes no room until it is written");
    let status = cluster.get("/nodes/pve1/storage/local-lvm/status").await.data();
    assert_eq!(status["avail"], 0);
    let import = cluster
        .post("/nodes/pve1/storage/isos/download-url", "content=import&filename=x.qcow2&url=http://127.0.0.1/x")
        .await;
    assert_eq!(refused(&import), (500, "storage 'isos' is not configured for content-type 'import'"));
    let block = cluster
        .post("/nodes/pve1/storage/thick/download-url", "content=iso&filename=x.iso&url=http://127.0.0.1/x")
        .await;
    assert_eq!(refused(&block), (500, "can't upload to storage type 'lvm', not a file based storage!"));
}

#[tokio::test]
async fn volumes_of_other_peoples_vms_are_neither_listed_nor_attached() {
    let mut cluster = Cluster::start(|_| {}).await;
    cluster.create(100, "").await;
    let token = cluster.authorization.clone();
    cluster = cluster.with_root().await;
    let foreign = cluster.post("/nodes/pve1/qemu", "vmid=200&scsi0=local-lvm:1").await;
    assert_eq!(cluster.finish(&foreign).await, "OK");
    let listed = async |cluster: &Cluster, query: &str| {
        let rows = cluster.get(&format!("/nodes/pve1/storage/local-lvm/content{query}")).await.data();
        rows.as_array().unwrap().iter().map(|row| row["volid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&cluster, "").await, ["local-lvm:vm-100-disk-0", "local-lvm:vm-200-disk-0"]);
    cluster.api.authorization = token;
    assert_eq!(listed(&cluster, "").await, ["local-lvm:vm-100-disk-0"]);
    assert_eq!(listed(&cluster, "?vmid=200").await, ["local-lvm:vm-200-disk-0"], "who names a VM counts as that VM");
    let attach = cluster.put("/nodes/pve1/qemu/100/config", "scsi1=local-lvm:vm-200-disk-0").await;
    assert_eq!(refused(&attach), (403, "Permission check failed (/vms/200, VM.Config.Disk)"));
}

#[tokio::test]
async fn resources_lag_behind_and_turn_unknown_with_their_node() {
    let cluster = Cluster::start_at(|_| {}, Pace::new(200.0)).await;
    assert_eq!(cluster.create(100, "").await, "OK");
    let row = async || {
        let rows = cluster.get("/cluster/resources?type=vm").await.data();
        rows.as_array().unwrap().iter().find(|row| row["vmid"] == 100).cloned().unwrap()
    };
    let until = async |status: &str| {
        for _ in 0..500 {
            if row().await["status"] == status {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("never {status}");
    };
    until("stopped").await;
    assert_eq!((&row().await["name"], &row().await["pool"]), (&json!("vm-100"), &json!("cortex")));
    let start = cluster.post("/nodes/pve1/qemu/100/status/start", "").await;
    cluster.finish(&start).await;
    until("running").await;
    cluster.proxmox.cut_host("pve1");
    assert_eq!(row().await["status"], "running", "the last broadcast counts for five minutes");
    let nodes = cluster.get("/nodes").await.data();
    let node = nodes.as_array().unwrap().iter().find(|node| node["node"] == "pve1").unwrap();
    assert_eq!((&node["status"], &node["ssl_fingerprint"]), (&json!("offline"), &json!(cluster.proxmox.fingerprint())));
    until("unknown").await;
    assert!(row().await["name"].is_null());
}

#[tokio::test]
async fn tasks_are_queried_at_their_node_with_logs_and_totals() {
    let cluster = Cluster::start(|_| {}).await;
    let create = cluster.post("/nodes/pve1/qemu", "vmid=100&pool=cortex&scsi0=local-lvm:1").await;
    assert_eq!(cluster.finish(&create).await, "OK");
    let upid = create.data().as_str().unwrap().to_owned();
    let status = cluster.get(&format!("/nodes/pve1/tasks/{upid}/status")).await.data();
    assert_eq!((&status["user"], &status["tokenid"]), (&json!("cortex@pve"), &json!("infrastructure")));
    let log = cluster.get(&format!("/nodes/pve1/tasks/{upid}/log?limit=0")).await.json();
    assert_eq!(log["total"], log["data"].as_array().unwrap().len());
    assert_eq!(log["data"].as_array().unwrap().last().unwrap()["t"], "TASK OK");
    let elsewhere = cluster.get(&format!("/nodes/pve2/tasks/{upid}/status")).await;
    assert_eq!((elsewhere.code, &elsewhere.json()["errors"]["upid"]), (400, &json!("no such task")));
    let listed = cluster.get("/nodes/pve1/tasks?typefilter=qmcreate").await.json();
    assert_eq!((&listed["total"], &listed["data"][0]["status"]), (&json!(1), &json!("OK")));
    cluster.proxmox.faults().add(Fault::once("pve task qmstart *", FaultAction::Warnings { count: 2 }));
    let start = cluster.post("/nodes/pve1/qemu/100/status/start", "").await;
    assert_eq!(cluster.finish(&start).await, "WARNINGS: 2");
}

#[tokio::test]
async fn planned_faults_hit_the_counted_call_in_the_planned_way() {
    let cluster = Cluster::start(|_| {}).await;
    let faults = cluster.proxmox.faults();
    faults.add(Fault::parse("pve POST /nodes/*/qemu=drop-reply").unwrap());
    let body = "vmid=100&pool=cortex";
    let request = format!(
        "POST /api2/json/nodes/pve1/qemu HTTP/1.1\r\nHost: x\r\n{}\r\nContent-Length: {}\r\n\r\n{body}",
        cluster.authorization,
        body.len()
    );
    assert!(cluster.raw(&request).await.is_none(), "executed, and the reply was lost");
    assert!(cluster.proxmox.snapshot().vms.contains_key(&100));
    faults.add(
        Fault::parse("pve GET /version=error:596:tls_process_server_certificate: certificate verify failed").unwrap(),
    );
    let broken = cluster.get("/version").await;
    assert_eq!((broken.code, broken.body.as_str()), (596, ""));
    assert_eq!(cluster.get("/version").await.code, 200);
    faults.add(Fault::parse("pve task qmcreate 101=error:500:got no worker upid - start worker failed").unwrap());
    let create = cluster.post("/nodes/pve1/qemu", "vmid=101&pool=cortex").await;
    assert_eq!(cluster.finish(&create).await, "got no worker upid - start worker failed");
}

#[tokio::test]
async fn a_single_node_has_no_cluster_row_and_version_8_its_own_names() {
    let cluster = Cluster::start(|options| {
        options.version = Version::V8;
        options.hosts = vec![HostOptions::new("alone", "127.0.0.9")];
    })
    .await
    .with_root()
    .await;
    let status = cluster.get("/cluster/status").await.data();
    assert_eq!(status.as_array().unwrap().len(), 1);
    assert_eq!((&status[0]["nodeid"], &status[0]["ip"]), (&json!(0), &json!("127.0.0.9")));
    assert_eq!(cluster.get("/version").await.data()["release"], "8.4");
    let role = cluster.post("/access/roles", "roleid=r&privs=VM.GuestAgent.Audit").await;
    assert_eq!(refused(&role), (400, "invalid privilege 'VM.GuestAgent.Audit'"));
    let rules = cluster.get("/cluster/ha/rules").await;
    assert_eq!(rules.code, 501);
    let managed = cluster.post("/nodes/alone/qemu", "vmid=100&ha-managed=1").await;
    assert!(managed.json()["errors"]["ha-managed"].is_string());
}
