//! A Proxmox VE cluster as a real HTTPS server: several nodes behind one API address, on the contract of
//! `reference/proxmox.md` and never more lenient than that.

mod access;
mod api;
mod auth;
mod boot;
mod call;
mod config;
mod daemons;
mod disks;
mod drive;
mod error;
mod formats;
mod ha;
mod hands;
mod host;
mod inert;
mod knobs;
mod lock;
mod options;
mod params;
mod permission;
mod power;
mod roles;
mod schema;
mod server;
mod sim;
mod storage;
mod task;
mod tls;
mod upload;
mod validate;
mod version;
mod vm;
mod world;

use std::{io, net::SocketAddr, sync::Arc};

pub use hands::{HandMade, Heard};
pub use host::Bridge;
pub use inert::InertMachines;
pub use knobs::{Snapshot, VmSnapshot};
pub use options::{ApiUser, HostOptions, Options};
pub use storage::{Storage, StorageKind};
pub use version::Version;

use crate::{faults::Faults, machine::Machines, pace::Pace};

/// A running simulated cluster; dropping it ends it.
pub struct Proxmox {
    sim: Arc<sim::Sim>,
    address: SocketAddr,
    ca_pem: String,
    fingerprint: String,
}

impl Proxmox {
    /// Binds the API address and serves until dropped. Guests are run by `machines`.
    pub async fn start(options: Options, machines: Arc<dyn Machines>, pace: Pace, faults: Faults) -> io::Result<Self> {
        // Downloads need the process-wide provider; a second installation fails, and the first is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = sockets::listen(options.address).await?;
        let address = listener.local_addr()?;
        let tls = tls::Identity::generate(address.ip())?;
        let message_in_body = options.message_in_body;
        let world = options.build();
        let parts = sim::Parts { world, pace, faults, machines, fingerprint: tls.fingerprint.clone(), message_in_body };
        let sim = sim::Sim::new(parts);
        sim.machines.set_power_listener(power::listener(&sim));
        tokio::spawn(daemons::run(sim.clone()));
        tokio::spawn(server::serve(sim.clone(), listener, tls.acceptor));
        Ok(Self { sim, address, ca_pem: tls.ca_pem, fingerprint: tls.fingerprint })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://127.20.0.1:8006`, without a path.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The private CA of the cluster, as `/etc/pve/pve-root-ca.pem`.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// SHA-256 of the server certificate in colon hex, as `GET /nodes` shows it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Planned failures of this cluster's calls.
    pub fn faults(&self) -> &Faults {
        &self.sim.faults
    }

    /// The clock of this cluster.
    pub fn pace(&self) -> &Pace {
        &self.sim.pace
    }
}

impl Drop for Proxmox {
    fn drop(&mut self) {
        self.sim.shutdown.cancel();
    }
}
