//! `cortexctl bus init|check|configure`

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ::bus::{Difference, server_config};
use clap::Subcommand;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    cli::{Connection, Ending, Failure, Outcome},
    output::Output,
};

/// What to do with the bus.
#[derive(Subcommand)]
pub enum Command {
    /// Make the streams and consumers, as admin; changes what differs.
    Init,
    /// Compare streams and consumers with what they should be.
    Check {
        /// Address of the server's monitoring (http), to see that it syncs every write.
        #[arg(long, value_name = "ADDRESS:PORT")]
        monitor: Option<SocketAddr>,
    },
    /// Write a nats-server configuration with keys and certificates for every identity.
    Configure {
        /// Where to.
        folder: PathBuf,
        /// Where clients connect.
        #[arg(long, default_value = "127.0.0.1:4222")]
        listen: SocketAddr,
        /// Further names and addresses that the server's certificate is for.
        #[arg(long = "name")]
        names: Vec<String>,
        /// Where JetStream keeps its files; default: `jetstream` in the folder.
        #[arg(long)]
        store: Option<PathBuf>,
        /// Port of the server's monitoring, on loopback only; for `bus check --monitor`.
        #[arg(long)]
        monitor_port: Option<u16>,
    },
}

/// Does it.
pub async fn run(command: Command, connection: &Connection, out: &mut Output) -> Outcome {
    match command {
        Command::Init => {
            let client = connection.connect().await?;
            let done = ::bus::init(client.bus()).await.map_err(Failure::other)?;
            lines(&done, out)?;
            if done.is_empty() {
                out.note("everything was as it should be");
            }
            Ok(Ending::Ok)
        }
        Command::Check { monitor } => {
            let client = connection.connect().await?;
            let mut differences = ::bus::check(client.bus()).await.map_err(Failure::other)?;
            let consumers = ::bus::check_consumers(client.bus(), &::bus::streams::consumers()).await;
            differences.extend(consumers.map_err(Failure::other)?);
            match monitor {
                Some(monitor) => differences.extend(check_sync(&monitor).await?),
                None => out.note("whether the server syncs every write is not checked: --monitor says where to ask"),
            }
            if out.is_table() {
                lines(&differences, out)?;
            } else {
                out.value(&differences)?;
            }
            Ok(if differences.is_empty() { Ending::Ok } else { Ending::Differs })
        }
        Command::Configure { folder, listen, names, store, monitor_port } => {
            let options = server_config::Options {
                listen,
                names,
                monitor_port,
                store_folder: store.unwrap_or_else(|| folder.join("jetstream")),
                verify_clients: false,
            };
            let setup = server_config::generate(&folder, &options).map_err(Failure::other)?;
            let mut keys: Vec<Value> = Vec::new();
            for (identity, key) in &setup.keys {
                let public = &setup.public_keys[identity];
                keys.push(json!({ "identity": identity.as_str(), "seed_file": key, "public_key": public }));
            }
            out.rows(&keys, &["identity", "seed_file", "public_key"])?;
            out.note(&format!("start it: nats-server -c {}", setup.config.display()));
            Ok(Ending::Ok)
        }
    }
}

fn lines<T: ToString + serde::Serialize>(items: &[T], out: &mut Output) -> Result<(), Failure> {
    if !out.is_table() {
        return out.value(&items);
    }
    items.iter().try_for_each(|item| out.text(&item.to_string()))
}

/// `sync_interval` is no part of a stream: only the server's monitoring tells it (crates.md, async-nats).
async fn check_sync(monitor: &SocketAddr) -> Result<Option<Difference>, Failure> {
    let failed = |reason: String| Failure::Other(format!("monitoring at {monitor}: {reason}"));
    let told = tokio::time::timeout(Duration::from_secs(5), get(monitor, "/jsz?config=true")).await;
    let body =
        told.map_err(|_| failed("no answer within 5s".to_owned()))?.map_err(|error| failed(error.to_string()))?;
    let told: Value = serde_json::from_str(&body).map_err(|error| failed(error.to_string()))?;
    if told.pointer("/config/sync_always") == Some(&Value::Bool(true)) {
        return Ok(None);
    }
    let nanoseconds = told.pointer("/config/sync_interval").and_then(Value::as_u64).unwrap_or_default();
    Ok(Some(Difference {
        what: "nats-server".to_owned(),
        setting: "sync_interval",
        expected: "always".to_owned(),
        actual: format!("{:?}", Duration::from_nanos(nanoseconds)),
    }))
}

async fn get(from: &SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(from).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {from}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        _ => Err(std::io::Error::other("it is not the monitoring of a nats-server")),
    }
}
