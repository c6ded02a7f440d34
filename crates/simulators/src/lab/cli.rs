//! The command line of `lab`.

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

use clap::{Parser, Subcommand};
use serde_json::json;

use super::{Cut, Direction, Harm, Lab, LabOptions, Proxy, proxies};
use crate::{
    faults::Fault,
    proxmox::{Storage, StorageKind, Version},
};

/// The simulated datacenter: Proxmox VE, Talos nodes and Kubernetes APIs on loopback.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    lab: LabArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a datacenter until Ctrl-C (what happens without a command, too).
    Run,
    /// Puts a TCP proxy that hurts in front of a server.
    Proxy(ProxyArguments),
}

#[derive(Debug, clap::Args)]
struct LabArguments {
    /// The N of 127.N.0.0/16; the first free one if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=254))]
    network: Option<u8>,
    /// Proxmox VE release: 8.4 or 9.1
    #[arg(long, default_value = "9.1", value_parser = Version::from_str)]
    pve_version: Version,
    /// Proxmox VE nodes
    #[arg(long, default_value_t = 3)]
    hosts: usize,
    /// CPUs of each node
    #[arg(long, default_value_t = 32)]
    host_cpus: u32,
    /// GiB of memory of each node
    #[arg(long, default_value_t = 128)]
    host_memory: u64,
    /// NAME:TYPE:GIB:CONTENT+CONTENT; replaces the default storages (TYPE: dir, nfs, lvmthin, lvm, zfspool, rbd)
    #[arg(long = "storage", value_name = "STORAGE", value_parser = parse_storage)]
    storages: Vec<Storage>,
    /// How many times as fast as real hardware; inf has no delays
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// Of all random values
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// CALL[#NTH][xTIMES|x*]=ACTION[:ARGUMENTS], such as 'pve POST /nodes/*/qemu#2=error:500:text', 'pve **x*=delay:50'
    #[arg(long = "fault", value_name = "FAULT", value_parser = Fault::parse)]
    faults: Vec<Fault>,
    /// Milliseconds added to every call
    #[arg(long, default_value_t = 0)]
    latency: u64,
    /// Everything waits for a step of the control endpoint
    #[arg(long)]
    step: bool,
    /// Port of the Proxmox VE API on 127.N.0.1
    #[arg(long, default_value_t = 8006)]
    api_port: u16,
    /// Port of the image and add-on mirror on 127.N.0.2
    #[arg(long, default_value_t = 8080)]
    mirror_port: u16,
    /// Port of the control endpoint on 127.N.0.2
    #[arg(long, default_value_t = 8090)]
    control_port: u16,
    /// Writes the cluster's CA here
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Writes `user@realm!token=secret` here, readable only by you
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// VMs are only on or off; nothing runs in them
    #[arg(long)]
    no_guests: bool,
    /// Records what everything took its time for; GET /v1/delays of the control endpoint lists it
    #[arg(long)]
    record_delays: bool,
}

#[derive(Debug, clap::Args)]
struct ProxyArguments {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Where connections go
    #[arg(long)]
    to: SocketAddr,
    /// Milliseconds that every piece of data waits
    #[arg(long, default_value_t = 0)]
    delay: u64,
    /// How connections end
    #[arg(long)]
    cut: Option<Cut>,
    /// Bytes that pass before the cut
    #[arg(long, default_value_t = 0)]
    after_bytes: u64,
    /// Which bytes are harmed
    #[arg(long, default_value = "down")]
    direction: Direction,
    /// Where the harm can be changed over HTTP while it runs (the proxy is number 1)
    #[arg(long, value_name = "ADDRESS")]
    control: Option<SocketAddr>,
}

/// The whole program: logs to stderr as `RUST_LOG` says, answers to stdout.
pub async fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    match run(arguments, &mut io::stdout()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let usage = error.downcast_ref::<clap::Error>().is_some();
            // Nobody is left to tell when stderr is gone.
            let _ = if usage { write!(io::stderr(), "{error}") } else { writeln!(io::stderr(), "lab: {error:#}") };
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

/// Runs the command line to its end; what it tells goes to `out`, one JSON object in one line first.
pub async fn run(arguments: impl Iterator<Item = String>, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => return Err(error.into()),
        Err(help) => return Ok(write!(out, "{help}")?),
    };
    match arguments.command {
        Some(Command::Proxy(proxy)) => run_proxy(&proxy, out).await,
        Some(Command::Run) | None => run_lab(arguments.lab, out).await,
    }
}

async fn run_proxy(arguments: &ProxyArguments, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    let ProxyArguments { listen, to, delay, cut, after_bytes, direction, control } = *arguments;
    let proxy = Proxy::start(listen, to, Harm { delay_ms: delay, cut, after_bytes, direction }).await?;
    let mut ready = json!({ "listen": proxy.address(), "to": to, "harm": proxy.harm() });
    let proxies = proxies::Proxies::default();
    proxies.add(proxy);
    let stop = tokio_util::sync::CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    if let Some(control) = control {
        let address = proxies::serve(control, proxies.clone(), stop).await?;
        ready["control"] = format!("http://{address}").into();
    }
    writeln!(out, "{ready}")?;
    out.flush()?;
    ended().await?;
    Ok(())
}

async fn run_lab(arguments: LabArguments, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    let (ca_file, token_file, step) = (arguments.ca_file.clone(), arguments.token_file.clone(), arguments.step);
    let lab = Lab::start(arguments.options()).await?;
    if step {
        lab.pace().hold();
    }
    if let Some(path) = ca_file {
        std::fs::write(path, lab.proxmox().ca_pem())?;
    }
    if let Some(path) = token_file {
        write_secret(&path, &lab.api_token())?;
    }
    let ready = json!({
        "network": lab.subnet().network(),
        "proxmox": lab.proxmox().url(),
        "fingerprint": lab.proxmox().fingerprint(),
        "api_token": lab.api_token(),
        "mirror": lab.mirror().url(),
        "addons": lab.mirror().addons(),
        "control": lab.control_url(),
    });
    writeln!(out, "{ready}")?;
    out.flush()?;
    ended().await?;
    Ok(())
}

/// Until the operator or the supervisor has had enough.
async fn ended() -> io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}

fn write_secret(path: &std::path::Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

impl LabArguments {
    fn options(self) -> LabOptions {
        let defaults = LabOptions::default();
        LabOptions {
            network: self.network,
            version: self.pve_version,
            hosts: self.hosts,
            host_cpus: self.host_cpus,
            host_memory_gib: self.host_memory,
            storages: if self.storages.is_empty() { defaults.storages.clone() } else { self.storages },
            speed: self.speed,
            seed: self.seed,
            faults: self.faults,
            latency: Duration::from_millis(self.latency),
            api_port: self.api_port,
            mirror_port: self.mirror_port,
            control_port: self.control_port,
            guests: !self.no_guests,
            record_delays: self.record_delays,
            ..defaults
        }
    }
}

fn parse_storage(text: &str) -> Result<Storage, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let [name, kind, gib, content] = parts[..] else { return Err("expected NAME:TYPE:GIB:CONTENT+CONTENT".to_owned()) };
    let kind: StorageKind = kind.parse()?;
    let gib: u64 = gib.parse().map_err(|_| format!("{gib:?} is no size in GiB"))?;
    Ok(Storage::new(name, kind, &content.split('+').collect::<Vec<_>>(), gib << 30))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_storages_are_read() {
        Arguments::command().debug_assert();
        let storage = parse_storage("tank:zfspool:500:images+rootdir").unwrap();
        assert_eq!((storage.size, storage.content.len()), (500 << 30, 2));
        assert!(parse_storage("tank:floppy:1:images").is_err());
    }
}
