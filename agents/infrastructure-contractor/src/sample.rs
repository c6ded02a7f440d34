//! A machine and its cluster for tests.

use std::collections::BTreeMap;

use jiff::Timestamp;
use messages::{
    handoff::ClusterStatus,
    request::{EndpointKind, FailurePolicy, Role, Shape, TalosSpec},
};
use proxmox::config::Mac;
use uuid::Uuid;

use crate::inventory::{Cluster, ClusterNetwork, ClusterState, Endpoint, Image, Machine, MachineNic, Ready};

/// The first control plane of `prod-k8s`, VM 101 on pve1.
pub(crate) fn machine() -> Machine {
    Machine {
        node_uid: Uuid::from_u128(1),
        cluster: "prod-k8s".parse().unwrap(),
        cluster_uid: Uuid::from_u128(2),
        hostname: "prod-k8s-cp-1".parse().unwrap(),
        pool: "cp".parse().unwrap(),
        role: Role::ControlPlane,
        vmid: 101,
        host: "pve1".into(),
        smbios_uuid: Uuid::from_u128(3),
        ip: "192.168.1.10".parse().unwrap(),
        network: ClusterNetwork {
            name: "lan".into(),
            prefix: 24,
            gateway: "192.168.1.1".parse().unwrap(),
            dns_servers: vec!["1.1.1.1".parse().unwrap()],
            bridge: "vmbr0".into(),
            vlan: None,
            mtu: None,
            firewall: false,
        },
        nics: vec![MachineNic {
            mac: Mac::proxmox([0, 0, 1]),
            bridge: "vmbr0".into(),
            vlan: None,
            mtu: None,
            firewall: false,
        }],
        shape: Shape { cpus: 4, memory_mib: 8192, disk_gib: 40 },
        storage: "local-lvm".into(),
        shared_storage: false,
        extra_disks: Vec::new(),
        image: Image { talos_version: "1.13.9".into(), schematic: "ab".repeat(32), extensions: Vec::new() },
        flow: Uuid::from_u128(4),
    }
}

/// Its cluster, ready and with these endpoints to scrape.
pub(crate) fn cluster(metrics_endpoints: &[&str]) -> Cluster {
    let machine = machine();
    let endpoint = Endpoint { kind: EndpointKind::Node, host: machine.ip.to_string(), port: 6443, leased: None };
    Cluster {
        uid: machine.cluster_uid,
        name: machine.cluster,
        state: ClusterState::Active,
        flow: machine.flow,
        created: Timestamp::UNIX_EPOCH,
        pools: BTreeMap::new(),
        network: machine.network,
        ready: Some(Ready {
            at: Timestamp::UNIX_EPOCH,
            status: ClusterStatus::Healthy,
            api_endpoint: endpoint.url(),
            metrics_endpoints: metrics_endpoints.iter().map(|url| (*url).to_owned()).collect(),
            kubernetes_version: None,
            api_p95_ms: None,
        }),
        endpoint,
        spec: TalosSpec::default(),
        image: machine.image,
        failure_policy: FailurePolicy::default(),
    }
}
