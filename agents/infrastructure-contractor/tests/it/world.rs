//! A simulated Proxmox VE, an image mirror, guests that answer on the Talos port, and a driver over a real store.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::Path,
    http::StatusCode,
    routing::{get, post},
};
use contractor::{
    driver::{Driver, Happened, Hooks, NewRun, Parts, SystemClock},
    runtime::message_schema,
};
use engine::{
    event::Failure,
    library::{Library, World as Checked},
    report::{Report, Status},
};
use infrastructure_contractor::{Deps, actions, config::Sections, playbooks};
use messages::catalogue::Family;
use proxmox::{
    Client, VmId,
    new_vm::{DiskContent, Firmware, NewDisk, NewVm},
    options::{Credentials, Options as ClientOptions, Timeouts},
    targets::AllowedTargets,
    trust::Trust,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use simulators::{
    faults::Faults,
    image,
    machine::{Addressing, Guest, Machine, Machines, Power, PowerListener, PowerOff},
    pace::Pace,
    proxmox::{Options, Proxmox, Snapshot},
};
use store::{Commit, Outgoing, Store};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

/// Everything a test needs; its addresses are those of one loopback network.
pub(crate) struct World {
    pub(crate) proxmox: Proxmox,
    pub(crate) machines: Arc<Answering>,
    pub(crate) driver: Driver,
    pub(crate) deps: Deps,
    pub(crate) library: Library,
    emitted: Arc<Mutex<Vec<(String, Value)>>>,
    _folder: tempfile::TempDir,
    _mirror: JoinHandle<()>,
}

impl World {
    /// A world below 127.`net`.0.0/16.
    pub(crate) async fn start(net: u8, change: impl FnOnce(&mut Options)) -> Self {
        Self::start_with(net, change, |_| {}).await
    }

    /// The same with another configuration.
    pub(crate) async fn start_with(
        net: u8,
        change: impl FnOnce(&mut Options),
        configure: impl FnOnce(&mut Sections),
    ) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options { address: ([127, net, 0, 1], 0).into(), ..Options::default() };
        change(&mut options);
        let token = options.users[0].api_token();
        let machines = Arc::new(Answering::new());
        let proxmox = Proxmox::start(options, machines.clone(), Pace::instant(), Faults::default()).await.unwrap();
        let (mirror, serving) = mirror(net).await;
        std::fs::write(folder.path().join("token"), token).unwrap();
        let mut sections = sections(net, &proxmox, mirror, folder.path());
        configure(&mut sections);
        let store = Store::open(&folder.path().join("store"), store::Options::default()).unwrap();
        let deps = Deps::new(sections, &["127.0.0.0/8".to_owned()], store.clone()).unwrap();
        let actions = actions(&deps);
        let checked = Checked { catalog: &actions, messages: &message_schema, conditions: &[] };
        let library = Library::load(&playbooks::shipped(), &checked).unwrap_or_else(|problems| panic!("{problems}"));
        let hooks = Recorder::default();
        let emitted = hooks.emitted.clone();
        let driver = Driver::start(Parts {
            journal: Arc::new(store),
            actions,
            playbooks: library.clone(),
            clock: Arc::new(SystemClock),
            hooks: Arc::new(hooks),
        })
        .await
        .unwrap();
        Self { proxmox, machines, driver, deps, library, emitted, _folder: folder, _mirror: serving }
    }

    /// Starts the playbook's run of a flow, and returns it.
    pub(crate) async fn submit(&self, playbook: &str, flow: Uuid, input: Value) -> Uuid {
        let run = Uuid::new_v4();
        let new = NewRun {
            run,
            flow,
            key: None,
            cause: format!("/test/{run}"),
            playbook: playbook.to_owned(),
            subject: Some("prod".to_owned()),
            input,
            plan: None,
            trace: None,
            with: Commit::default(),
        };
        self.driver.submit(new).await.unwrap();
        run
    }

    /// Runs the playbook until it comes to rest.
    pub(crate) async fn run(&self, playbook: &str, flow: Uuid, input: Value) -> Report {
        let run = self.submit(playbook, flow, input).await;
        self.rest(run).await
    }

    /// Waits until a run is finished, paused or stuck.
    pub(crate) async fn rest(&self, run: Uuid) -> Report {
        self.wait(run, |report| {
            !matches!(report.status, Status::Pending | Status::Running | Status::Waiting | Status::Undoing)
        })
        .await
    }

    /// Waits until a run looks as wanted.
    pub(crate) async fn wait(&self, run: Uuid, wanted: impl Fn(&Report) -> bool) -> Report {
        let looked = async {
            loop {
                let report = self.driver.report(run).unwrap().unwrap();
                if wanted(&report) {
                    return report;
                }
                match self.driver.watch(run) {
                    Some(mut watched) => {
                        let _ = tokio::time::timeout(Duration::from_millis(200), watched.changed()).await;
                    }
                    None => tokio::task::yield_now().await,
                }
            }
        };
        match tokio::time::timeout(Duration::from_secs(60), looked).await {
            Ok(report) => report,
            Err(_) => panic!("still: {:#?}", self.driver.report(run).unwrap()),
        }
    }

    /// The bodies that playbooks emitted under this name; each fits its schema.
    pub(crate) fn handoffs(&self, name: &str) -> Vec<Value> {
        let emitted = self.emitted.lock().unwrap();
        let bodies: Vec<_> = emitted.iter().filter(|(own, _)| own == name).map(|(_, body)| body.clone()).collect();
        for body in &bodies {
            messages::schema::validate(Family::Handoff, name, body).unwrap();
        }
        bodies
    }

    /// The inventory's keys below `prefix`, checksums of images left out.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let rows = self.deps.store.reader().scan::<Value>(prefix).unwrap();
        rows.into_iter().map(|row| row.key).filter(|key| !key.starts_with("image/")).collect()
    }

    /// Proxmox as root, who may do what no token may.
    pub(crate) fn root(&self) -> Client {
        let options = ClientOptions {
            endpoints: vec![self.proxmox.url().parse().unwrap()],
            credentials: Credentials::parse("root@pam:lab").unwrap(),
            trust: Trust::authorities_from_pem(self.proxmox.ca_pem().as_bytes()).unwrap(),
            allowed_targets: AllowedTargets::loopback(),
            timeouts: Timeouts::default(),
        };
        Client::new(options).unwrap()
    }
}

impl World {
    /// Waits until the datacenter looks as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&Snapshot) -> bool) {
        self.until_async(async || wanted(&self.proxmox.snapshot())).await;
    }

    /// Waits until an answer is as wanted.
    pub(crate) async fn until_async(&self, wanted: impl AsyncFn() -> bool) {
        let looked = async {
            while !wanted().await {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), looked).await.expect("it comes about in a minute");
    }

    /// Makes a VM on pve1 as root, and waits until it stands.
    pub(crate) async fn create(&self, vm: &NewVm) {
        let root = self.root();
        let upid = root.create_vm("pve1", vm).await.unwrap();
        root.wait_for_task(&upid, Duration::from_secs(20)).await.unwrap();
    }
}

/// A VM of somebody else.
pub(crate) fn stranger(vmid: u32, name: &str, pool: Option<&str>) -> NewVm {
    NewVm {
        vmid: VmId(vmid),
        name: name.into(),
        description: "somebody else's".into(),
        tags: vec!["theirs".into()],
        pool: pool.map(str::to_owned),
        cores: 1,
        cpu: "x86-64-v2-AES".into(),
        memory_mib: 512,
        machine: "q35".into(),
        firmware: Firmware::SeaBios,
        scsi_controller: "virtio-scsi-pci".into(),
        smbios_uuid: Uuid::new_v4().to_string(),
        on_boot: false,
        agent: false,
        disks: vec![NewDisk {
            slot: "scsi0".into(),
            storage: "local-lvm".into(),
            content: DiskContent::Empty { gib: 1 },
            ssd: false,
            io_thread: false,
            cache: None,
            serial: None,
        }],
        nics: Vec::new(),
        cloud_init: None,
    }
}

/// Where the image mirror is.
pub(crate) fn mirror_url(world: &World) -> &str {
    &world.deps.sections.images.factory
}

fn sections(net: u8, proxmox: &Proxmox, mirror: SocketAddr, folder: &std::path::Path) -> Sections {
    toml::from_str(&format!(
        r#"
        [proxmox]
        endpoints = ["{url}"]
        credential_file = "{folder}/token"
        fingerprints = ["{pin}"]
        pool = "cortex"

        [[network]]
        name = "lan"
        cidr = "127.{net}.0.0/16"
        gateway = "127.{net}.0.1"
        dns_servers = ["127.{net}.0.1"]
        ranges = ["127.{net}.1.10-127.{net}.1.60"]
        exclude = ["127.{net}.1.11"]
        bridge = "vmbr0"

        [images]
        factory = "http://{mirror}"

        [machines]
        patience_seconds = 5

        [monitoring]
        folder = "{folder}/prometheus"
        "#,
        url = proxmox.url(),
        pin = proxmox.fingerprint(),
        folder = folder.display(),
    ))
    .unwrap()
}

/// An Image Factory that computes schematic ids and serves stand-ins.
async fn mirror(net: u8) -> (SocketAddr, JoinHandle<()>) {
    async fn register(body: String) -> (StatusCode, Json<Value>) {
        (StatusCode::CREATED, Json(json!({ "id": hex::encode(Sha256::digest(body)) })))
    }
    async fn serve(Path((schematic, version, _file)): Path<(String, String, String)>) -> Vec<u8> {
        image::qcow2(&image::Label { talos_version: version, schematic, platform: "nocloud".into() })
    }
    let router =
        Router::new().route("/schematics", post(register)).route("/image/{schematic}/{version}/{file}", get(serve));
    let listener = TcpListener::bind(SocketAddr::from(([127, net, 0, 2], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    (address, tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }))
}

/// Keeps what playbooks emit.
#[derive(Default)]
struct Recorder {
    emitted: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Hooks for Recorder {
    fn outgoing(&self, _happened: &Happened<'_>) -> Result<Vec<Outgoing>, Failure> {
        Ok(Vec::new())
    }

    fn committed(&self, happened: &Happened<'_>) {
        let emissions = happened.emissions.iter().map(|emission| (emission.name.clone(), emission.body.clone()));
        self.emitted.lock().unwrap().extend(emissions);
    }
}

/// Guests that complete a TLS handshake on port 50000 of the address that their cloud-init drive gives them.
pub(crate) struct Answering {
    tls: TlsAcceptor,
    on: Mutex<BTreeMap<u32, (Machine, JoinHandle<()>)>>,
}

impl Answering {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["talos".into()]).unwrap().self_signed(&key).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Self { tls: TlsAcceptor::from(Arc::new(config)), on: Mutex::default() }
    }

    /// The machine that is on under a VMID.
    pub(crate) fn machine(&self, vmid: u32) -> Option<Machine> {
        self.on.lock().unwrap().get(&vmid).map(|(machine, _)| machine.clone())
    }
}

impl Machines for Answering {
    fn power_on(&self, machine: Machine) {
        let tls = self.tls.clone();
        let target = SocketAddr::new(address(&machine).unwrap_or(Ipv4Addr::LOCALHOST.into()), 50000);
        let serving = tokio::spawn(async move {
            let Ok(listener) = TcpListener::bind(target).await else { return };
            while let Ok((stream, _)) = listener.accept().await {
                let tls = tls.clone();
                tokio::spawn(async move { tls.accept(stream).await.map(drop) });
            }
        });
        self.on.lock().unwrap().insert(machine.vmid, (machine, serving));
    }

    fn power_off(&self, vmid: u32, _how: PowerOff) {
        if let Some((_, serving)) = self.on.lock().unwrap().remove(&vmid) {
            serving.abort();
        }
    }

    fn guest(&self, _vmid: u32) -> Option<Guest> {
        None
    }

    fn set_power_listener(&self, _listener: PowerListener) {
        let _ = Power::Off;
    }
}

fn address(machine: &Machine) -> Option<IpAddr> {
    match &machine.network.as_ref()?.interfaces.first()?.addressing {
        Addressing::Static(lease) => Some(lease.address),
        Addressing::Dhcp => None,
    }
}
