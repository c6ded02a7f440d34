//! What the nodes of a lab share: time, the wire between them, and discovery (talos.md 6.2).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::claims::Claims;
use super::config::MachineType;
use super::etcd::Cluster;
use super::node::Boot;
use crate::delays::{Recorder, Who};
use crate::faults::Faults;
use crate::machine::{Power, PowerListener};
use crate::pace::Pace;

/// How long discovery remembers a node that stopped talking (talos.md 6.3).
const AFFILIATE_LIFETIME: Duration = Duration::from_secs(30 * 60);

/// Extensions by schematic id.
pub(crate) type Schematics = Arc<dyn Fn(&str) -> Vec<String> + Send + Sync>;

/// How the simulated nodes of a lab behave.
#[derive(Clone)]
pub struct Options {
    pub pace: Pace,
    /// Makes etcd's ids repeatable.
    pub seed: u64,
    /// Calls are named `talos <address> /machine.MachineService/Reboot`; an error's code is a gRPC code.
    pub faults: Faults,
    /// Schematic id to the names of its extensions (`siderolabs/qemu-guest-agent`): what an image factory would know.
    pub schematics: Schematics,
}

impl Default for Options {
    fn default() -> Self {
        Self { pace: Pace::default(), seed: 1, faults: Faults::default(), schematics: Arc::new(|_| Vec::new()) }
    }
}

/// Shared by all nodes of a lab; a cheap handle.
#[derive(Clone)]
pub(crate) struct World(Arc<Shared>);

struct Shared {
    options: Options,
    state: Mutex<State>,
    listener: Mutex<Option<PowerListener>>,
    seeds: AtomicU64,
    changed: watch::Sender<u64>,
    /// Discovery data alone.
    members: watch::Sender<u64>,
    claims: Claims,
}

#[derive(Default)]
struct State {
    /// Booted nodes by the addresses they answer on.
    boots: HashMap<IpAddr, Arc<Boot>>,
    /// API servers by where they listen.
    api_servers: HashMap<SocketAddr, Cluster>,
    /// Discovery data by cluster id and secret, then node id.
    affiliates: HashMap<(String, String), HashMap<String, Affiliate>>,
}

/// What a node tells discovery about itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Affiliate {
    pub(crate) node_id: String,
    pub(crate) hostname: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) machine_type: MachineType,
    pub(crate) operating_system: String,
    /// When discovery forgets it; `None` while the node talks.
    expires: Option<Instant>,
}

impl Affiliate {
    pub(crate) fn new(node_id: String, hostname: String, addresses: Vec<IpAddr>, machine_type: MachineType) -> Self {
        Self { node_id, hostname, addresses, machine_type, operating_system: String::new(), expires: None }
    }

    pub(crate) fn with_operating_system(self, operating_system: String) -> Self {
        Self { operating_system, ..self }
    }
}

impl World {
    pub(crate) fn new(options: Options) -> Self {
        let seeds = AtomicU64::new(options.seed);
        Self(Arc::new(Shared {
            options,
            state: Mutex::default(),
            listener: Mutex::default(),
            seeds,
            changed: watch::Sender::new(0),
            members: watch::Sender::new(0),
            claims: Claims::default(),
        }))
    }

    pub(crate) fn faults(&self) -> &Faults {
        &self.0.options.faults
    }

    /// Extensions in an image of this schematic.
    pub(crate) fn extensions(&self, schematic: &str) -> Vec<String> {
        (self.0.options.schematics)(schematic)
    }

    /// Where the delays of a machine are recorded.
    pub(crate) fn recorder(&self, vmid: u32) -> Recorder {
        self.0.options.pace.delays().of(vmid)
    }

    pub(crate) fn speed(&self) -> f64 {
        self.0.options.pace.speed()
    }

    /// How long a duration of the simulated world lasts here.
    pub(crate) fn scale(&self, simulated: Duration) -> Duration {
        self.0.options.pace.scale(simulated)
    }

    /// Lets a stretch of a machine's simulated work pass; stops while the lab is stepped by hand.
    pub(crate) async fn work(&self, vmid: u32, what: &str, seconds: f64) {
        self.0.options.pace.pass(Who::Vm(vmid), what, Duration::from_secs_f64(seconds)).await;
    }

    /// Waits before the next look at something that goes on all the time: a thousand nodes of a world without delays must
    /// not keep the processors busy with it.
    pub(crate) async fn rest(&self, simulated: Duration) {
        tokio::time::sleep(self.scale(simulated).max(simulated.min(Duration::from_secs(5)) / 10)).await;
    }

    /// Waits before the next look at something that is about to happen; never so short that many nodes keep a processor
    /// busy.
    pub(crate) async fn idle(&self, simulated: Duration) {
        tokio::time::sleep(self.scale(simulated).max(Duration::from_millis(20))).await;
    }

    /// A number nobody got before.
    pub(crate) fn next_seed(&self) -> u64 {
        let count = self.0.seeds.fetch_add(1, Ordering::Relaxed);
        count.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17)
    }

    pub(crate) fn set_power_listener(&self, listener: PowerListener) {
        *self.0.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener);
    }

    pub(crate) fn report_power(&self, vmid: u32, power: Power) {
        let listener = self.0.listener.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(listener) = listener {
            listener(vmid, power);
        }
    }

    /// The node answers on this address from now on.
    pub(crate) fn attach(&self, address: IpAddr, boot: &Arc<Boot>) {
        self.lock().boots.insert(address, Arc::clone(boot));
        self.touch();
    }

    /// The node no longer answers, if it is still this boot that does.
    pub(crate) fn detach(&self, boot: &Boot) {
        self.lock().boots.retain(|_, other| other.boot_id != boot.boot_id);
        self.touch();
    }

    /// The node no longer answers on this address, if it did.
    pub(crate) fn leave(&self, address: IpAddr, boot: &Boot) {
        let mut state = self.lock();
        if state.boots.get(&address).is_some_and(|other| other.boot_id == boot.boot_id) {
            state.boots.remove(&address);
        }
        drop(state);
        self.touch();
    }

    /// Which addresses lead astray.
    pub(crate) fn claims(&self) -> &Claims {
        &self.0.claims
    }

    /// The node behind an address, as one that sends a packet would reach it.
    pub(crate) fn node_at(&self, address: IpAddr) -> Option<Arc<Boot>> {
        self.lock().boots.get(&address).cloned()
    }

    pub(crate) fn add_api_server(&self, address: SocketAddr, cluster: &Cluster) {
        self.lock().api_servers.insert(address, cluster.clone());
        self.touch();
    }

    pub(crate) fn remove_api_server(&self, address: SocketAddr) {
        self.lock().api_servers.remove(&address);
        self.touch();
    }

    /// The cluster whose API server listens there.
    pub(crate) fn api_server_at(&self, address: SocketAddr) -> Option<Cluster> {
        self.lock().api_servers.get(&address).cloned()
    }

    /// Where API servers of a cluster listen.
    pub(crate) fn api_servers_of(&self, cluster: &Cluster) -> Vec<SocketAddr> {
        let state = self.lock();
        let of_cluster = state.api_servers.iter().filter(|(_, other)| other.is(cluster));
        let mut addresses: Vec<_> = of_cluster.map(|(address, _)| *address).collect();
        addresses.sort();
        addresses
    }

    /// Publishes a node in its cluster; keyed by cluster id and secret.
    pub(crate) fn announce(&self, key: (String, String), affiliate: Affiliate) {
        let changed = {
            let mut state = self.lock();
            let known = state.affiliates.entry(key).or_default();
            let same = known.get(&affiliate.node_id) == Some(&affiliate);
            known.insert(affiliate.node_id.clone(), affiliate);
            !same
        };
        if changed {
            self.0.members.send_modify(|count| *count += 1);
        }
    }

    /// The node stopped talking: discovery forgets it after half an hour.
    pub(crate) fn fall_silent(&self, key: &(String, String), node_id: &str) {
        let expires = Some(Instant::now() + self.scale(AFFILIATE_LIFETIME));
        if let Some(affiliate) = self.lock().affiliates.get_mut(key).and_then(|known| known.get_mut(node_id)) {
            affiliate.expires = expires;
        }
    }

    /// The node said goodbye.
    pub(crate) fn withdraw(&self, key: &(String, String), node_id: &str) {
        if let Some(known) = self.lock().affiliates.get_mut(key) {
            known.remove(node_id);
        }
        self.0.members.send_modify(|count| *count += 1);
    }

    /// The nodes that discovery knows in a cluster, sorted by name.
    pub(crate) fn affiliates(&self, key: &(String, String)) -> Vec<Affiliate> {
        let now = Instant::now();
        let mut state = self.lock();
        let Some(known) = state.affiliates.get_mut(key) else { return Vec::new() };
        known.retain(|_, affiliate| affiliate.expires.is_none_or(|expires| expires > now));
        let mut all: Vec<_> = known.values().cloned().collect();
        all.sort_by(|left, right| left.hostname.cmp(&right.hostname));
        all
    }

    /// Wakes whoever publishes what discovery knows.
    pub(crate) fn member_changes(&self) -> watch::Receiver<u64> {
        self.0.members.subscribe()
    }

    /// Wakes whoever waits for something in the lab to change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    pub(crate) fn touch(&self) {
        self.0.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
