//! Arguments, dispatch, exit codes.

use std::{io::Write, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use messages::query::RefusalKind;

use crate::{
    client::{self, Client},
    commands::{
        audit, bus, clusters, completions, credentials, deadletter, events, flows, inventory, playbooks, quarantine,
        runs, schema, store,
    },
    output::{Format, Output},
};

/// How a command ended, as its exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// 0
    Ok,
    /// 1
    Failed,
    /// 3: paused, stuck, or waiting for an approval.
    NeedsOperator,
    /// 4
    Differs,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What was typed makes no sense; exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The contractors or the bus.
    #[error("{0}")]
    Client(#[from] client::Error),
    /// Somebody must consent or decide; exit code 3.
    #[error("{0}")]
    NeedsOperator(String),
    /// Nobody reads what is written: `cortexctl … | head`.
    #[error("standard output is closed")]
    Closed,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// Anything with a text.
    pub fn other(error: impl std::fmt::Display) -> Self {
        Self::Other(error.to_string())
    }

    /// What else is to be said of it: everything that is wrong with a refused request, and what to do about it.
    pub fn details(&self) -> Vec<String> {
        let Self::Client(client::Error::Refused(refusal)) = self else { return Vec::new() };
        let violations = refusal.violations.iter().map(ToString::to_string);
        violations.chain(refusal.hint.iter().map(|hint| format!("hint: {hint}"))).collect()
    }
}

/// What a command comes to.
pub type Outcome = Result<Ending, Failure>;

/// Operates Kubernetes platforms on Proxmox VE.
///
/// Exit codes: 0 ok, 1 failed, 2 usage, 3 needs an operator, 4 differs.
#[derive(Parser)]
#[command(name = "cortexctl", version)]
pub struct Line {
    /// Where and who.
    #[command(flatten)]
    pub connection: Connection,
    /// How data looks on standard output.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    #[command(subcommand)]
    command: Command,
}

/// Where and who.
#[derive(Args, Clone, Debug)]
pub struct Connection {
    /// NATS server; may be given several times. One that is not on this machine needs tls:// or --ca.
    #[arg(
        long = "server",
        global = true,
        env = "CORTEX_NATS_URL",
        value_delimiter = ',',
        default_value = "tls://127.0.0.1:4222"
    )]
    pub servers: Vec<String>,
    /// File with the nkey seed of the identity.
    #[arg(long, global = true, env = "CORTEX_NATS_SEED", default_value = "operator.nk")]
    pub seed: PathBuf,
    /// PEM file with the certificate authority of the servers.
    #[arg(long, global = true, env = "CORTEX_NATS_CA")]
    pub ca: Option<PathBuf>,
    /// PEM file with a certificate to show, where the server asks for one.
    #[arg(long, global = true, env = "CORTEX_NATS_CERT", requires = "key")]
    pub cert: Option<PathBuf>,
    /// PEM file with that certificate's key.
    #[arg(long, global = true, env = "CORTEX_NATS_KEY", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Identity in the server's configuration.
    #[arg(long, global = true, env = "CORTEX_NATS_IDENTITY", default_value = "operator")]
    pub identity: String,
    /// Who is speaking; default `/operator/$USER`.
    #[arg(long = "as", global = true, env = "CORTEX_SOURCE")]
    pub source: Option<String>,
    /// Seconds that an answer may take.
    #[arg(long, global = true, default_value_t = 30)]
    pub patience: u64,
}

#[derive(Subcommand)]
enum Command {
    /// Clusters: create, scale, decommission, look at.
    #[command(subcommand, visible_alias = "clusters")]
    Cluster(clusters::Command),
    /// Nodes of the clusters, as talos-contractor knows them.
    Nodes(inventory::Filter),
    /// Virtual machines, as infrastructure-contractor knows them.
    Vms(inventory::Filter),
    /// Flows: what was asked for.
    #[command(subcommand, visible_alias = "flow")]
    Flows(flows::Command),
    /// Runs: playbooks at work.
    #[command(subcommand, visible_alias = "run")]
    Runs(runs::Command),
    /// Events.
    #[command(subcommand)]
    Events(events::Command),
    /// The admin kubeconfig of a cluster.
    Kubeconfig(credentials::Kubeconfig),
    /// A talosconfig for a cluster.
    Talosconfig(credentials::Talosconfig),
    /// Playbooks that the contractors have loaded, or files to check.
    #[command(subcommand)]
    Playbooks(playbooks::Command),
    /// Schemas of the messages.
    #[command(subcommand)]
    Schema(schema::Command),
    /// Messages that were put aside.
    #[command(subcommand)]
    Deadletter(deadletter::Command),
    /// Ids and addresses that are kept from use.
    #[command(subcommand)]
    Quarantine(quarantine::Command),
    /// A contractor's store, through the daemon or on a stopped one's folder.
    #[command(subcommand)]
    Store(store::Command),
    /// Who did what: the contractors' audit logs.
    #[command(subcommand)]
    Audit(audit::Command),
    /// The bus: streams, consumers, keys.
    #[command(subcommand)]
    Bus(bus::Command),
    /// Shell completions.
    Completions(completions::Arguments),
}

/// Runs the command line; what `main` calls.
pub fn main() -> ExitCode {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed before");
    }
    let line = Line::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(Failure::other(error))),
    };
    end(runtime.block_on(run(line)))
}

async fn run(line: Line) -> Outcome {
    let connection = &line.connection;
    let mut out = Output::new(line.output);
    match line.command {
        Command::Cluster(command) => clusters::run(command, connection, &mut out).await,
        Command::Nodes(filter) => inventory::nodes(filter, connection, &mut out).await,
        Command::Vms(filter) => inventory::vms(filter, connection, &mut out).await,
        Command::Flows(command) => flows::run(command, connection, &mut out).await,
        Command::Runs(command) => runs::run(command, connection, &mut out).await,
        Command::Events(command) => events::run(command, connection, &mut out).await,
        Command::Kubeconfig(command) => credentials::kubeconfig(command, connection, &mut out).await,
        Command::Talosconfig(command) => credentials::talosconfig(command, connection, &mut out).await,
        Command::Playbooks(command) => playbooks::run(command, connection, &mut out).await,
        Command::Schema(command) => schema::run(command, &mut out),
        Command::Deadletter(command) => deadletter::run(command, connection, &mut out).await,
        Command::Quarantine(command) => quarantine::run(command, connection, &mut out).await,
        Command::Store(command) => store::run(command, connection, &mut out).await,
        Command::Audit(command) => audit::run(command, connection, &mut out).await,
        Command::Bus(command) => bus::run(command, connection, &mut out).await,
        Command::Completions(arguments) => completions::run(&arguments, &mut out),
    }
}

impl Connection {
    /// Connects as the identity that the flags name.
    ///
    /// # Errors
    /// See [`client::Error`]; [`Failure::Usage`] where what is said would leave this machine in plain text.
    pub async fn connect(&self) -> Result<Client, Failure> {
        if let Some(server) = self.servers.iter().find(|server| ::bus::leaves_in_plain(server, self.ca.is_some())) {
            let right = "expected tls://, or --ca, for a server that is not on this machine";
            return Err(Failure::Usage(format!("--server {server}: it would not be encrypted; {right}")));
        }
        let user = std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned());
        let source = self.source.clone().unwrap_or_else(|| format!("/{}/{user}", self.identity));
        Ok(Client::connect(client::Options {
            servers: self.servers.clone(),
            seed_file: self.seed.clone(),
            ca_file: self.ca.clone(),
            client_certificate: self.cert.clone().zip(self.key.clone()),
            identity: self.identity.clone(),
            source,
            patience: Duration::from_secs(self.patience),
        })
        .await?)
    }
}

fn end(outcome: Outcome) -> ExitCode {
    let failure = match outcome {
        Ok(Ending::Ok) => return ExitCode::SUCCESS,
        Ok(Ending::Failed) => return ExitCode::from(1),
        Ok(Ending::NeedsOperator) => return ExitCode::from(3),
        Ok(Ending::Differs) => return ExitCode::from(4),
        Err(Failure::Closed) => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    let mut err = std::io::stderr().lock();
    let _ = writeln!(err, "cortexctl: {failure}");
    for line in failure.details() {
        let _ = writeln!(err, "  {line}");
    }
    ExitCode::from(match &failure {
        Failure::Usage(_) => 2,
        Failure::NeedsOperator(_) => 3,
        Failure::Client(client::Error::Refused(refusal)) if refusal.kind == RefusalKind::Changed => 4,
        _ => 1,
    })
}
