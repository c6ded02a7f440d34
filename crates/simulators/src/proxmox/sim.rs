//! The running simulator: shared state, clocks, and the workers that do what takes time.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    access::Identity,
    auth::TicketKey,
    hands::Listener,
    lock::{Held, LockName, Locks},
    task::{Task, Tasks, Upid},
    vm::Run,
    world::World,
};
use crate::{
    delays::Who,
    faults::{FaultAction, Faults},
    machine::Machines,
    pace::Pace,
};

/// Everything the handlers and workers of one simulated cluster share.
pub(crate) struct Sim {
    world: Mutex<World>,
    tasks: Mutex<Tasks>,
    pub(crate) locks: Locks,
    pub(crate) pace: Pace,
    pub(crate) faults: Faults,
    pub(crate) machines: Arc<dyn Machines>,
    pub(crate) tickets: TicketKey,
    /// Seconds a ticket is good for.
    pub(crate) ticket_lifetime: AtomicI64,
    /// SHA-256 of the server certificate, colon hex.
    pub(crate) fingerprint: String,
    /// Error bodies carry `message`, as since libpve-http-server-perl 5.2.0.
    pub(crate) message_in_body: bool,
    /// Told whenever a VM's power or a task changed.
    pub(crate) changed: Notify,
    listener: Mutex<Option<Listener>>,
    /// Ends everything this simulator started.
    pub(crate) shutdown: CancellationToken,
    next_pid: AtomicU32,
}

/// What a simulator is made of.
pub(crate) struct Parts {
    pub(crate) world: World,
    pub(crate) pace: Pace,
    pub(crate) faults: Faults,
    pub(crate) machines: Arc<dyn Machines>,
    pub(crate) fingerprint: String,
    pub(crate) message_in_body: bool,
}

impl Sim {
    pub(crate) fn new(mut parts: Parts) -> Arc<Self> {
        let tickets = TicketKey::generate(&mut parts.world.rng);
        Arc::new(Self {
            world: Mutex::new(parts.world),
            tasks: Mutex::new(Tasks::default()),
            locks: Locks::default(),
            pace: parts.pace,
            faults: parts.faults,
            machines: parts.machines,
            tickets,
            ticket_lifetime: AtomicI64::new(7200),
            fingerprint: parts.fingerprint,
            message_in_body: parts.message_in_body,
            changed: Notify::new(),
            listener: Mutex::default(),
            shutdown: CancellationToken::new(),
            next_pid: AtomicU32::new(0x1A2B),
        })
    }

    /// Never held across an await, nor while a guest is told anything.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever is told of every call.
    pub(crate) fn listener(&self) -> MutexGuard<'_, Option<Listener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn new_pid(&self) -> u32 {
        self.next_pid.fetch_add(3, Ordering::Relaxed)
    }

    /// Forks a worker on a node and returns its UPID at once.
    pub(crate) fn fork<F>(
        self: &Arc<Self>,
        owner: &Identity,
        host: &str,
        (kind, id): (&str, &str),
        work: impl FnOnce(Worker) -> F,
    ) -> String
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let pid = self.new_pid();
        let upid = Upid {
            host: host.to_owned(),
            pid,
            pstart: 0x0123_0000 + u64::from(pid) * 7,
            started: now(),
            kind: kind.to_owned(),
            id: id.to_owned(),
            user: owner.full(),
        };
        let (interrupt, kill) = (CancellationToken::new(), self.shutdown.child_token());
        let task = Task {
            upid: upid.clone(),
            owner: owner.clone(),
            log: Vec::new(),
            end: None,
            interrupt: interrupt.clone(),
            kill: kill.clone(),
        };
        self.tasks().push(task);
        let worker = Worker { sim: self.clone(), upid: upid.clone(), interrupt, warnings: Arc::default() };
        let name = format!("pve task {kind} {id}");
        let fault = self.faults.take(&name);
        let warnings = worker.warnings.clone();
        let failed_by_plan = worker.clone().planned_failure(name, fault);
        let body = work(worker);
        let (sim, text) = (self.clone(), upid.to_string());
        tokio::spawn(async move {
            let run = async {
                if let Err(reason) = failed_by_plan.await {
                    sim.give_back(&upid);
                    return Err(reason);
                }
                body.await
            };
            tokio::select! {
                result = run => sim.tasks().finish(&upid, now(), result.map(|()| warnings.load(Ordering::Relaxed))),
                () = kill.cancelled() => {}
            }
            sim.changed.notify_waiters();
        });
        text
    }

    /// A create that fails takes the configuration that it reserved away again, planned or not.
    fn give_back(&self, upid: &Upid) {
        let Some(vmid) = upid.id.parse().ok().filter(|_| upid.kind == "qmcreate") else { return };
        let mut world = self.world();
        if world.vms.get(&vmid).is_some_and(|vm| vm.config.get("lock") == Some("create")) {
            world.vms.remove(&vmid);
        }
    }

    /// Waits until a condition on the cluster holds or patience runs out.
    pub(crate) async fn wait_until(&self, limit: Duration, mut holds: impl FnMut(&World) -> bool) -> bool {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let notified = self.changed.notified();
            if holds(&self.world()) {
                return true;
            }
            if tokio::time::timeout_at(deadline, notified).await.is_err() {
                return holds(&self.world());
            }
        }
    }

    /// Changes the state of a running QEMU process; in every state but `running` its guest stands still.
    pub(crate) fn set_qmp(&self, vmid: u32, state: &'static str) -> bool {
        match self.world().vms.get_mut(&vmid).map(|vm| &mut vm.run) {
            Some(Run::Running { qmp, .. }) => *qmp = state,
            _ => return false,
        }
        self.machines.set_frozen(vmid, state != "running");
        self.changed.notify_waiters();
        true
    }

    pub(crate) async fn lock_guest(&self, host: &str, vmid: u32) -> Result<Held, String> {
        self.locks.exclusive(&LockName::guest(host, vmid), &self.pace).await
    }

    pub(crate) async fn lock_storage(&self, host: &str, storage: &str) -> Result<Held, String> {
        let shared = self.world().storages.get(storage).is_some_and(super::storage::Storage::is_shared);
        if shared && !self.world().is_quorate() {
            return Err(format!("cfs-lock 'storage-{storage}' error: no quorum!"));
        }
        self.locks.exclusive(&LockName::storage(host, storage, shared), &self.pace).await
    }
}

/// The hand a worker process has on its task.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) sim: Arc<Sim>,
    pub(crate) upid: Upid,
    interrupt: CancellationToken,
    warnings: Arc<AtomicUsize>,
}

impl Worker {
    /// The same hand for what a synchronous call does on a node.
    pub(crate) fn unlogged(sim: &Arc<Sim>, host: &str) -> Self {
        let upid = Upid {
            host: host.to_owned(),
            pid: 0,
            pstart: 0,
            started: now(),
            kind: String::new(),
            id: String::new(),
            user: String::new(),
        };
        Self { sim: sim.clone(), upid, interrupt: CancellationToken::new(), warnings: Arc::default() }
    }

    pub(crate) fn log(&self, line: impl Into<String>) {
        if let Some(task) = self.sim.tasks().get_mut(&self.upid) {
            task.log.push(line.into());
        }
    }

    pub(crate) fn warn(&self, line: impl Into<String>) {
        self.warnings.fetch_add(1, Ordering::Relaxed);
        self.log(format!("WARN: {}", line.into()));
    }

    /// Lets simulated seconds of work pass; an interrupt ends the work here.
    pub(crate) async fn work(&self, seconds: f64) -> Result<(), String> {
        tokio::select! {
            () = self.sim.pace.pass(self.who(), &self.upid.kind, Duration::from_secs_f64(seconds)) => Ok(()),
            () = self.interrupt.cancelled() => Err("received interrupt".to_owned()),
        }
    }

    /// Who its time is counted for: the VM that it works on, else the node.
    fn who(&self) -> Who<'_> {
        self.upid.id.parse().map_or(Who::Host(&self.upid.host), Who::Vm)
    }

    /// The error of a worker that was told to stop, once it is told.
    pub(crate) async fn interrupted(&self) -> String {
        self.interrupt.cancelled().await;
        "received interrupt".to_owned()
    }

    async fn planned_failure(self, name: String, fault: Option<FaultAction>) -> Result<(), String> {
        match fault {
            Some(FaultAction::Error { message, .. }) => Err(message),
            Some(FaultAction::Delay { milliseconds }) => {
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                Ok(())
            }
            Some(FaultAction::Hold) => tokio::select! {
                () = self.sim.faults.lifted(&name) => Ok(()),
                reason = self.interrupted() => Err(reason),
            },
            Some(FaultAction::Warnings { count }) => {
                (0..count).for_each(|_| self.warn("planned by the lab"));
                Ok(())
            }
            Some(FaultAction::Hang) => Err(self.interrupted().await),
            _ => Ok(()),
        }
    }
}

/// Unix seconds.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}
