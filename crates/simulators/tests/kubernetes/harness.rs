//! One simulated cluster with clients for it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::config::{
    AuthInfo, Cluster as NamedCluster, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedContext,
};
use kube::{Client, Config};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use simulators::kubernetes::{
    ApiServer, ApiServerOptions, BootstrapManifests, ClusterIdentity, Cni, ControlPlane, Kubelet, KubeletOptions,
    ServingIdentity, StaticPod, Taint,
};

/// How much faster than the real thing these tests run.
pub(crate) const SPEED: f64 = 50.0;

pub(crate) struct World {
    pub(crate) identity: ClusterIdentity,
    pub(crate) control_plane: ControlPlane,
    pub(crate) server: ApiServer,
    pub(crate) client: Client,
    pub(crate) kubelets: Vec<Kubelet>,
}

pub(crate) fn identity() -> ClusterIdentity {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "kubernetes");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(&key).expect("CA");
    ClusterIdentity {
        cluster_name: "demo".into(),
        ca_certificate_pem: certificate.pem(),
        ca_key_pem: key.serialize_pem(),
        service_account_key_pem: KeyPair::generate().expect("key").serialize_pem(),
        bootstrap_token: "abcdef.0123456789abcdef".into(),
        endpoint: "https://127.0.0.1:6443".into(),
        pod_subnet: "10.244.0.0/16".into(),
        service_subnet: "10.96.0.0/12".into(),
        dns_domain: "cluster.local".into(),
    }
}

impl World {
    /// A cluster with one API server and no nodes.
    pub(crate) async fn start() -> Self {
        Self::start_with(identity()).await
    }

    pub(crate) async fn start_with(identity: ClusterIdentity) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let control_plane = ControlPlane::new(identity.clone(), SPEED);
        let server = start_server(&control_plane, &identity, "127.0.0.1:0").await;
        let client = client(&identity, &server, "admin", &["system:masters"]).await;
        Self { identity, control_plane, server, client, kubelets: Vec::new() }
    }

    pub(crate) fn bootstrap(&self, cni: Cni) {
        self.control_plane.apply_bootstrap_manifests(&BootstrapManifests {
            cni,
            kube_proxy_image: Some("registry.k8s.io/kube-proxy:v1.36.2".into()),
            coredns_image: Some("registry.k8s.io/coredns/coredns:v1.13.2".into()),
            inventory: true,
        });
    }

    /// Adds a node; control planes carry the usual label, taint and static pods.
    pub(crate) fn add_node(&mut self, name: &str, control_plane: bool) {
        let number = u8::try_from(self.kubelets.len()).expect("few nodes") + 10;
        let found = self.control_plane.clone();
        let options = node(name, IpAddr::from([127, 20, 0, number]), control_plane);
        self.kubelets.push(Kubelet::start(options, Arc::new(move || Some(found.clone())), SPEED));
    }

    pub(crate) async fn client_as(&self, name: &str, groups: &[&str]) -> Client {
        client(&self.identity, &self.server, name, groups).await
    }
}

pub(crate) async fn start_server(control_plane: &ControlPlane, identity: &ClusterIdentity, address: &str) -> ApiServer {
    let serving = ServingIdentity::issue(
        identity,
        &["kubernetes".into()],
        &[IpAddr::from([127, 0, 0, 1])],
        jiff::Timestamp::now(),
    );
    let serving = serving.expect("issues");
    let options = ApiServerOptions {
        node_name: "cp-1".into(),
        address: address.parse().expect("address"),
        serving,
        kubernetes_version: "v1.36.2".into(),
        time: Arc::new(rustls::time_provider::DefaultTimeProvider),
    };
    control_plane.start_api_server(options).await.expect("binds")
}

pub(crate) fn node(name: &str, address: IpAddr, control_plane: bool) -> KubeletOptions {
    let mut labels = BTreeMap::new();
    let mut taints = Vec::new();
    let mut static_pods = Vec::new();
    if control_plane {
        labels.insert("node-role.kubernetes.io/control-plane".to_owned(), String::new());
        let key = "node-role.kubernetes.io/control-plane".into();
        taints.push(Taint { key, value: String::new(), effect: "NoSchedule".into() });
        for component in ["kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
            let image = format!("registry.k8s.io/{component}:v1.36.2");
            let command = vec![format!("/usr/local/bin/{component}")];
            static_pods.push(StaticPod { name: component.into(), image, command, config_version: "1".into() });
        }
    }
    KubeletOptions {
        node_name: name.into(),
        addresses: vec![address],
        labels,
        annotations: BTreeMap::new(),
        taints,
        provider_id: Some(format!("proxmox://lab/{name}")),
        kubelet_version: "v1.36.2".into(),
        os_image: "Talos (v1.13.9)".into(),
        kernel_version: "6.18.9-talos".into(),
        container_runtime: "containerd://2.2.1".into(),
        cpus: 4,
        memory_bytes: 8 << 30,
        ephemeral_bytes: 40 << 30,
        machine_id: "0123456789abcdef".into(),
        system_uuid: "2a5a0b0c-0000-4000-8000-000000000001".into(),
        boot_id: "boot-1".into(),
        rotate_server_certificates: false,
        static_pods,
        delays: Default::default(),
    }
}

/// A kubeconfig whose client certificate the cluster CA signed.
pub(crate) fn kubeconfig(identity: &ClusterIdentity, server: &ApiServer, name: &str, groups: &[&str]) -> Kubeconfig {
    let issuer_key = KeyPair::from_pem(&identity.ca_key_pem).expect("key");
    let issuer = Issuer::from_ca_cert_pem(&identity.ca_certificate_pem, issuer_key).expect("CA");
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer).expect("signs");
    let encode = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    let cluster = NamedCluster {
        server: Some(format!("https://{}", server.address())),
        certificate_authority_data: Some(encode(&identity.ca_certificate_pem)),
        ..NamedCluster::default()
    };
    let user = AuthInfo {
        client_certificate_data: Some(encode(&certificate.pem())),
        client_key_data: Some(encode(&key.serialize_pem()).into()),
        ..AuthInfo::default()
    };
    let context = Context { cluster: "lab".into(), user: Some("user".into()), ..Context::default() };
    Kubeconfig {
        clusters: vec![kube::config::NamedCluster { name: "lab".into(), cluster: Some(cluster), ..Default::default() }],
        auth_infos: vec![NamedAuthInfo { name: "user".into(), auth_info: Some(user), ..Default::default() }],
        contexts: vec![NamedContext { name: "lab".into(), context: Some(context), ..NamedContext::default() }],
        current_context: Some("lab".into()),
        ..Kubeconfig::default()
    }
}

pub(crate) async fn client(identity: &ClusterIdentity, server: &ApiServer, name: &str, groups: &[&str]) -> Client {
    let kubeconfig = kubeconfig(identity, server, name, groups);
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("config");
    // kube repeats a 429 fifteen times with doubling pauses (163 s in all) before an eviction's refusal is seen.
    config.default_retry = false;
    Client::try_from(config).expect("client")
}

/// Waits until the check holds, looking again with every write; panics with what it waited for after half a minute.
pub(crate) async fn eventually(control_plane: &ControlPlane, what: &str, mut check: impl FnMut() -> bool) {
    let mut changes = control_plane.changes();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !check() {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        assert!(!left.is_zero(), "still waiting for {what}");
        let _ = tokio::time::timeout(left.min(Duration::from_millis(100)), changes.changed()).await;
    }
}
