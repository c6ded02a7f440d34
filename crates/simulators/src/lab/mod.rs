//! The whole datacenter on a laptop: a Proxmox VE cluster whose VMs run simulated Talos nodes, a mirror, and knobs.

mod cli;
mod control;
mod guests;
mod mirror;
mod options;
mod proxies;
mod proxy;
mod schematic;
mod subnet;

use std::{io, net::SocketAddr, sync::Arc};

pub use cli::{main, run};
pub use guests::Guests;
pub use mirror::{Addon, Mirror, Registry};
pub use options::LabOptions;
pub use proxy::{Cut, Direction, Harm, Proxy};
pub use schematic::{EMPTY as EMPTY_SCHEMATIC, Schematic};
pub use subnet::Subnet;

use crate::{
    delays::Delays,
    faults::Faults,
    machine::Machines,
    pace::Pace,
    proxmox::{ApiUser, Proxmox},
};

/// A running lab; dropping it ends everything in it.
pub struct Lab {
    subnet: Subnet,
    user: ApiUser,
    proxmox: Arc<Proxmox>,
    mirror: Arc<Mirror>,
    guests: Arc<Guests>,
    control: control::Control,
}

impl Lab {
    /// Claims a network, then starts everything in it. Nothing is kept on disk.
    pub async fn start(options: LabOptions) -> io::Result<Self> {
        // A second installation fails, and the first is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let subnet = match options.network {
            Some(number) => {
                let taken = |error| sockets::explain(Subnet::marker(number), error);
                Subnet::claim(number).map_err(taken)?
            }
            None => Subnet::find()?,
        };
        let at = |fourth: u8, port: u16| SocketAddr::from((subnet.address(0, fourth), port));
        let delays = if options.record_delays { Delays::kept() } else { Delays::default() };
        let pace = Pace::recording(options.speed, delays);
        let faults = Faults::default();
        faults.set_latency(options.latency);
        for fault in &options.faults {
            faults.add(fault.clone());
        }
        let mirror = Arc::new(Mirror::start(at(2, options.mirror_port)).await?);
        let machines = guests::make(&options, &pace, &faults, mirror.registry());
        let user = ApiUser::contractor(options.version, &options.pool, &options.token_secret());
        let address = at(1, options.api_port);
        let cluster = options.cluster(address, user.clone());
        let proxmox = Arc::new(Proxmox::start(cluster, machines.clone() as Arc<dyn Machines>, pace, faults).await?);
        let listen = at(2, options.control_port);
        let control =
            control::Control::start(listen, proxmox.clone(), machines.clone(), mirror.clone(), user.clone()).await?;
        Ok(Self { subnet, user, proxmox, mirror, guests: machines, control })
    }

    /// `127.N.0.0/16`; addresses from `127.N.1.0` on are free for nodes.
    pub fn subnet(&self) -> &Subnet {
        &self.subnet
    }

    /// The hypervisor, with its knobs.
    pub fn proxmox(&self) -> &Proxmox {
        &self.proxmox
    }

    /// What runs in the VMs.
    pub fn guests(&self) -> &Guests {
        &self.guests
    }

    /// Images and add-ons.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// Where the knobs can be turned over HTTP.
    pub fn control_url(&self) -> String {
        format!("http://{}", self.control.address())
    }

    /// `user@realm!token=secret` of the contractor's user.
    pub fn api_token(&self) -> String {
        self.user.api_token()
    }

    /// Planned failures of all simulators.
    pub fn faults(&self) -> &Faults {
        self.proxmox.faults()
    }

    /// The clock of the hypervisor.
    pub fn pace(&self) -> &Pace {
        self.proxmox.pace()
    }
}
