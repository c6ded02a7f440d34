//! Simulated Talos nodes: one per powered-on machine, on its own loopback address, for talosctl and other clients.
//!
//! [`Nodes`] is what the hypervisor switches on and off. A machine runs boots, one after the other; a [`node::Boot`]
//! is everything that is gone with a reboot: services, events, resources, listeners. What stays is on its disks.

mod api;
mod apid;
mod boot;
mod claims;
mod clock;
mod config;
mod cosi;
mod dated;
mod disk;
mod etcd;
mod events;
mod frames;
mod gateway;
mod install;
mod join;
mod leave;
mod logs;
mod network;
mod node;
mod proxy;
mod publish;
mod release;
mod roles;
mod sequence;
mod serve;
mod services;
mod snapshot;
mod tls;
mod world;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::claims::Claim;
use self::clock::Clock;
pub use self::clock::ClockSetting;
use self::disk::SystemDisk;
use self::node::{Boot, Stage, stage_name};
use self::release::Release;
use self::sequence::{Action, End};
pub use self::snapshot::{ClusterSnapshot, NodeSnapshot, Snapshot};
pub use self::world::Options;
use self::world::World;
use crate::machine::{Guest, ImageRef, Machine, Machines, Power, PowerListener, PowerOff};

/// The Talos nodes of a lab.
///
/// Dropping it cuts the power of all machines.
pub struct Nodes {
    world: World,
    machines: Mutex<HashMap<u32, Powered>>,
    /// Clocks that somebody has touched, by VMID, whether the machine is on or not.
    clocks: Mutex<HashMap<u32, Clock>>,
}

/// A machine that is on.
struct Powered {
    machine: Arc<Machine>,
    power: CancellationToken,
    boot: Arc<Mutex<Option<Arc<Boot>>>>,
    frozen: watch::Sender<bool>,
}

impl Drop for Powered {
    fn drop(&mut self) {
        self.power.cancel();
    }
}

impl Nodes {
    pub fn new(options: Options) -> Self {
        Self { world: World::new(options), machines: Mutex::default(), clocks: Mutex::default() }
    }

    /// The kernel log of a node, for the lab's console view.
    pub fn console(&self, vmid: u32) -> Vec<String> {
        let boot = self.lock().get(&vmid).and_then(Powered::boot);
        boot.and_then(|boot| Some(boot.logs.follow(logs::KERNEL, None)?.0)).unwrap_or_default()
    }

    /// Sets the clock of a machine, on or off. It keeps going like this until it is set again.
    pub fn set_clock(&self, vmid: u32, setting: ClockSetting) {
        self.clock(vmid).set(setting);
    }

    /// From now on this machine answers at an address of another one. With `configured` it has the address as its own, as
    /// with a duplicate address, and its certificate names it; otherwise packets for it go astray.
    pub fn divert(&self, address: IpAddr, vmid: u32, configured: bool) {
        self.world.claims().set(address, Some(Claim { vmid, configured }));
    }

    /// What is sent to an address comes to its owner again; false if it did so anyway.
    pub fn restore(&self, address: IpAddr) -> bool {
        self.world.claims().set(address, None)
    }

    fn clock(&self, vmid: u32) -> Clock {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner).entry(vmid).or_default().clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Powered>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machines for Nodes {
    fn power_on(&self, machine: Machine) {
        let machine = Arc::new(machine);
        let (power, current) = (CancellationToken::new(), Arc::default());
        let frozen = watch::Sender::new(false);
        let seen = frozen.subscribe();
        let powered =
            Powered { machine: Arc::clone(&machine), power: power.clone(), boot: Arc::clone(&current), frozen };
        self.lock().insert(machine.vmid, powered);
        let (world, clock) = (self.world.clone(), self.clock(machine.vmid));
        tokio::spawn(run_machine(world, machine, (power, seen, clock), current));
    }

    fn power_off(&self, vmid: u32, how: PowerOff) {
        match how {
            PowerOff::Cut => drop(self.lock().remove(&vmid)),
            PowerOff::Request => {
                let boot = self.lock().get(&vmid).and_then(Powered::boot);
                if let Some(boot) = boot {
                    let action = Action::Shutdown { force: false };
                    // A boot that is just ending needs no request.
                    let _ = boot.requests.send(sequence::Request { action, actor: String::new(), takeover: true });
                }
            }
        }
    }

    fn guest(&self, vmid: u32) -> Option<Guest> {
        let machines = self.lock();
        let powered = machines.get(&vmid)?;
        let Some(boot) = powered.boot() else {
            return Some(Guest {
                agent: false,
                hostname: String::new(),
                interfaces: Vec::new(),
                state: "starting or not bootable".to_owned(),
            });
        };
        let network = boot.network();
        let interfaces = network
            .links
            .iter()
            .map(|link| (link.mac.clone(), link.addresses.iter().map(ipnet::IpNet::addr).collect()));
        let extension = boot.extensions().iter().any(|name| name.contains("qemu-guest-agent"));
        Some(Guest {
            agent: powered.machine.guest_agent && extension && boot.stage() == Stage::Running,
            hostname: network.hostname.clone(),
            interfaces: interfaces.collect(),
            state: stage_name(boot.stage()).to_owned(),
        })
    }

    fn set_frozen(&self, vmid: u32, frozen: bool) {
        if let Some(powered) = self.lock().get(&vmid) {
            powered.frozen.send_replace(frozen);
        }
    }

    fn set_power_listener(&self, listener: PowerListener) {
        self.world.set_power_listener(listener);
    }
}

impl Powered {
    fn boot(&self) -> Option<Arc<Boot>> {
        self.boot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Boots the machine again and again until it is off.
async fn run_machine(
    world: World,
    machine: Arc<Machine>,
    (power, frozen, clock): (CancellationToken, watch::Receiver<bool>, Clock),
    current: Arc<Mutex<Option<Arc<Boot>>>>,
) {
    let machine_id = machine.vmid;
    let ended = tokio::select! {
        () = power.cancelled() => false,
        ended = boots(&world, &machine, (&power, &frozen, &clock), &current) => ended,
    };
    let last = current.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(boot) = last {
        bury(&world, &boot);
    }
    if ended {
        power.cancel();
        world.report_power(machine_id, Power::Off);
    }
}

/// True when the guest switched itself off.
async fn boots(
    world: &World,
    machine: &Arc<Machine>,
    (power, frozen, clock): (&CancellationToken, &watch::Receiver<bool>, &Clock),
    current: &Mutex<Option<Arc<Boot>>>,
) -> bool {
    loop {
        // Firmware, boot loader and kernel.
        world.work(machine.vmid, "firmware", 8.0).await;
        let Some((release, image, disk)) = bootable(machine) else {
            std::future::pending::<()>().await;
            return false;
        };
        let (boot, mut requests) =
            Boot::new(world, machine, (release, image, disk), (power.child_token(), frozen.clone(), clock.clone()));
        *current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&boot));
        let end = boot::run(&boot, &mut requests).await;
        boot.stop.cancel();
        bury(world, &boot);
        *current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        match end {
            End::Reboot => world.report_power(machine.vmid, Power::Rebooted),
            End::PowerOff => return true,
        }
    }
}

/// Takes a boot out of the world: nobody reaches it any more.
fn bury(world: &World, boot: &Arc<Boot>) {
    boot.stop.cancel();
    world.detach(boot);
    if let Some(key) = boot.discovery_key() {
        world.fall_silent(&key, &boot.node_id());
    }
    let mut state = boot.state();
    state.kubelet = None;
}

/// The first bootable disk, else the ISO.
fn bootable(machine: &Machine) -> Option<(Release, ImageRef, SystemDisk)> {
    let (image, disk) = match disk::boot_disk(machine) {
        Some((name, disk, image)) => (image, SystemDisk::new(Some((name, disk.content.clone())))),
        None => (machine.cdrom.clone()?, SystemDisk::new(None)),
    };
    let release = Release::parse(image.talos_version.as_deref()?)?;
    Some((release, image, disk))
}

/// The error of a failed sequence.
fn fatal(message: String) -> talos::proto::common::Error {
    use talos::proto::common::{Code, Error};
    Error { code: Code::Fatal.into(), message, details: Vec::new() }
}
