//! The lab as a whole: hypervisor, mirror, guests and knobs on one loopback network.

use std::time::Duration;

use serde_json::{Value, json};
use simulators::lab::{EMPTY_SCHEMATIC, Lab, LabOptions};

use crate::client::Api;

async fn lab(guests: bool) -> (Lab, Api) {
    let lab = Lab::start(LabOptions { speed: f64::INFINITY, guests, ..LabOptions::default() }).await.unwrap();
    let api = Api::new(lab.proxmox(), &format!("PVEAPIToken={}", lab.api_token()));
    (lab, api)
}

/// Downloads the image from the lab's mirror with its checksum and makes a VM of it.
async fn make_talos_vm(lab: &Lab, api: &Api, vmid: u32) {
    let url = format!("{}/image/{EMPTY_SCHEMATIC}/v1.13.9/nocloud-amd64.qcow2", lab.mirror().url());
    let image = reqwest::get(&url).await.unwrap().bytes().await.unwrap();
    let sum = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&image));
    let order = format!("content=import&filename=talos.qcow2&url={url}&checksum={sum}&checksum-algorithm=sha256");
    for _ in 0..2 {
        let download = api.post("/nodes/pve1/storage/local/download-url", &order).await;
        assert_eq!(api.finish(&download).await, "OK", "with a checksum the second download is no error");
    }
    let address = lab.subnet().address(1, 1);
    let vm = format!(
        "vmid={vmid}&pool=cortex&name=node-1&memory=4096&cores=2&scsihw=virtio-scsi-single&net0=virtio%2Cbridge%3Dvmbr0&ide2=local-lvm:cloudinit&\
         scsi0=local-lvm:0,import-from%3Dlocal:import/talos.qcow2&ipconfig0=ip%3D{address}/16&boot=order%3Dscsi0"
    );
    let create = api.post("/nodes/pve1/qemu", &vm).await;
    assert_eq!(api.finish(&create).await, "OK");
}

#[tokio::test]
async fn an_imported_image_has_its_size_and_the_download_its_texts() {
    let (lab, api) = lab(false).await;
    make_talos_vm(&lab, &api, 100).await;
    let config = api.get("/nodes/pve1/qemu/100/config").await.data();
    assert_eq!(config["scsi0"], "local-lvm:vm-100-disk-0,size=4247M");
    let again = format!("content=import&filename=talos.qcow2&url={}/x", lab.mirror().url());
    let refused = api.post("/nodes/pve1/storage/local/download-url", &again).await;
    assert_eq!(api.finish(&refused).await, "refusing to override existing file '/var/lib/vz/import/talos.qcow2'");
    let missing = format!("content=iso&filename=x.iso&url={}/nothing", lab.mirror().url());
    let missing = api.post("/nodes/pve1/storage/local/download-url", &missing).await;
    assert_eq!(api.finish(&missing).await, "download failed: exit code 8");
    let outside =
        api.post("/nodes/pve1/storage/local/download-url", "content=iso&filename=x.iso&url=http://192.0.2.1/x").await;
    assert_eq!(api.finish(&outside).await, "download failed: exit code 4", "nothing leaves loopback");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_started_vm_is_a_talos_node_in_maintenance_until_its_host_dies() {
    let (lab, api) = lab(true).await;
    make_talos_vm(&lab, &api, 100).await;
    let start = api.post("/nodes/pve1/qemu/100/status/start", "").await;
    assert_eq!(api.finish(&start).await, "OK");
    let talos = (lab.subnet().address(1, 1), 50_000);
    let answers = async |wanted: bool| {
        for _ in 0..1000 {
            if tokio::net::TcpStream::connect(talos).await.is_ok() == wanted {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the Talos API never became {wanted}");
    };
    answers(true).await;
    lab.proxmox().cut_host("pve1");
    answers(false).await;
    assert!(!lab.proxmox().snapshot().vms[&100].running);
}

#[tokio::test]
async fn the_control_endpoint_turns_the_knobs() {
    let (lab, api) = lab(false).await;
    let client = reqwest::Client::new();
    let post = async |path: &str, body: Value| client.post(lab.control_url() + path).json(&body).send().await.unwrap();
    let fault = json!({ "call": "pve GET /version", "action": "error", "code": 503, "message": "planned" });
    assert!(post("/v1/faults", fault).await.status().is_success());
    assert_eq!(api.get("/version").await.reason, "planned");
    assert!(post("/v1/hosts/pve3", json!({ "power": false })).await.status().is_success());
    assert_eq!(api.get("/nodes/pve3/status").await.code, 595);
    assert!(post("/v1/hosts/pve3", json!({ "power": true })).await.status().is_success());
    assert_eq!(api.get("/nodes/pve3/status").await.code, 200);
    assert!(post("/v1/storages/local-lvm", json!("full")).await.status().is_success());
    assert_eq!(api.get("/nodes/pve1/storage/local-lvm/status").await.data()["avail"], 0);
    assert_eq!(post("/v1/hosts/pve9", json!({ "power": true })).await.status(), 404);
    let snapshot: Value = client.get(lab.control_url() + "/v1/snapshot").send().await.unwrap().json().await.unwrap();
    assert_eq!(snapshot["hosts"]["pve1"], true);
    let status: Value = client.get(lab.control_url() + "/v1/status").send().await.unwrap().json().await.unwrap();
    assert_eq!(status["proxmox"]["fingerprint"], lab.proxmox().fingerprint());
}

#[tokio::test]
async fn fault_proxies_are_put_up_harmed_cut_and_taken_down_by_hand() {
    let (lab, _api) = lab(false).await;
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
    let proxies = lab.control_url() + "/v1/proxies";
    let post = async |path: &str, body: Value| client.post(proxies.clone() + path).json(&body).send().await.unwrap();
    let listen = format!("{}:0", lab.subnet().address(0, 3));
    let to = lab.mirror().url().strip_prefix("http://").unwrap().to_owned();
    let made: Value = post("", json!({ "listen": listen, "to": to })).await.json().await.unwrap();
    assert_eq!((&made["id"], &made["harm"]["cut"]), (&json!(1), &Value::Null));
    let through = format!("http://{}/schematics/{EMPTY_SCHEMATIC}", made["listen"].as_str().unwrap());
    let get = async || client.get(&through).timeout(Duration::from_secs(5)).send().await;
    assert!(get().await.is_ok());
    let harmed: Value = post("/1", json!({ "cut": "close", "after_bytes": 5 })).await.json().await.unwrap();
    assert_eq!(harmed["harm"], json!({ "delay_ms": 0, "cut": "close", "after_bytes": 5, "direction": "down" }));
    assert!(get().await.is_err(), "five bytes are no answer");
    assert_eq!(post("/1", json!({ "cut": "explode" })).await.status(), 422);
    assert!(post("/1", json!({})).await.status().is_success());
    assert!(get().await.is_ok(), "harmless again");
    let mut idle = tokio::net::TcpStream::connect(made["listen"].as_str().unwrap()).await.unwrap();
    while client.get(proxies.clone() + "/1").send().await.unwrap().json::<Value>().await.unwrap()["connections"] == 0 {
        tokio::task::yield_now().await;
    }
    assert!(post("/1/cut", json!({ "cut": "close" })).await.status().is_success());
    assert_eq!(tokio::io::AsyncReadExt::read(&mut idle, &mut [0]).await.unwrap(), 0);
    assert_eq!(post("", json!({ "listen": listen, "to": "192.0.2.1:80" })).await.status(), 400, "loopback only");
    assert!(client.delete(proxies.clone() + "/1").send().await.unwrap().status().is_success());
    assert!(get().await.is_err());
    assert_eq!(post("/1", json!({})).await.status(), 404);
}

#[tokio::test]
async fn delays_are_listed_with_who_had_them_where_they_are_recorded() {
    let options = LabOptions { speed: 50.0, guests: true, record_delays: true, ..LabOptions::default() };
    let lab = Lab::start(options).await.unwrap();
    let api = Api::new(lab.proxmox(), &format!("PVEAPIToken={}", lab.api_token()));
    make_talos_vm(&lab, &api, 100).await;
    let start = api.post("/nodes/pve1/qemu/100/status/start", "").await;
    assert_eq!(api.finish(&start).await, "OK");
    let recorded = async || {
        let delays = reqwest::get(lab.control_url() + "/v1/delays").await.unwrap();
        delays.json::<Vec<Value>>().await.unwrap()
    };
    let is = |delay: &Value, machine: &str, what: &str| delay["machine"] == machine && delay["what"] == what;
    while !recorded().await.iter().any(|delay| is(delay, "qemu/100", "firmware")) {
        tokio::task::yield_now().await;
    }
    let delays = recorded().await;
    let find = |machine, what| delays.iter().find(|delay| is(delay, machine, what)).unwrap();
    let (download, firmware) = (find("node/pve1", "download"), find("qemu/100", "firmware"));
    assert!(download["end"].as_f64() < firmware["begin"].as_f64());
    let lasted = firmware["end"].as_f64().unwrap() - firmware["begin"].as_f64().unwrap();
    assert!(lasted >= 8.0 / 50.0, "{lasted}");
    assert!(find("qemu/100", "qmstart")["end"].as_f64() <= firmware["begin"].as_f64());
}

#[tokio::test]
async fn the_mirror_knows_schematics_that_were_registered() {
    let (lab, _api) = lab(false).await;
    let client = reqwest::Client::new();
    let body = "customization:\n  systemExtensions:\n    officialExtensions:\n      - siderolabs/iscsi-tools\n";
    let answer = client.post(lab.mirror().url() + "/schematics").body(body).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let id = answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(lab.mirror().registry().extensions(&id), ["siderolabs/iscsi-tools"]);
    let image = |id: &str| client.get(format!("{}/image/{id}/v1.13.9/nocloud-amd64.qcow2", lab.mirror().url())).send();
    assert_eq!(image(&id).await.unwrap().status(), 200);
    assert_eq!(image(&"0".repeat(64)).await.unwrap().status(), 404);
    for addon in lab.mirror().addons() {
        let text = reqwest::get(&addon.url).await.unwrap().bytes().await.unwrap();
        assert_eq!(hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&text)), addon.sha256);
    }
}
