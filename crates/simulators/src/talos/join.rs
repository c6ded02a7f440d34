//! The Kubernetes side of a node: finding the cluster, the API server, the kubelet, the shared address.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use tokio_util::sync::CancellationToken;

use super::config::{Config, MachineType, tag_of};
use super::cosi::kinds;
use super::etcd::{Cluster, Data};
use super::node::Boot;
use super::release::Line;
use super::services::State;
use super::{apid, claims, clock, publish, tls};
use crate::kubernetes::{
    ApiServer, ApiServerOptions, BootstrapManifests, ClusterIdentity, Cni, ControlPlane, Kubelet, KubeletOptions,
    ServingIdentity, StaticPod, Taint,
};

/// Port of every API server.
pub(crate) const API_PORT: u16 = 6443;

/// Waits until a service is up.
pub(crate) async fn until_up(boot: &Boot, id: &str) {
    let mut changes = boot.services.changes();
    while !boot.services.is_up(id) {
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

pub(crate) fn cluster_identity(config: &Config) -> ClusterIdentity {
    let ca = config.cluster_ca();
    ClusterIdentity {
        cluster_name: config.cluster_name(),
        ca_certificate_pem: ca.crt,
        ca_key_pem: ca.key.as_deref().map(tls::standard_pem).unwrap_or_default(),
        service_account_key_pem: tls::standard_pem(&config.service_account_key()),
        bootstrap_token: config.bootstrap_token(),
        endpoint: config.endpoint(),
        pod_subnet: config.pod_subnets().remove(0),
        service_subnet: config.service_subnets().remove(0),
        dns_domain: config.dns_domain(),
    }
}

/// Addresses of control planes that discovery or the Kubernetes endpoint names, without this node.
pub(crate) fn control_plane_addresses(boot: &Boot, config: &Config) -> Vec<IpAddr> {
    let own = boot.network().addresses();
    let mut found: Vec<IpAddr> = Vec::new();
    if config.discovery() {
        let known = boot.world.affiliates(&(config.cluster_id(), config.cluster_secret()));
        let control_planes = known.iter().filter(|affiliate| affiliate.machine_type == MachineType::ControlPlane);
        found.extend(control_planes.filter_map(|affiliate| affiliate.addresses.first()));
    } else if let Some(cluster) = endpoint_cluster(boot, config) {
        found.extend(boot.world.api_servers_of(&cluster).iter().map(SocketAddr::ip));
    }
    found.retain(|address| !own.contains(address));
    found.dedup();
    found
}

/// The cluster whose API server answers at the configured endpoint.
fn endpoint_cluster(boot: &Boot, config: &Config) -> Option<Cluster> {
    let (host, port) = config.endpoint_parts()?;
    api_server(boot, SocketAddr::new(host.parse().ok()?, port))
}

/// The cluster whose API server answers there with a certificate that this node takes.
fn api_server(boot: &Boot, address: SocketAddr) -> Option<Cluster> {
    let cluster = boot.world.api_server_at(address)?;
    let server = boot.world.node_at(address.ip());
    server.is_none_or(|server| clock::accepts(boot, &server)).then_some(cluster)
}

/// The etcd cluster a node with an empty data directory would join: that of a control plane which answers.
pub(crate) fn discovered_cluster(boot: &Boot, config: &Config) -> Option<Cluster> {
    let peers = control_plane_addresses(boot, config);
    peers.iter().find_map(|peer| {
        let peer = boot.world.node_at(*peer)?;
        // Each shows the other a certificate.
        let agree = clock::accepts(boot, &peer) && clock::accepts(&peer, boot);
        Some(peer.etcd.running().filter(|_| agree)?.cluster)
    })
}

/// The API server this node's kubelet reaches: by KubePrism at any control plane, else at the endpoint only.
pub(crate) fn find_control_plane(boot: &Boot) -> Option<ControlPlane> {
    let config = boot.active_config()?;
    let own_ca = config.cluster_ca().crt;
    let at_endpoint = endpoint_cluster(boot, &config);
    let through_prism = || {
        config.kube_prism()?;
        let mut candidates = control_plane_addresses(boot, &config);
        candidates.extend(boot.address());
        candidates.into_iter().find_map(|address| api_server(boot, SocketAddr::new(address, API_PORT)))
    };
    let cluster = at_endpoint.or_else(through_prism)?;
    cluster.serves_ca(&own_ca).then(|| cluster.control_plane().clone())
}

/// Runs the API server while a voting etcd member runs here, and the shared address with it.
pub(crate) async fn control_plane(boot: Arc<Boot>) {
    loop {
        let data = boot.etcd.voting(&boot).await;
        boot.work("kube-apiserver", 5.0).await;
        let Some(server) = start_api_server(&boot, &data).await else { continue };
        let server = Arc::new(server);
        let address = server.address();
        let registered = Registered::new(&boot, address, &data.cluster);
        if let Some(config) = boot.active_config() {
            data.cluster.control_plane().apply_bootstrap_manifests(&manifests(&config, boot.release.line));
        }
        publish::control_plane(&boot);
        let mut changes = boot.world.changes();
        tokio::select! {
            () = hold_virtual_addresses(&boot, &data, &server) => {}
            () = api_server_changed(&boot) => {}
            () = freeze_with(&boot, &server) => {}
            () = boot.clock.jump() => {}
            () = claims::until(&boot, address.ip(), false) => {}
            () = async {
                while boot.etcd.running().is_some() && changes.changed().await.is_ok() {}
            } => {}
        }
        drop(registered);
    }
}

/// Waits until the configuration asks for another API server: its static pod is replaced, and it starts anew.
async fn api_server_changed(boot: &Boot) {
    let section = |config: &Config| {
        let own = config.main().pointer("/cluster/apiServer").cloned();
        (own, config.document("KubeAPIServerConfig").cloned())
    };
    let mut configs = boot.config.subscribe();
    let before = configs.borrow_and_update().as_deref().map(section);
    while configs.changed().await.is_ok() {
        if configs.borrow_and_update().as_deref().map(section) != before {
            return;
        }
    }
    std::future::pending().await
}

/// Lets the API server answer only while the machine's processors run.
async fn freeze_with(boot: &Boot, server: &ApiServer) {
    let mut frozen = boot.frozen.clone();
    loop {
        server.set_frozen(*frozen.borrow_and_update());
        if frozen.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// An API server's entry in the world, gone when it goes.
struct Registered {
    boot: Weak<Boot>,
    address: SocketAddr,
}

impl Registered {
    fn new(boot: &Arc<Boot>, address: SocketAddr, cluster: &Cluster) -> Self {
        boot.world.add_api_server(address, cluster);
        Self { boot: Arc::downgrade(boot), address }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(boot) = self.boot.upgrade() {
            boot.world.remove_api_server(self.address);
        }
    }
}

async fn start_api_server(boot: &Arc<Boot>, data: &Data) -> Option<ApiServer> {
    let config = boot.active_config()?;
    let address = boot.address()?;
    let version = config.image("kube-apiserver").and_then(|image| tag_of(&image))?;
    claims::until(boot, address, true).await;
    let identity = cluster_identity(&config);
    let (names, addresses) = api_server_names(boot, &config);
    let serving = match ServingIdentity::issue(&identity, &names, &addresses, boot.clock.now()) {
        Ok(serving) => serving,
        Err(error) => {
            boot.logs.kernel(&format!("failed to issue the API server's certificate: {error}"));
            boot.work("kube-apiserver again", 10.0).await;
            return None;
        }
    };
    loop {
        let options = ApiServerOptions {
            node_name: boot.name(),
            address: SocketAddr::new(address, API_PORT),
            serving: serving.clone(),
            kubernetes_version: version.clone(),
            time: Arc::new(boot.clock.clone()),
        };
        match data.cluster.control_plane().start_api_server(options).await {
            Ok(server) => return Some(server),
            Err(error) => {
                boot.logs.service("kubelet", &format!("kube-apiserver cannot listen on {address}:{API_PORT}: {error}"));
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

fn api_server_names(boot: &Boot, config: &Config) -> (Vec<String>, Vec<IpAddr>) {
    let domain = config.dns_domain();
    let mut names: Vec<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).into();
    names.extend([format!("kubernetes.default.svc.{domain}"), "localhost".to_owned(), boot.network().hostname]);
    let mut addresses = boot.network().addresses();
    addresses.extend(config.virtual_addresses());
    addresses.push(IpAddr::from([127, 0, 0, 1]));
    let service = config.service_subnets().first().and_then(|subnet| subnet.parse::<ipnet::IpNet>().ok());
    addresses.extend(service.and_then(|subnet| subnet.hosts().next()));
    let endpoint = config.endpoint_parts().map(|(host, _)| host);
    for san in config.api_server_sans().into_iter().chain(endpoint) {
        match san.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(san),
        }
    }
    names.sort();
    names.dedup();
    addresses.sort();
    addresses.dedup();
    (names, addresses)
}

/// What Talos installs into the cluster.
pub(crate) fn manifests(config: &Config, line: Line) -> BootstrapManifests {
    BootstrapManifests {
        cni: if config.cni(line) == "flannel" { Cni::Flannel } else { Cni::None },
        kube_proxy_image: config.kube_proxy_image(line),
        coredns_image: config.coredns_image(),
        inventory: line >= Line::V1_13,
    }
}

/// Campaigns for every shared address; who holds one answers on it.
async fn hold_virtual_addresses(boot: &Arc<Boot>, data: &Data, server: &Arc<ApiServer>) {
    let addresses = boot.active_config().map(|config| config.virtual_addresses()).unwrap_or_default();
    let mut held: Vec<(IpAddr, CancellationToken, Registered)> = Vec::new();
    let lifetime = boot.world.scale(std::time::Duration::from_secs(15)).max(std::time::Duration::from_millis(60));
    loop {
        for address in &addresses {
            let position = held.iter().position(|(held, ..)| held == address);
            let holds = data.cluster.hold(*address, data.member, lifetime);
            let socket = SocketAddr::new(*address, API_PORT);
            match (holds, position) {
                (true, None) if server.add_listener(socket).await.is_ok() => {
                    let stop = boot.stop.child_token();
                    apid::listen_on(boot, *address, stop.clone()).await;
                    boot.change_network(|network| network.virtual_addresses.push(*address));
                    held.push((*address, stop, Registered::new(boot, socket, &data.cluster)));
                    boot.logs.kernel(&format!("enabled shared IP {address}"));
                }
                (false, Some(position)) => {
                    let (_, stop, registered) = held.swap_remove(position);
                    server.remove_listener(socket);
                    stop.cancel();
                    drop(registered);
                    boot.change_network(|network| network.virtual_addresses.retain(|held| held != address));
                    boot.logs.kernel(&format!("disabled shared IP {address}"));
                }
                _ => {}
            }
        }
        tokio::time::sleep(lifetime / 5).await;
    }
}

/// Starts the kubelet and keeps its health and static pods in step.
pub(crate) async fn kubelet(boot: Arc<Boot>) {
    boot.services.set("kubelet", State::Waiting, "Waiting for service \"cri\" to be \"up\", time sync, network");
    until_up(&boot, "cri").await;
    clock::until_set(&boot).await;
    boot.services.set("kubelet", State::Preparing, "Running pre state");
    boot.work("service kubelet", 4.0).await;
    let Some(options) = boot.active_config().and_then(|config| kubelet_options(&boot, &config)) else { return };
    let weak = Arc::downgrade(&boot);
    let find = Arc::new(move || {
        let boot = weak.upgrade().filter(|boot| !*boot.frozen.borrow())?;
        find_control_plane(&boot)
    });
    let kubelet = Arc::new(Kubelet::start(options, find, boot.world.speed()));
    // Whoever stops it takes it out of there; nobody else keeps it alive.
    let running = Arc::downgrade(&kubelet);
    boot.state().kubelet = Some(kubelet);
    boot.services.set("kubelet", State::Running, "Started task kubelet (PID 2812) for container kubelet");
    let mut configs = boot.config.subscribe();
    let version = || boot.cosi.version(kinds::KUBELET_SPECS, "kubelet");
    let mut started_with = version();
    loop {
        let Some(kubelet) = running.upgrade() else { return };
        if kubelet.is_registered() {
            boot.services.set_health("kubelet", Ok(()));
        }
        publish::kubernetes(&boot, &kubelet);
        drop(kubelet);
        tokio::select! {
            () = boot.world.rest(std::time::Duration::from_secs(1)) => {}
            changed = configs.changed() => {
                if changed.is_err() {
                    return;
                }
                if std::mem::replace(&mut started_with, version()) != started_with {
                    restart(&boot).await;
                }
                if let Some(kubelet) = running.upgrade() {
                    reconfigure(&boot, &kubelet);
                }
            }
        }
    }
}

/// Stops the kubelet's service and starts it with its new image and arguments; the pods go on meanwhile.
async fn restart(boot: &Boot) {
    boot.services.set("kubelet", State::Stopping, "Sending SIGTERM to task kubelet (PID 2812, container kubelet)");
    boot.work("stop of the kubelet", 1.0).await;
    boot.services.set("kubelet", State::Finished, "Service finished successfully");
    boot.services.set("kubelet", State::Preparing, "Running pre state");
    boot.work("service kubelet", 2.0).await;
    boot.services.set("kubelet", State::Running, "Started task kubelet (PID 2890) for container kubelet");
}

/// A new configuration: labels, taints, versions and static pods follow without a reboot.
fn reconfigure(boot: &Arc<Boot>, kubelet: &Kubelet) {
    if boot.is_control_plane() {
        publish::control_plane(boot);
    }
    let Some(options) = boot.active_config().and_then(|config| kubelet_options(boot, &config)) else { return };
    kubelet.set_static_pods(options.static_pods.clone());
    kubelet.update(move |current| *current = options);
}

fn kubelet_options(boot: &Boot, config: &Config) -> Option<KubeletOptions> {
    let control_plane = config.is_control_plane();
    let mut labels = config.node_labels();
    let mut taints: Vec<Taint> = config.node_taints().iter().map(|(key, text)| taint(key, text)).collect();
    if control_plane && (boot.release.line < Line::V1_14 || config.document("KubeNodeConfig").is_none()) {
        let role = "node-role.kubernetes.io/control-plane";
        labels.insert(role.to_owned(), String::new());
        if !config.schedulable_control_planes() && !taints.iter().any(|taint| taint.key == role) {
            taints.push(taint(role, "NoSchedule"));
        }
    }
    let mut annotations = config.node_annotations();
    if let Some(schematic) = &boot.image.schematic {
        annotations.insert("extensions.talos.dev/schematic".to_owned(), schematic.clone());
    }
    let extra = config.main().pointer("/machine/kubelet/extraConfig/providerID").and_then(|id| id.as_str());
    let image = config.image("kubelet");
    Some(KubeletOptions {
        node_name: boot.name(),
        addresses: boot.network().addresses(),
        labels,
        annotations,
        taints,
        provider_id: config.kubelet_argument("provider-id").or_else(|| extra.map(str::to_owned)),
        kubelet_version: image.and_then(|image| tag_of(&image))?,
        os_image: format!("Talos ({})", boot.release),
        kernel_version: boot.release.kernel().to_owned(),
        container_runtime: format!("containerd://{}", boot.release.containerd()),
        cpus: boot.machine.cpus,
        memory_bytes: boot.machine.memory_mib << 20,
        ephemeral_bytes: boot.ephemeral_bytes(),
        machine_id: boot.node_id().to_lowercase(),
        system_uuid: boot.machine.smbios_uuid.to_string(),
        boot_id: boot.boot_id.to_string(),
        rotate_server_certificates: config.rotates_server_certificates(),
        static_pods: if control_plane { static_pods(boot, config) } else { Vec::new() },
        delays: boot.world.recorder(boot.machine.vmid),
    })
}

/// The control plane's components; their version is that of the resource they were made from.
fn static_pods(boot: &Boot, config: &Config) -> Vec<StaticPod> {
    let version = |kind, id: &str| boot.cosi.version(kind, id).unwrap_or_else(|| "1".to_owned());
    publish::STATIC_PODS
        .iter()
        .filter_map(|(name, kind)| {
            Some(StaticPod {
                name: (*name).to_owned(),
                image: config.image(name)?,
                command: publish::static_pod_command(config, name),
                config_version: version(*kind, name),
            })
        })
        .collect()
}

/// `value:Effect` or `Effect`.
fn taint(key: &str, text: &str) -> Taint {
    let (value, effect) = text.rsplit_once(':').unwrap_or(("", text));
    Taint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned() }
}
