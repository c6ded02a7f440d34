//! The HA manager: what it makes of its resources cycle by cycle, and where it takes them when a node is gone (proxmox.md 7.4).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    access::Identity,
    api::vm::migrate,
    power,
    sim::Sim,
    task::{TaskEnd, Upid},
    vm::{Run, Vm},
    world::{HaResource, World},
};

/// From the loss of a node until it counts as offline, and until its guests start elsewhere.
const OFFLINE: Duration = Duration::from_secs(60);
const FENCING: Duration = Duration::from_secs(120);

/// What the node that has a resource shall do now.
enum Order {
    Start,
    Stop,
    Migrate(String),
}

impl HaResource {
    /// The state of a service in words, as `ha-manager status` shows it.
    pub(crate) fn verbose_state(&self, running: bool) -> &'static str {
        match (self.crm, self.state.as_str()) {
            (_, "ignored") => "ignored",
            (None, _) => "queued",
            (Some("started"), _) if !running => "starting",
            (Some("request_stop"), _) => "stopping",
            (Some("stopped"), "disabled") => "disabled",
            (Some(state), _) => state,
        }
    }

    /// Whether the manager looks after it.
    pub(crate) fn is_managed(&self) -> bool {
        self.state != "ignored"
    }

    /// A new wish; what failed before is forgiven when it is disabled.
    pub(crate) fn request(&mut self, state: &str) {
        state.clone_into(&mut self.state);
    }
}

/// One cycle over all resources.
pub(crate) fn manage(sim: &Arc<Sim>) {
    let mut orders = Vec::new();
    {
        let mut world = sim.world();
        if !world.is_quorate() {
            return;
        }
        let ids: Vec<u32> = world.ha.keys().copied().collect();
        for vmid in ids {
            let ended = world.ha.get(&vmid).and_then(|resource| resource.task.clone()).map(|upid| end_of(sim, &upid));
            if let Some(order) = decide(sim, &mut world, vmid, ended) {
                orders.push((vmid, order));
            }
        }
    }
    for (vmid, host, order) in orders.into_iter().map(|(vmid, (host, order))| (vmid, host, order)) {
        let upid = carry_out(sim, vmid, &host, order);
        if let Some(resource) = sim.world().ha.get_mut(&vmid) {
            resource.task = Some(upid);
        }
    }
}

/// How the task of the last order ended; `None` while it runs.
fn end_of(sim: &Sim, upid: &str) -> Option<TaskEnd> {
    let upid = Upid::parse(upid)?;
    let forgotten = || TaskEnd { at: 0, status: "unexpected status".to_owned() };
    match sim.tasks().get(&upid) {
        Some(task) => task.end.clone(),
        None => Some(forgotten()),
    }
}

/// The next state of a resource, and what is to be done for it where it is.
fn decide(sim: &Sim, world: &mut World, vmid: u32, ended: Option<Option<TaskEnd>>) -> Option<(String, Order)> {
    let host = world.vms.get(&vmid).map(|vm| vm.host.clone())?;
    if !world.ha.get(&vmid)?.is_managed() {
        world.ha.get_mut(&vmid)?.crm = None;
        return None;
    }
    if !world.hosts.get(&host).is_some_and(super::host::Host::is_online) {
        lose(sim, world, vmid, &host);
        return None;
    }
    let (running, locked) = world.vms.get(&vmid).map(|vm| (vm.is_running(), vm.config.has("lock")))?;
    let resource = world.ha.get_mut(&vmid)?;
    resource.node_lost = None;
    let failed = match ended {
        Some(None) => return None,
        Some(Some(end)) => {
            resource.task = None;
            end.status != "OK" && !end.status.starts_with("WARNINGS:")
        }
        None => false,
    };
    if let Some(target) = resource.target.take().filter(|target| *target != host) {
        resource.crm = Some(if running { "migrate" } else { "relocate" });
        return Some((host, Order::Migrate(target)));
    }
    match (resource.state.as_str(), running) {
        ("started", true) => {
            (resource.crm, resource.restarts, resource.relocations) = (Some("started"), 0, 0);
            None
        }
        ("started", false) if resource.crm == Some("error") => None,
        ("started", false) if failed => give_up_or_go_on(world, vmid, &host),
        ("started", false) => {
            resource.crm = Some("started");
            (!locked).then_some((host, Order::Start))
        }
        (_, true) => {
            resource.crm = Some("request_stop");
            (!locked).then_some((host, Order::Stop))
        }
        (_, false) => {
            (resource.crm, resource.restarts, resource.relocations) = (Some("stopped"), 0, 0);
            None
        }
    }
}

/// After a start that failed: again here, then on another node, then it is an error.
fn give_up_or_go_on(world: &mut World, vmid: u32, host: &str) -> Option<(String, Order)> {
    let other = world.hosts.iter().find(|(name, other)| *name != host && other.is_online());
    let other = other.map(|(name, _)| name.clone());
    let resource = world.ha.get_mut(&vmid)?;
    if resource.restarts < resource.max_restart {
        resource.restarts += 1;
        return Some((host.to_owned(), Order::Start));
    }
    match other.filter(|_| resource.relocations < resource.max_relocate) {
        Some(target) => {
            resource.relocations += 1;
            resource.restarts = 0;
            resource.crm = Some("relocate");
            Some((host.to_owned(), Order::Migrate(target)))
        }
        None => {
            resource.crm = Some("error");
            None
        }
    }
}

/// A resource whose node is gone: fenced after a minute, taken to another node after two.
fn lose(sim: &Sim, world: &mut World, vmid: u32, host: &str) {
    let floor = Duration::from_millis(200);
    let Some(resource) = world.ha.get_mut(&vmid) else { return };
    let lost = resource.node_lost.get_or_insert_with(Instant::now).elapsed();
    if lost >= sim.pace.scale(OFFLINE).max(floor / 2) && resource.crm != Some("error") {
        resource.crm = Some("fence");
    }
    if lost < sim.pace.scale(FENCING).max(floor) {
        return;
    }
    let target = world.hosts.iter().find(|(name, other)| *name != host && other.is_online());
    let Some(target) = target.map(|(name, _)| name.clone()) else { return };
    if let Some(vm) = world.vms.get_mut(&vmid) {
        take_over(vm, target);
    }
    if let Some(resource) = world.ha.get_mut(&vmid) {
        resource.node_lost = None;
        resource.task = None;
        resource.crm = Some("recovery");
    }
}

/// The configuration moves, whether the disks can be reached there or not.
fn take_over(vm: &mut Vm, target: String) {
    vm.host = target;
    vm.run = Run::Stopped;
}

fn carry_out(sim: &Arc<Sim>, vmid: u32, host: &str, order: Order) -> String {
    let root = Identity::user("root@pam");
    let id = vmid.to_string();
    match order {
        Order::Start => {
            sim.fork(&root, host, ("qmstart", &id), |worker| async move { power::start(&worker, vmid, false).await })
        }
        Order::Stop => sim.fork(&root, host, ("qmshutdown", &id), |worker| async move {
            match power::request_shutdown(&worker, vmid, 60).await? {
                true => Ok(()),
                false => power::stop(&worker, vmid, false).await,
            }
        }),
        Order::Migrate(target) => sim.fork(&root, host, ("qmigrate", &id), move |worker| async move {
            migrate::run(&worker, vmid, (&target, true)).await
        }),
    }
}
