//! A whole platform on loopback: nats-server, lab and both contractors, each a process of its own.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::ChildStdout,
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bus::identity::Identity;
use cortexctl::client::{Client, Options};
use messages::subject::Party;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{binaries, interruption::Interrupted, nats::NatsServer, process::Process, proxies::Proxies};

/// What the world is made with.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// How many times as fast as real hardware the lab is.
    pub speed: f64,
    /// Seed of everything random in the lab.
    pub seed: u64,
    /// Faults of the lab, in the words of `lab --fault`.
    pub faults: Vec<String>,
    /// Further arguments of the lab.
    pub lab_arguments: Vec<String>,
    /// Log filter of the contractors.
    pub log: String,
    /// TOML lines for the section `[store]` of both.
    pub store: String,
    /// How many ready RSA service-account keys talos-contractor keeps.
    pub service_account_keys: usize,
    /// TOML lines for the section `[images]` of infrastructure-contractor.
    pub images: String,
    /// TOML that is appended to the configuration of infrastructure-contractor and of talos-contractor.
    pub more: [String; 2],
    /// Whether the contractors reach the hypervisors and the bus through proxies that can be harmed.
    pub through_proxies: bool,
    /// Cancelled when the world is not wanted any more while it starts.
    pub stop: CancellationToken,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            speed: 50.0,
            seed: 1,
            faults: Vec::new(),
            lab_arguments: Vec::new(),
            log: "info".to_owned(),
            store: String::new(),
            service_account_keys: 1,
            images: String::new(),
            more: [String::new(), String::new()],
            through_proxies: false,
            stop: CancellationToken::new(),
        }
    }
}

/// A running platform; everything ends when it is dropped.
pub struct World {
    /// infrastructure-contractor.
    pub infrastructure: Process,
    /// talos-contractor.
    pub talos: Process,
    /// The simulated datacenter.
    pub lab: Process,
    /// What the lab said of itself.
    pub facts: LabFacts,
    /// The bus.
    pub nats: NatsServer,
    /// What is between them and the contractors, if that was asked for.
    pub proxies: Option<Proxies>,
    /// Where health and metrics of the contractors are: infrastructure, talos.
    pub health: [String; 2],
    /// Everything that the world keeps on disk.
    pub folder: PathBuf,
}

/// What the lab says of itself when it is ready.
#[derive(Clone, Debug, Deserialize)]
pub struct LabFacts {
    /// `127.N.0.0/16`
    pub network: Value,
    /// Address of the Proxmox VE API.
    pub proxmox: String,
    /// Fingerprint of its certificate.
    pub fingerprint: String,
    /// `user@realm!token=secret`
    pub api_token: String,
    /// Image Factory and add-on mirror.
    pub mirror: String,
    /// Add-ons of the mirror.
    pub addons: Vec<Addon>,
    /// The control endpoint.
    pub control: String,
}

/// An add-on of the mirror.
#[derive(Clone, Debug, Deserialize)]
pub struct Addon {
    /// `longhorn`
    pub name: String,
    /// Where its manifest is.
    pub url: String,
    /// Of the manifest.
    pub sha256: String,
}

impl World {
    /// Starts everything below `folder` and waits until both contractors are ready. Blocks: call it outside an async
    /// runtime, or on a blocking thread.
    ///
    /// # Errors
    /// What did not start, and the last lines that it said. Whatever did has ended then.
    pub fn start(folder: &Path, options: &WorldOptions) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let (mut lab, facts) = start_lab(folder, options)?;
        let nats = NatsServer::start_unless(&folder.join("nats"), &options.stop)?;
        let proxies = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            tokio::select! {
                made = prepare(&nats, &facts, options) => made,
                () = options.stop.cancelled() => Err(Interrupted.into()),
            }
        })?;
        let at = Addresses::of(&nats, &facts, proxies.as_ref());
        let ports = [free_port()?, free_port()?];
        let token = folder.join("proxmox-token");
        write_private(&token, &facts.api_token)?;
        let infrastructure = infrastructure_config(folder, (&nats, &at), &facts, ports[0], options)?;
        let talos = talos_config(folder, (&nats, &at), &facts, ports[1], options)?;
        let mut infrastructure = daemon(folder, "infrastructure-contractor", &infrastructure)?;
        let mut talos = daemon(folder, "talos-contractor", &talos)?;
        infrastructure.start(false)?;
        talos.start(false)?;
        let health = ports.map(|port| format!("http://127.0.0.1:{port}"));
        for (process, url) in [(&mut infrastructure, &health[0]), (&mut talos, &health[1])] {
            wait_ready(process, url, &options.stop)?;
        }
        if lab.ended().is_some() {
            bail!("the lab ended: {}", tail(&lab.log()));
        }
        Ok(Self { infrastructure, talos, lab, facts, nats, proxies, health, folder: folder.to_owned() })
    }

    /// How to talk to the contractors as `identity`.
    pub fn client_options(&self, identity: Identity, name: &str) -> Options {
        Options {
            servers: vec![self.nats.url()],
            seed_file: self.nats.setup().keys[&identity].clone(),
            ca_file: Some(self.nats.setup().root_ca.clone()),
            client_certificate: self.nats.setup().client_certificates.get(&identity).cloned(),
            identity: identity.to_string(),
            source: format!("/{identity}/{name}"),
            patience: Duration::from_secs(30),
        }
    }

    /// A connection as an operator.
    ///
    /// # Errors
    /// If there is none.
    pub async fn operator(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(self.client_options(Identity::Operator, "test")).await?)
    }

    /// Waits until both contractors are ready, after one was started again.
    ///
    /// # Errors
    /// What one said last, if it does not become ready.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        wait_ready(&mut self.infrastructure, &self.health[0], &CancellationToken::new())?;
        wait_ready(&mut self.talos, &self.health[1], &CancellationToken::new())
    }

    /// Ends everything in order: first the contractors, each of which may finish what it is at.
    ///
    /// # Errors
    /// What did not end well. It is gone nevertheless.
    pub fn end(mut self) -> anyhow::Result<()> {
        for process in [&mut self.infrastructure, &mut self.talos] {
            let status = process.stop(Duration::from_secs(15))?;
            if !status.success() {
                bail!("{} ended with {status}", process.name());
            }
        }
        self.lab.stop(Duration::from_secs(5))?;
        self.nats.stop(Duration::from_secs(5))
    }

    /// The environment with which `cortexctl` finds this world.
    pub fn environment(&self, identity: Identity) -> Vec<(String, String)> {
        let shown = |path: &Path| path.display().to_string();
        vec![
            ("CORTEX_NATS_URL".to_owned(), self.nats.url()),
            ("CORTEX_NATS_SEED".to_owned(), shown(&self.nats.setup().keys[&identity])),
            ("CORTEX_NATS_CA".to_owned(), shown(&self.nats.setup().root_ca)),
            ("CORTEX_NATS_IDENTITY".to_owned(), identity.to_string()),
        ]
    }

    /// The Proxmox world as the lab has it: VMs, disks, tags, and whatever else a leak would show in.
    ///
    /// # Errors
    /// If the lab does not answer.
    pub async fn snapshot(&self) -> anyhow::Result<Value> {
        let url = format!("{}/v1/snapshot", self.facts.control);
        Ok(reqwest::get(url).await?.error_for_status()?.json().await?)
    }
}

/// The body with an operator's consent to its plan, unseen.
///
/// # Errors
/// If there is no plan.
pub async fn consented(operator: &Client, name: &str, mut body: Value) -> anyhow::Result<Value> {
    let plan = operator.plan(Party::Infrastructure, name, &body).await?;
    body["approval"] = json!({ "plan_hash": plan.plan_hash });
    Ok(body)
}

/// Where the contractors find what they do not own.
struct Addresses {
    bus: String,
    proxmox: String,
}

impl Addresses {
    fn of(nats: &NatsServer, facts: &LabFacts, proxies: Option<&Proxies>) -> Self {
        match proxies {
            Some(Proxies { proxmox, bus }) => {
                Self { bus: format!("tls://{}", bus.address), proxmox: format!("https://{}", proxmox.address) }
            }
            None => Self { bus: nats.url(), proxmox: facts.proxmox.clone() },
        }
    }
}

/// Makes the streams, and the proxies if they are asked for.
async fn prepare(nats: &NatsServer, facts: &LabFacts, options: &WorldOptions) -> anyhow::Result<Option<Proxies>> {
    nats.init().await?;
    if !options.through_proxies {
        return Ok(None);
    }
    Proxies::put_up(&facts.control, &facts.proxmox, nats.listen()).await.map(Some)
}

fn start_lab(folder: &Path, options: &WorldOptions) -> anyhow::Result<(Process, LabFacts)> {
    let mut arguments =
        vec!["--speed".to_owned(), options.speed.to_string(), "--seed".to_owned(), options.seed.to_string()];
    for fault in &options.faults {
        arguments.extend(["--fault".to_owned(), fault.clone()]);
    }
    arguments.extend(options.lab_arguments.iter().cloned());
    let mut lab = Process::new("lab", &binaries::path("lab")?, arguments, folder);
    let output = lab.start(true)?.context("the lab says nothing")?;
    let line = first_line(output, &options.stop)?;
    let facts = serde_json::from_str(&line).with_context(|| format!("the lab did not start: {}", tail(&lab.log())))?;
    Ok((lab, facts))
}

/// What a program says first; nothing if it ends without a word.
fn first_line(output: ChildStdout, stop: &CancellationToken) -> anyhow::Result<String> {
    let (line, said) = mpsc::channel();
    // It ends with the program, at the latest.
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = BufReader::new(output).read_line(&mut text);
        let _ = line.send(read.map(|_| text));
    });
    loop {
        match said.recv_timeout(Duration::from_millis(20)) {
            Ok(text) => return Ok(text?),
            Err(RecvTimeoutError::Timeout) if !stop.is_cancelled() => {}
            Err(RecvTimeoutError::Timeout) => return Err(Interrupted.into()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A daemon with the environment of its systemd unit.
fn daemon(folder: &Path, name: &str, config: &Path) -> anyhow::Result<Process> {
    let arguments = vec!["--config".to_owned(), config.display().to_string()];
    let process = Process::new(name, &binaries::path(name)?, arguments, folder);
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../deploy/systemd/{name}.service"));
    let text = fs::read_to_string(&unit).with_context(|| format!("{} cannot be read", unit.display()))?;
    let settings = text.lines().filter_map(|line| line.strip_prefix("Environment=")?.split_once('='));
    Ok(settings.fold(process, |process, (name, value)| process.with_environment(name, value)))
}

fn common_config(
    folder: &Path,
    (nats, at): (&NatsServer, &Addresses),
    identity: Identity,
    port: u16,
    options: &WorldOptions,
) -> String {
    let setup = nats.setup();
    let key = |identity: Identity| &setup.public_keys[&identity];
    format!(
        r#"allowed_targets = ["127.0.0.0/8"]

[bus]
servers = ["{url}"]
seed_file = "{seed}"
ca_file = "{ca}"

[bus.pinned_keys]
"/infrastructure" = ["{infrastructure}"]
"/talos" = ["{talos}"]
"/coordinator/*" = ["{coordinator}"]
"/operator/*" = ["{operator}"]
"/mcp/*" = ["{mcp}"]

[store]
path = "{store}"
key_file = "{age}"
{store_more}
[http]
listen = "127.0.0.1:{port}"

[log]
filter = "{log}"
"#,
        url = at.bus,
        seed = setup.keys[&identity].display(),
        ca = setup.root_ca.display(),
        infrastructure = key(Identity::Infrastructure),
        talos = key(Identity::Talos),
        coordinator = key(Identity::Coordinator),
        operator = key(Identity::Operator),
        mcp = key(Identity::Mcp),
        store = folder.join(format!("{identity}-store")).display(),
        store_more = options.store,
        log = options.log,
        age = folder.join(format!("{identity}.age")).display(),
    )
}

fn infrastructure_config(
    folder: &Path,
    (nats, at): (&NatsServer, &Addresses),
    facts: &LabFacts,
    port: u16,
    options: &WorldOptions,
) -> anyhow::Result<PathBuf> {
    let network = facts.network.as_str().context("the lab names no network")?;
    let base = network.split('.').take(2).collect::<Vec<_>>().join(".");
    let own = format!(
        r#"
[proxmox]
endpoints = ["{proxmox}"]
credential_file = "{token}"
fingerprints = ["{fingerprint}"]
pool = "cortex"

[[network]]
name = "lab"
cidr = "{network}"
gateway = "{base}.0.1"
dns_servers = ["{base}.0.1"]
ranges = ["{base}.1.1-{base}.8.254"]
bridge = "vmbr0"

[images]
factory = "{mirror}"
{images}
[monitoring]
folder = "{monitoring}"
"#,
        proxmox = at.proxmox,
        token = folder.join("proxmox-token").display(),
        fingerprint = facts.fingerprint,
        mirror = facts.mirror,
        images = options.images,
        monitoring = folder.join("prometheus").display(),
    );
    let path = folder.join("infrastructure-contractor.toml");
    let common = common_config(folder, (nats, at), Identity::Infrastructure, port, options);
    fs::write(&path, format!("{common}{own}{}", options.more[0]))?;
    Ok(path)
}

fn talos_config(
    folder: &Path,
    (nats, at): (&NatsServer, &Addresses),
    facts: &LabFacts,
    port: u16,
    options: &WorldOptions,
) -> anyhow::Result<PathBuf> {
    let mut own = format!("\n[talos]\nservice_account_keys = {}\n", options.service_account_keys);
    for addon in &facts.addons {
        own.push_str(&format!(
            "\n[addons.manifests.{}]\nurl = \"{}\"\nsha256 = \"{}\"\nversion = \"stand-in\"\n",
            addon.name, addon.url, addon.sha256
        ));
    }
    let path = folder.join("talos-contractor.toml");
    let common = common_config(folder, (nats, at), Identity::Talos, port, options);
    fs::write(&path, format!("{common}{own}{}", options.more[1]))?;
    Ok(path)
}

fn wait_ready(process: &mut Process, url: &str, stop: &CancellationToken) -> anyhow::Result<()> {
    let patience = Duration::from_secs(60);
    let give_up = Instant::now() + patience;
    let address = url.trim_start_matches("http://").to_owned();
    loop {
        if is_ready(&address) {
            return Ok(());
        }
        if let Some(status) = process.ended() {
            bail!("{} ended with {status}: {}", process.name(), tail(&process.log()));
        }
        if stop.is_cancelled() {
            return Err(Interrupted.into());
        }
        if Instant::now() > give_up {
            bail!("{} is not ready after {patience:?}: {}", process.name(), tail(&process.log()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether `GET /readyz` says 200; plain sockets, so that it works inside and outside of async runtimes.
pub fn is_ready(address: &str) -> bool {
    use std::io::{Read, Write};
    let Ok(address) = address.parse() else { return false };
    let Ok(mut stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let mut answer = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
        && stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut file = fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

/// The last lines of a log.
pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
