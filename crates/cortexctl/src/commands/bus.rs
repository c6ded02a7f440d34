//! `cortexctl bus init|check|configure|rotate|retire|admit|dismiss`

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ::bus::{
    Difference,
    identity::Identity,
    persons::{self, Person},
    rotation::{self, Rotation},
    server_config,
};
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
        /// Clients must show a certificate besides their nkey; one is made for each identity.
        #[arg(long)]
        verify_clients: bool,
    },
    /// Make a new key for an identity; the server and the contractors accept both keys until `retire`.
    Rotate {
        /// The folder that `bus configure` made.
        folder: PathBuf,
        /// infrastructure, talos, coordinator, operator, mcp or admin.
        #[arg(id = "whose", value_name = "IDENTITY")]
        identity: Identity,
    },
    /// Give the old key of an identity up, once nothing that it signed waits any more.
    Retire {
        /// The folder that `bus configure` made.
        folder: PathBuf,
        /// Whose.
        #[arg(id = "whose", value_name = "IDENTITY")]
        identity: Identity,
        /// Do not ask the bus whether messages wait.
        #[arg(long)]
        offline: bool,
    },
    /// Give an operator a key of their own, which alone speaks for `/operator/NAME`.
    Admit {
        /// The folder that `bus configure` made.
        folder: PathBuf,
        /// Who: as whom they speak, `--as /operator/NAME`.
        name: String,
        /// The public half (`U…`) of an nkey that they made; without it one is made here.
        #[arg(long, value_name = "KEY")]
        public_key: Option<String>,
    },
    /// Take an operator's own key away.
    Dismiss {
        /// The folder that `bus configure` made.
        folder: PathBuf,
        /// Who.
        name: String,
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
        Command::Check { monitor } => check(monitor.as_ref(), connection, out).await,
        Command::Configure { folder, listen, names, store, monitor_port, verify_clients } => {
            let options = server_config::Options {
                listen,
                names,
                monitor_port,
                store_folder: store.unwrap_or_else(|| folder.join("jetstream")),
                verify_clients,
            };
            configure(&folder, &options, out)
        }
        Command::Rotate { folder, identity } => {
            let rotation = rotation::begin(&folder, identity).map_err(Failure::other)?;
            show(&rotation, out)?;
            out.note(
                "now, in this order: let nats-server read its configuration again (`nats-server --signal reload`); give \
                 the contractors the keys of pinned_keys.json and start them again; give the identity its new seed; \
                 then `bus retire`",
            );
            Ok(Ending::Ok)
        }
        Command::Retire { folder, identity, offline } => {
            if !offline {
                nothing_waits(connection).await?;
            }
            show(&rotation::finish(&folder, identity).map_err(Failure::other)?, out)?;
            out.note(
                "let nats-server read its configuration again (`nats-server --signal reload`): it closes the \
                 connections of the old key; then give the contractors the keys of pinned_keys.json",
            );
            Ok(Ending::Ok)
        }
        Command::Admit { folder, name, public_key } => {
            let person = persons::admit(&folder, &name, public_key.as_deref()).map_err(Failure::other)?;
            show_person(&person, out)?;
            out.note(
                "let nats-server read its configuration again (`nats-server --signal reload`), and give the contractors the \
                 keys of pinned_keys.json; a seed that was made here belongs to the person alone",
            );
            Ok(Ending::Ok)
        }
        Command::Dismiss { folder, name } => {
            show_person(&persons::dismiss(&folder, &name).map_err(Failure::other)?, out)?;
            out.note(
                "let nats-server read its configuration again (`nats-server --signal reload`): it closes their connections; \
                 then give the contractors the keys of pinned_keys.json",
            );
            Ok(Ending::Ok)
        }
    }
}

async fn check(monitor: Option<&SocketAddr>, connection: &Connection, out: &mut Output) -> Outcome {
    let client = connection.connect().await?;
    let mut differences = ::bus::check(client.bus()).await.map_err(Failure::other)?;
    let consumers = ::bus::check_consumers(client.bus(), &::bus::streams::consumers()).await;
    differences.extend(consumers.map_err(Failure::other)?);
    match monitor {
        Some(monitor) => differences.extend(check_sync(monitor).await?),
        None => out.note("whether the server syncs every write is not checked: --monitor says where to ask"),
    }
    if out.is_table() {
        lines(&differences, out)?;
    } else {
        out.value(&differences)?;
    }
    Ok(if differences.is_empty() { Ending::Ok } else { Ending::Differs })
}

fn configure(folder: &Path, options: &server_config::Options, out: &mut Output) -> Outcome {
    let setup = server_config::generate(folder, options).map_err(Failure::other)?;
    let mut keys: Vec<Value> = Vec::new();
    for (identity, key) in &setup.keys {
        let public = &setup.public_keys[identity];
        keys.push(json!({ "identity": identity.as_str(), "seed_file": key, "public_key": public }));
    }
    out.rows(&keys, &["identity", "seed_file", "public_key"])?;
    for certificate in &setup.issued {
        out.note(&format!("new certificate: {}", certificate.display()));
    }
    out.note(&format!(
        "start it: nats-server -c {}; or let one that runs read it again: nats-server --signal reload",
        setup.config.display()
    ));
    Ok(Ending::Ok)
}

fn show_person(person: &Person, out: &mut Output) -> Result<(), Failure> {
    let Person { name: _, public_key, seed_file } = person;
    let row = json!({ "source": person.source(), "public_key": public_key, "seed_file": seed_file });
    out.rows(&[row], &["source", "public_key", "seed_file"])
}

fn show(rotation: &Rotation, out: &mut Output) -> Result<(), Failure> {
    let Rotation { identity, seed_file, old_key, new_key } = rotation;
    let row = json!({
        "identity": identity.as_str(), "seed_file": seed_file, "old_key": old_key, "new_key": new_key,
    });
    out.rows(&[row], &["identity", "seed_file", "old_key", "new_key"])
}

/// A message that the old key signed would be refused once the key is no longer pinned.
async fn nothing_waits(connection: &Connection) -> Result<(), Failure> {
    let client = connection.connect().await?;
    let waiting = ::bus::waiting(client.bus()).await.map_err(Failure::other)?;
    if waiting.is_empty() {
        return Ok(());
    }
    let each: Vec<String> = waiting.iter().map(|of| format!("{} for {}", of.messages, of.consumer)).collect();
    Err(Failure::NeedsOperator(format!(
        "messages wait that the old key may have signed ({}): try again when they are taken, or say --offline",
        each.join(", ")
    )))
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
