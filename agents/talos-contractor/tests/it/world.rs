//! A cluster that stands, by the records, with its simulated Kubernetes API but without Talos nodes.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use jiff::Timestamp;
use messages::request::Role;
use secrecy::{ExposeSecret, SecretSlice};
use serde_json::json;
use simulators::kubernetes::{
    ApiServer, ApiServerOptions, BootstrapManifests, ClusterIdentity, Cni, ControlPlane, Kubelet, KubeletOptions,
    ServingIdentity, StaticPod, Taint,
};
use store::{Commit, InventoryChange, SecretPut, Store};
use talos::{
    pki::{PrivateKey, ServiceAccountKey, service_account_key},
    secrets::Bundle,
    version::Minor,
};
use talos_contractor::{
    inventory::{self, Cluster, Node},
    kubernetes,
};
use uuid::Uuid;

use crate::bench::{Bench, CLUSTER};

const SPEED: f64 = 50.0;

/// Everything a test needs; its addresses are those of one loopback network.
pub(crate) struct World {
    pub(crate) control_plane: ControlPlane,
    pub(crate) bench: Bench,
    kubelets: BTreeMap<String, Kubelet>,
    _server: ApiServer,
}

impl World {
    /// One control plane and two workers below 127.`net`.0.0/16, and these playbooks beside the shipped ones.
    pub(crate) async fn start(net: u8, more: &[(&str, &str)]) -> Self {
        Self::with_kubelets(net, more, kubelet_options).await
    }

    /// The same; its kubelets ask the cluster for their serving certificates.
    pub(crate) async fn rotating(net: u8, more: &[(&str, &str)]) -> Self {
        let rotating = |node: &Node| KubeletOptions { rotate_server_certificates: true, ..kubelet_options(node) };
        Self::with_kubelets(net, more, rotating).await
    }

    async fn with_kubelets(net: u8, more: &[(&str, &str)], options_of: fn(&Node) -> KubeletOptions) -> Self {
        let bench = Bench::start(net, more).await;
        let bundle = bundle();
        let cluster = record(net);
        let nodes = [node(net, "prod-cp-1", 10), node(net, "prod-worker-1", 11), node(net, "prod-worker-2", 12)];
        remember(&bench.store, &cluster, &nodes, &bundle).await;

        let identity = identity(&cluster, &bundle);
        let control_plane = ControlPlane::new(identity.clone(), SPEED);
        let address = SocketAddr::new(nodes[0].ip, kubernetes::PORT);
        let serving =
            ServingIdentity::issue(&identity, &["kubernetes".into()], &[address.ip()], Timestamp::now()).unwrap();
        let version = format!("v{}", cluster.kubernetes_version);
        let options = ApiServerOptions {
            node_name: nodes[0].hostname.to_string(),
            address,
            serving,
            kubernetes_version: version,
            time: Arc::new(rustls::time_provider::DefaultTimeProvider),
        };
        let server = control_plane.start_api_server(options).await.unwrap();
        control_plane.apply_bootstrap_manifests(&BootstrapManifests {
            cni: Cni::None,
            kube_proxy_image: None,
            coredns_image: Some("registry.k8s.io/coredns/coredns:v1.13.2".into()),
            inventory: true,
        });
        let kubelets = nodes.iter().map(|node| {
            let found = control_plane.clone();
            let kubelet = Kubelet::start(options_of(node), Arc::new(move || Some(found.clone())), SPEED);
            (node.hostname.to_string(), kubelet)
        });
        let kubelets = kubelets.collect();

        Self { control_plane, bench, kubelets, _server: server }
    }

    /// Takes the power from a node.
    pub(crate) fn power_off(&mut self, node: &str) {
        self.kubelets.remove(node);
    }
}

fn bundle() -> Bundle {
    let key = service_account_key(ServiceAccountKey::EcdsaP256).unwrap();
    Bundle::generate(Minor::V1_13, key, Timestamp::now()).unwrap()
}

fn record(net: u8) -> Cluster {
    serde_json::from_value(json!({
        "name": CLUSTER, "uid": Uuid::new_v4(), "state": "active",
        "talos_version": "1.13.9", "kubernetes_version": "1.36.3",
        "endpoint": format!("https://127.{net}.1.10:6443"),
        "network": { "gateway": format!("127.{net}.0.1"), "dns_servers": [] },
        "spec": { "network_cni": "cilium", "storage_backend": "local-path" },
        "created": Timestamp::now(),
    }))
    .unwrap()
}

fn node(net: u8, hostname: &str, number: u8) -> Node {
    let plane = hostname.contains("-cp-");
    serde_json::from_value(json!({
        "cluster": CLUSTER, "hostname": hostname, "uid": Uuid::new_v4(), "pool": if plane { "cp" } else { "worker" },
        "role": if plane { "controlplane" } else { "worker" }, "ip": format!("127.{net}.1.{number}"),
        "vm_id": format!("1{number}"), "host": "pve1", "state": "joining",
    }))
    .unwrap()
}

async fn remember(store: &Store, cluster: &Cluster, nodes: &[Node], bundle: &Bundle) {
    let mut inventory = vec![InventoryChange::create(inventory::cluster_key(&cluster.name), inventory::json(cluster))];
    for node in nodes {
        inventory
            .push(InventoryChange::create(inventory::node_key(&node.cluster, &node.hostname), inventory::json(node)));
    }
    let text = bundle.to_yaml().unwrap();
    let plain = SecretSlice::from(text.expose_secret().as_bytes().to_vec());
    let secrets = vec![SecretPut { name: inventory::bundle_name(&cluster.name), plain: Some(plain) }];
    store.commit(Commit { inventory, secrets, ..Commit::default() }).await.unwrap();
}

/// The simulator reads standard key labels only.
fn identity(cluster: &Cluster, bundle: &Bundle) -> ClusterIdentity {
    let standard = |pem: &str| PrivateKey::from_pem(pem).unwrap().signer().unwrap().serialize_pem();
    ClusterIdentity {
        cluster_name: cluster.name.to_string(),
        ca_certificate_pem: bundle.kubernetes.crt.clone(),
        ca_key_pem: standard(bundle.kubernetes.key.expose_secret()),
        service_account_key_pem: standard(bundle.service_account_key.expose_secret()),
        bootstrap_token: bundle.bootstrap_token.expose_secret().to_owned(),
        endpoint: cluster.endpoint.clone(),
        pod_subnet: "10.244.0.0/16".into(),
        service_subnet: "10.96.0.0/12".into(),
        dns_domain: "cluster.local".into(),
    }
}

fn kubelet_options(node: &Node) -> KubeletOptions {
    let plane = node.role == Role::ControlPlane;
    let key = "node-role.kubernetes.io/control-plane";
    let component = |name: &str| StaticPod {
        name: name.into(),
        image: format!("registry.k8s.io/{name}:v1.36.3"),
        command: vec![format!("/usr/local/bin/{name}")],
        config_version: "1".into(),
    };
    let pods = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"].map(component);
    let taint = Taint { key: key.into(), value: String::new(), effect: "NoSchedule".into() };
    KubeletOptions {
        node_name: node.hostname.to_string(),
        addresses: vec![node.ip],
        labels: if plane { [(key.to_owned(), String::new())].into() } else { BTreeMap::new() },
        annotations: BTreeMap::new(),
        taints: if plane { vec![taint] } else { Vec::new() },
        provider_id: None,
        kubelet_version: "v1.36.3".into(),
        os_image: "Talos (v1.13.9)".into(),
        kernel_version: "6.18.9-talos".into(),
        container_runtime: "containerd://2.2.1".into(),
        cpus: 4,
        memory_bytes: 8 << 30,
        ephemeral_bytes: 40 << 30,
        machine_id: "0123456789abcdef".into(),
        system_uuid: Uuid::new_v4().to_string(),
        boot_id: "boot-1".into(),
        rotate_server_certificates: false,
        static_pods: if plane { pods.into() } else { Vec::new() },
        delays: Default::default(),
    }
}
