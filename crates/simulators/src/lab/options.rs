//! What a lab starts with.

use std::{net::SocketAddr, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    faults::Fault,
    proxmox::{ApiUser, HostOptions, Options, Storage, Version},
};

/// The settings of a lab; the default is three hosts at real speed.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// The N of `127.N.0.0/16`; none takes the first free one.
    pub network: Option<u8>,
    pub version: Version,
    /// Names of the nodes are `pve1`, `pve2`, …
    pub hosts: usize,
    /// CPUs of each node.
    pub host_cpus: u32,
    /// GiB of memory of each node.
    pub host_memory_gib: u64,
    pub storages: Vec<Storage>,
    /// The pool that the contractor's user has its rights on.
    pub pool: String,
    /// How many times as fast as real hardware; infinite has no delays.
    pub speed: f64,
    /// Of every random value the lab makes up, API secret included.
    pub seed: u64,
    pub faults: Vec<Fault>,
    /// Added to every call, in real time.
    pub latency: Duration,
    pub api_port: u16,
    pub mirror_port: u16,
    pub control_port: u16,
    /// Password of `root@pam`.
    pub root_password: String,
    /// Whether Talos runs in the VMs; without, they are only on or off.
    pub guests: bool,
    /// Whether every delay is recorded.
    pub record_delays: bool,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            network: None,
            version: Version::default(),
            hosts: 3,
            host_cpus: 32,
            host_memory_gib: 128,
            storages: Options::default_storages(),
            pool: "cortex".to_owned(),
            speed: 1.0,
            seed: 1,
            faults: Vec::new(),
            latency: Duration::ZERO,
            api_port: 8006,
            mirror_port: 8080,
            control_port: 8090,
            root_password: "lab".to_owned(),
            guests: true,
            record_delays: false,
        }
    }
}

impl LabOptions {
    /// The secret of the contractor's token; the same seed gives the same.
    pub(super) fn token_secret(&self) -> String {
        let mut rng = StdRng::seed_from_u64(self.seed ^ 0x7061_7373_776f_7264);
        uuid::Builder::from_random_bytes(rng.random()).into_uuid().to_string()
    }

    /// The cluster at an address, with a contractor's user in it.
    pub(super) fn cluster(&self, address: SocketAddr, user: ApiUser) -> Options {
        let octets = match address {
            SocketAddr::V4(address) => address.ip().octets(),
            SocketAddr::V6(_) => [127, 0, 0, 1],
        };
        let hosts = (1..=self.hosts).map(|at| {
            let ip = format!("127.{}.0.{}", octets[1], 10 + at);
            let host = HostOptions::new(&format!("pve{at}"), &ip);
            HostOptions { cpus: self.host_cpus, memory: self.host_memory_gib << 30, ..host }
        });
        Options {
            address,
            version: self.version,
            hosts: hosts.collect(),
            storages: self.storages.clone(),
            pools: vec![self.pool.clone()],
            seed: self.seed,
            root_password: self.root_password.clone(),
            users: vec![user],
            ..Options::default()
        }
    }
}
