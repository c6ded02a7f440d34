//! Simulated machines in maintenance mode, and what infrastructure-contractor would say of them.

use std::{cell::RefCell, collections::BTreeMap, net::IpAddr};

use engine::report::{Report, Status};
use serde_json::{Value, json};
use simulators::{
    machine::{
        Addressing, Disk, DiskContent, ImageRef, Lease, Machine, Machines, Nic, NocloudInterface, NocloudNetwork,
        PowerOff,
    },
    pace::Pace,
    talos::{Nodes, Options},
};
use uuid::Uuid;

use crate::bench::CLUSTER;

/// Switches machines on and says what infrastructure-contractor would say of them.
pub(crate) struct Rack {
    net: u8,
    pub(crate) nodes: Nodes,
    pub(crate) cluster_uid: Uuid,
    machines: RefCell<BTreeMap<u32, Machine>>,
}

impl Rack {
    pub(crate) fn new(net: u8) -> Self {
        let options = Options { pace: Pace::new(60.0), ..Options::default() };
        Self { net, nodes: Nodes::new(options), cluster_uid: Uuid::new_v4(), machines: RefCell::default() }
    }

    /// Switches a new machine on, and what the handoff says of it.
    pub(crate) fn power_on(&self, hostname: &str, number: u8, version: &str) -> Value {
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
        let machine = Machine {
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
        };
        self.machines.borrow_mut().insert(machine.vmid, machine.clone());
        self.nodes.power_on(machine);
        let (role, pool) = if hostname.contains("-cp-") { ("controlplane", "cp") } else { ("worker", "worker") };
        json!({
            "role": role, "pool": pool, "ip": address, "hostname": hostname, "vm_id": format!("{}", 100 + u32::from(number)),
            "node_uid": Uuid::new_v4(), "mac": mac, "smbios_uuid": uuid, "host": "pve1",
        })
    }

    /// Cuts the power and gives it back; the disks are what they were.
    pub(crate) fn power_cycle(&self, vmid: u32) {
        self.nodes.power_off(vmid, PowerOff::Cut);
        self.nodes.power_on(self.machines.borrow()[&vmid].clone());
    }

    pub(crate) fn handoff(&self, purpose: &str, nodes: Vec<Value>, spec: &Value) -> Value {
        json!({
            "handoff_type": "vm_provisioned", "cluster_name": CLUSTER, "cluster_uid": self.cluster_uid,
            "purpose": purpose, "ready": true, "nodes": nodes, "spec": spec,
            "api_endpoint": format!("https://127.{}.1.100:6443", self.net),
            "network": { "gateway": format!("127.{}.0.1", self.net), "prefix": 16,
                         "dns_servers": [format!("127.{}.0.1", self.net)] },
        })
    }
}

pub(crate) fn spec(talos: &str, kubernetes: &str) -> Value {
    json!({
        "talos_version": talos, "kubernetes_version": kubernetes, "network_cni": "cilium",
        "storage_backend": "longhorn", "endpoint_is_vip": true, "service_account_key": "ecdsa-p256",
    })
}

/// The run came to its end; otherwise its steps are shown.
pub(crate) fn succeeded(report: &Report) {
    let steps: BTreeMap<_, _> = report.steps.iter().map(|step| (&step.step, (&step.status, &step.reason))).collect();
    assert_eq!(report.status, Status::Succeeded, "{:?} {steps:#?}", report.failure);
}
