//! The whole life of a cluster on simulated Talos nodes, by the shipped playbooks.

use std::{collections::BTreeMap, net::IpAddr};

use engine::report::{Report, Status};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use simulators::{
    machine::{
        Addressing, Disk, DiskContent, ImageRef, Lease, Machine, Machines, Nic, NocloudInterface, NocloudNetwork,
    },
    pace::Pace,
    talos::{Nodes, Options},
};
use talos_contractor::inventory;
use uuid::Uuid;

use crate::{
    bench::{Bench, CLUSTER},
    surface,
};

/// Switches machines on and says what infrastructure-contractor would say of them.
struct Rack {
    net: u8,
    nodes: Nodes,
    cluster_uid: Uuid,
}

impl Rack {
    fn new(net: u8) -> Self {
        let options = Options { pace: Pace::new(60.0), ..Options::default() };
        Self { net, nodes: Nodes::new(options), cluster_uid: Uuid::new_v4() }
    }

    fn power_on(&self, hostname: &str, number: u8, version: &str) -> Value {
        let uuid = Uuid::new_v4();
        let mac = format!("BC:24:11:00:{:02X}:{number:02X}", self.net);
        let address = IpAddr::from([127, self.net, 1, number]);
        let lease = Lease { address, prefix: 16, gateway: Some(IpAddr::from([127, self.net, 0, 1])) };
        let image = ImageRef {
            file_name: "nocloud-amd64.raw".into(),
            talos_version: Some(version.into()),
            schematic: None,
            platform: "nocloud".into(),
        };
        let interface = NocloudInterface { mac: mac.clone(), addressing: Addressing::Static(lease) };
        self.nodes.power_on(Machine {
            vmid: 100 + u32::from(number),
            name: hostname.into(),
            host: "pve1".into(),
            smbios_uuid: uuid,
            smbios_serial: String::new(),
            cpus: 4,
            memory_mib: 8192,
            disks: vec![Disk {
                slot: "scsi0".into(),
                size_bytes: 40 << 30,
                serial: None,
                rotational: false,
                read_only: false,
                content: DiskContent::from_image(image),
            }],
            cdrom: None,
            nics: vec![Nic {
                mac: mac.clone(),
                bridge: "vmbr0".into(),
                vlan: None,
                mtu: None,
                connected: true,
                dhcp: None,
            }],
            network: Some(NocloudNetwork {
                hostname: Some(hostname.into()),
                interfaces: vec![interface],
                nameservers: vec![IpAddr::from([127, self.net, 0, 1])],
                ..NocloudNetwork::default()
            }),
            guest_agent: false,
            secure_boot: false,
        });
        let (role, pool) = if hostname.contains("-cp-") { ("controlplane", "cp") } else { ("worker", "worker") };
        json!({
            "role": role, "pool": pool, "ip": address, "hostname": hostname, "vm_id": format!("{}", 100 + u32::from(number)),
            "node_uid": Uuid::new_v4(), "mac": mac, "smbios_uuid": uuid, "host": "pve1",
        })
    }

    fn handoff(&self, purpose: &str, nodes: Vec<Value>, spec: &Value) -> Value {
        json!({
            "handoff_type": "vm_provisioned", "cluster_name": CLUSTER, "cluster_uid": self.cluster_uid,
            "purpose": purpose, "ready": true, "nodes": nodes, "spec": spec,
            "api_endpoint": format!("https://127.{}.1.100:6443", self.net),
            "network": { "gateway": format!("127.{}.0.1", self.net), "prefix": 16,
                         "dns_servers": [format!("127.{}.0.1", self.net)] },
        })
    }
}

fn spec(talos: &str, kubernetes: &str) -> Value {
    json!({
        "talos_version": talos, "kubernetes_version": kubernetes, "network_cni": "cilium",
        "storage_backend": "longhorn", "endpoint_is_vip": true, "service_account_key": "ecdsa-p256",
    })
}

fn succeeded(report: &Report) {
    let steps: BTreeMap<_, _> = report.steps.iter().map(|step| (&step.step, (&step.status, &step.reason))).collect();
    assert_eq!(report.status, Status::Succeeded, "{:?} {steps:#?}", report.failure);
}

async fn ready_nodes(bench: &Bench) -> Vec<String> {
    let list = Api::<Node>::all(bench.client().await).list(&ListParams::default()).await.unwrap();
    list.items.into_iter().filter_map(|node| node.metadata.name).collect()
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
    let report = bench.run("bootstrap-cluster", rack.handoff("create", vec![node], &spec("1.13.9", "1.36.3"))).await;
    surface::trust(address).await;
    assert_eq!(report.status, Status::Undone, "{report:#?}");
    let [failed] = bench.handoffs("cluster_failed").try_into().unwrap();
    assert!(failed["reason"].as_str().unwrap().contains("SMBIOS UUID"), "{failed}");
    assert_eq!(failed["step"], "apply[prod-cp-1]");
    let store = bench.store.reader();
    assert!(inventory::clusters(&store).unwrap().is_empty());
    assert!(store.secret_names("cluster/").unwrap().is_empty());
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
