//! Machines of one lab and clients for their Talos nodes.

use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;
use simulators::faults::Faults;
use simulators::machine::{
    Addressing, Disk, DiskContent, ImageRef, Lease, Machine, Machines, Nic, NocloudInterface, NocloudNetwork, PowerOff,
};
use simulators::pace::Pace;
use simulators::talos::{Nodes, Options};
use talos::api::{AllowedTargets, ApplyMode, Client, Connector, Credentials};
use talos::config::generate::{ClusterInput, Install, InstallDisk, NodeInput, Role};
use talos::pki::{self, CertificateAndKey, Roles, ServiceAccountKey};
use talos::secrets::Bundle;
use talos::version::Minor;

/// How much faster than real hardware.
const SPEED: f64 = 60.0;

pub(crate) const DISK_BYTES: u64 = 32 << 30;

/// A lab with its own /24 and the secrets of one cluster.
pub(crate) struct Lab {
    pub(crate) nodes: Nodes,
    pub(crate) faults: Faults,
    pub(crate) cluster: ClusterInput,
    pub(crate) bundle: Bundle,
    net: u8,
}

impl Lab {
    pub(crate) fn new(version: &str) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let _ = rustls::crypto::ring::default_provider().install_default();
        let net = NEXT.fetch_add(1, Ordering::Relaxed);
        let faults = Faults::default();
        let options = Options { pace: Pace::new(SPEED), faults: faults.clone(), ..Options::default() };
        let key = pki::service_account_key(ServiceAccountKey::EcdsaP256).unwrap();
        let minor = Minor::of(version).unwrap();
        let bundle = Bundle::generate(minor, key, jiff::Timestamp::now()).unwrap();
        let kubernetes = minor.default_kubernetes().trim_start_matches('v').parse().unwrap();
        let endpoint = format!("https://127.250.{net}.9:6443");
        let mut cluster =
            ClusterInput::new("demo", endpoint, version.trim_start_matches('v').parse().unwrap(), kubernetes);
        cluster.vip = Some(IpAddr::from([127, 250, net, 9]));
        Self { nodes: Nodes::new(options), faults, cluster, bundle, net }
    }

    /// Address of the machine with this number.
    pub(crate) fn address(&self, number: u8) -> IpAddr {
        IpAddr::from([127, 250, self.net, number])
    }

    pub(crate) fn vip(&self) -> IpAddr {
        self.address(9)
    }

    /// A machine whose disk holds a nocloud image of this version.
    pub(crate) fn machine(&self, number: u8, version: &str) -> Machine {
        let image = image("nocloud-amd64.raw", version);
        self.machine_with(number, DiskContent::from_image(image), None)
    }

    pub(crate) fn machine_with(&self, number: u8, content: DiskContent, cdrom: Option<ImageRef>) -> Machine {
        let mac = format!("BC:24:11:00:{:02X}:{number:02X}", self.net);
        let lease = Lease { address: self.address(number), prefix: 24, gateway: Some(self.address(254)) };
        let interface = NocloudInterface { mac: mac.clone(), addressing: Addressing::Static(lease) };
        Machine {
            vmid: 100 + u32::from(number),
            name: format!("demo-{number}"),
            host: "pve1".into(),
            smbios_uuid: uuid::Uuid::from_u128(0x1000 + u128::from(number)),
            smbios_serial: "ds=nocloud".into(),
            cpus: 4,
            memory_mib: 8192,
            disks: vec![Disk {
                slot: "scsi0".into(),
                size_bytes: DISK_BYTES,
                serial: None,
                rotational: false,
                read_only: false,
                content,
            }],
            cdrom,
            nics: vec![Nic { mac, bridge: "vmbr0".into(), vlan: None, mtu: None, connected: true, dhcp: None }],
            network: Some(NocloudNetwork {
                hostname: Some(format!("demo-{number}")),
                interfaces: vec![interface],
                nameservers: Vec::new(),
                search_domains: Vec::new(),
                user_data: None,
            }),
            guest_agent: false,
            secure_boot: false,
        }
    }

    /// The configuration of a node, with a name of its own.
    pub(crate) fn config(&self, number: u8, role: Role) -> secrecy::SecretString {
        let image = format!("ghcr.io/siderolabs/installer:v{}", self.cluster.talos_version);
        let install = Install { disk: InstallDisk::Path("/dev/sda".into()), image, wipe: false };
        let mut node = NodeInput::new(role, install);
        node.hostname = Some(format!("demo-{number}"));
        node.provider_id = Some(format!("proxmox://lab/{number}"));
        node.link = Some(talos::config::generate::Link {
            name: talos::config::generate::LinkName::Kernel("ens18".into()),
            mtu: None,
            addresses: Vec::new(),
            gateway: None,
        });
        talos::config::generate(&self.cluster, &node, &self.bundle).unwrap().to_yaml()
    }

    pub(crate) fn credentials(&self, role: pki::Role) -> Credentials {
        let client = client_certificate(&self.bundle.os, role);
        Credentials { authority: self.bundle.os.crt.clone(), client }
    }

    pub(crate) async fn maintenance(&self, number: u8) -> Client {
        let connector = Connector::new(AllowedTargets::loopback());
        let address = self.address(number);
        until("maintenance mode answers", || async { connector.maintenance(address, None).await.ok() }).await
    }

    /// A client with a role, once the node speaks mutual TLS.
    pub(crate) async fn secure_as(&self, number: u8, role: pki::Role) -> Client {
        let connector = Connector::new(AllowedTargets::loopback());
        let (address, credentials) = (self.address(number), self.credentials(role));
        until("apid answers", || async {
            let client = connector.secure(address, &credentials).await.ok()?;
            client.version().await.ok().map(|_| client)
        })
        .await
    }

    pub(crate) async fn secure(&self, number: u8) -> Client {
        self.secure_as(number, pki::Role::Admin).await
    }

    /// Powers a machine on and gives it its configuration.
    pub(crate) async fn join(&self, machine: Machine, number: u8, role: Role) {
        self.nodes.power_on(machine);
        let client = self.maintenance(number).await;
        client.apply_configuration(&self.config(number, role), ApplyMode::Auto).await.unwrap();
    }

    /// Three control planes, bootstrapped on the first, and workers after them.
    pub(crate) async fn cluster(&self, version: &str, workers: u8) {
        for number in 1..=3 {
            self.join(self.machine(number, version), number, Role::ControlPlane).await;
        }
        bootstrap(&self.secure(1).await).await;
        for number in 4..4 + workers {
            self.join(self.machine(number, version), number, Role::Worker).await;
        }
        for number in 1..4 + workers {
            self.running(number).await;
        }
    }

    /// Waits until a node runs, as the hypervisor's console would tell.
    pub(crate) async fn running(&self, number: u8) {
        let vmid = 100 + u32::from(number);
        let state = || self.nodes.guest(vmid).map(|guest| guest.state).unwrap_or_default();
        let start = Instant::now();
        while state() != "running" {
            let console = || self.nodes.console(vmid).join("\n");
            assert!(start.elapsed() < Duration::from_secs(30), "node {number} is {}:\n{}", state(), console());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn cut(&self, number: u8) {
        self.nodes.power_off(100 + u32::from(number), PowerOff::Cut);
    }
}

pub(crate) fn image(file_name: &str, version: &str) -> ImageRef {
    ImageRef {
        file_name: file_name.into(),
        talos_version: Some(version.into()),
        schematic: None,
        platform: "nocloud".into(),
    }
}

/// Bootstraps as soon as the node takes it.
pub(crate) async fn bootstrap(client: &Client) {
    until("bootstrap is taken", || async {
        match client.bootstrap().await {
            Ok(()) => Some(()),
            Err(error) if error.to_string().contains("not available yet") => None,
            Err(error) => panic!("{error}"),
        }
    })
    .await;
}

fn client_certificate(authority: &CertificateAndKey, role: pki::Role) -> CertificateAndKey {
    pki::client_certificate(authority, &Roles::from(role), Duration::from_secs(3600), jiff::Timestamp::now()).unwrap()
}

/// Polls a condition of the outside world; half a minute is far more than any of them needs.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A raw channel to a node, for calls our client does not make.
pub(crate) async fn channel(lab: &Lab, number: u8, credentials: &Credentials) -> tonic::transport::Channel {
    let key = credentials.client.key.expose_secret().replace("ED25519 PRIVATE KEY", "PRIVATE KEY");
    let tls = tonic::transport::ClientTlsConfig::new()
        .domain_name(lab.address(number).to_string())
        .ca_certificate(tonic::transport::Certificate::from_pem(&credentials.authority))
        .identity(tonic::transport::Identity::from_pem(&credentials.client.crt, key));
    let uri = format!("https://{}:50000", lab.address(number));
    tonic::transport::Endpoint::from_shared(uri).unwrap().tls_config(tls).unwrap().connect().await.unwrap()
}
