//! `cortexctl bus init|check|configure`

use std::{net::SocketAddr, path::PathBuf};

use ::bus::server_config;
use clap::Subcommand;

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
    Check,
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
    },
}

/// Does it.
pub async fn run(command: Command, connection: &Connection, out: &mut Output) -> Outcome {
    match command {
        Command::Init => {
            let client = connection.connect().await?;
            let done = ::bus::init(client.bus()).await.map_err(Failure::other)?;
            for line in &done {
                out.text(line)?;
            }
            if done.is_empty() {
                out.note("everything was as it should be");
            }
            Ok(Ending::Ok)
        }
        Command::Check => {
            let client = connection.connect().await?;
            let mut differences = ::bus::check(client.bus()).await.map_err(Failure::other)?;
            if connection.identity == "admin" {
                differences.extend(::bus::check_consumers(client.bus(), &::bus::streams::consumers()).await);
            }
            for difference in &differences {
                out.text(&difference.to_string())?;
            }
            Ok(if differences.is_empty() { Ending::Ok } else { Ending::Differs })
        }
        Command::Configure { folder, listen, names, store } => {
            let options = server_config::Options {
                listen,
                names,
                monitor_port: None,
                store_folder: store.unwrap_or_else(|| folder.join("jetstream")),
                verify_clients: false,
            };
            let setup = server_config::generate(&folder, &options).map_err(Failure::other)?;
            out.text(&format!("nats-server -c {}", setup.config.display()))?;
            for (identity, key) in &setup.keys {
                out.text(&format!("{identity}: {} ({})", key.display(), setup.public_keys[identity]))?;
            }
            Ok(Ending::Ok)
        }
    }
}
