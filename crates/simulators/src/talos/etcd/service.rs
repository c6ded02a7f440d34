//! The etcd service of one node: bootstrap, join as learner, promotion, health (talos.md 3.2, 6.2).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Cluster, Data, snapshot};
use crate::kubernetes::ControlPlane;
use crate::talos::node::Boot;
use crate::talos::services::State;
use crate::talos::{clock, join, publish};

/// What a Bootstrap call asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bootstrap {
    pub(crate) recover: bool,
    pub(crate) skip_hash_check: bool,
}

/// The state of the service that the API looks at.
pub(crate) struct Service {
    /// Lives in memory only: a reboot forgets it.
    bootstrap: watch::Sender<Option<Bootstrap>>,
    running: watch::Sender<Option<Running>>,
}

#[derive(Clone)]
struct Running {
    data: Data,
    stop: CancellationToken,
}

/// Marks the member as stopped when the process ends for whatever reason.
struct Process {
    data: Data,
    boot: uuid::Uuid,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.data.cluster.member_stopped(self.data.member, self.boot);
    }
}

impl Default for Service {
    fn default() -> Self {
        Self { bootstrap: watch::Sender::new(None), running: watch::Sender::new(None) }
    }
}

impl Service {
    pub(crate) fn request_bootstrap(&self, bootstrap: Bootstrap) {
        self.bootstrap.send_replace(Some(bootstrap));
    }

    pub(crate) fn bootstrap_requested(&self) -> bool {
        self.bootstrap.borrow().is_some()
    }

    /// The member that runs here now.
    pub(crate) fn running(&self) -> Option<Data> {
        self.running.borrow().as_ref().map(|running| running.data.clone())
    }

    /// Waits until a member runs here that has a vote.
    pub(crate) async fn voting(&self, boot: &Boot) -> Data {
        let mut changes = boot.world.changes();
        let mut running = self.running.subscribe();
        loop {
            if let Some(data) = self.running() {
                let votes = data
                    .cluster
                    .read(|membership| membership.member(data.member).is_some_and(|member| !member.learner));
                if votes {
                    return data;
                }
            }
            tokio::select! {
                changed = running.changed() => if changed.is_err() { std::future::pending::<()>().await },
                _ = changes.changed() => {}
            }
        }
    }

    /// Stops the process; it does not come back during this boot.
    pub(crate) fn stop(&self, data: &Data) {
        if let Some(running) = self.running.send_replace(None) {
            running.stop.cancel();
        }
        data.cluster.change(|membership| membership.stopped(data.member));
    }
}

/// Runs etcd until the boot ends or it is stopped.
pub(crate) async fn run(boot: Arc<Boot>) {
    boot.services.set(
        "etcd",
        State::Waiting,
        "Waiting for service \"cri\" to be \"up\", time sync, network, etcd spec",
    );
    join::until_up(&boot, "cri").await;
    clock::until_set(&boot).await;
    boot.services.set("etcd", State::Preparing, "Running pre state");
    boot.work("service etcd", 3.0).await;
    let data = match boot.disk.read(|saved| saved.etcd.clone()) {
        Some(data) => data,
        None => acquire(&boot).await,
    };
    boot.services.set("etcd", State::Preparing, "Creating service runner");
    let process = Process { data: data.clone(), boot: boot.boot_id };
    if !data.cluster.member_started(data.member, &boot.name(), boot.boot_id) {
        let text = "the member has been permanently removed from the cluster";
        boot.services.set("etcd", State::Failed, &format!("Failed to run process: {text}"));
        boot.logs.service("etcd", text);
        std::mem::forget(process);
        std::future::pending::<()>().await;
        return;
    }
    let stop = CancellationToken::new();
    boot.services.set("etcd", State::Running, "Started task etcd (PID 2741) for container etcd");
    boot.etcd.running.send_replace(Some(Running { data: data.clone(), stop: stop.clone() }));
    boot.world.recorder(boot.machine.vmid).note("etcd begins", Duration::ZERO);
    publish::etcd_member(&boot, data.member);
    boot.world.touch();
    tokio::select! {
        () = stop.cancelled() => {}
        () = supervise(&boot, &data) => {}
    }
    boot.etcd.running.send_replace(None);
    drop(process);
}

/// Gets a data directory: by a bootstrap request or by joining somebody's cluster.
async fn acquire(boot: &Arc<Boot>) -> Data {
    let mut requests = boot.etcd.bootstrap.subscribe();
    // Since when the last look for peers was slept over.
    let mut paused: Option<Instant> = None;
    loop {
        let request = *requests.borrow_and_update();
        if let Some(request) = request {
            boot.services.set("etcd", State::Finished, "Bootstrap requested");
            boot.services.set("etcd", State::Preparing, "Running pre state");
            match bootstrap(boot, request) {
                Ok(data) => return data,
                Err(text) => {
                    boot.services.set("etcd", State::Failed, &text);
                    boot.etcd.bootstrap.send_replace(None);
                    boot.world.idle(std::time::Duration::from_secs(5)).await;
                }
            }
        } else if let Some(data) = try_join(boot) {
            if let Some(since) = paused {
                boot.world.recorder(boot.machine.vmid).note("etcd's look for peers", since.elapsed());
            }
            return data;
        }
        paused = Some(Instant::now());
        tokio::select! {
            () = boot.world.idle(std::time::Duration::from_secs(3)) => {}
            _ = requests.changed() => {}
        }
    }
}

fn bootstrap(boot: &Boot, request: Bootstrap) -> Result<Data, String> {
    let config = boot.active_config().ok_or("no machine configuration")?;
    let address = boot.address().ok_or("no address")?;
    let control_plane = ControlPlane::new(join::cluster_identity(&config), boot.world.speed());
    control_plane.obey(boot.world.faults().clone());
    if request.recover {
        let stored =
            boot.disk.read(|saved| saved.snapshot.clone()).ok_or("error recovering from the snapshot: no snapshot")?;
        let objects = snapshot::read(&stored, request.skip_hash_check)
            .map_err(|damage| format!("error recovering from the snapshot: {damage}"))?;
        control_plane.restore(&objects).map_err(|error| format!("error recovering from the snapshot: {error}"))?;
    }
    let authorities = (&*config.etcd_ca().crt, &*config.cluster_ca().crt);
    let founder = (&*boot.name(), address);
    let (cluster, member) = Cluster::bootstrap(boot.world.next_seed(), authorities, founder, control_plane);
    let data = Data { cluster, member };
    boot.disk.write(|saved| {
        saved.etcd = Some(data.clone());
        saved.snapshot = None;
    });
    Ok(data)
}

/// One attempt to join; the reason of a failure goes to the log only, as on a real node.
fn try_join(boot: &Boot) -> Option<Data> {
    let (config, address) = (boot.active_config()?, boot.address()?);
    let cluster = join::discovered_cluster(boot, &config)?;
    if !cluster.trusts(&config.etcd_ca().crt) {
        boot.logs.service("etcd", "tls: failed to verify certificate: x509: certificate signed by unknown authority");
        return None;
    }
    let name = boot.name();
    let joined = cluster.change(|membership| {
        let stale: Vec<u64> = membership
            .members()
            .filter(|member| member.name == name || member.address == address)
            .map(|member| member.id)
            .collect();
        for id in stale {
            membership.remove(id)?;
        }
        membership.add_learner(address)
    });
    match joined {
        Ok(member) => {
            let data = Data { cluster, member };
            boot.disk.write(|saved| saved.etcd = Some(data.clone()));
            Some(data)
        }
        Err(refusal) => {
            boot.logs.service("etcd", &format!("failed to build initial etcd cluster: error adding member: {refusal}"));
            None
        }
    }
}

/// Promotes the learner and checks health until the process ends.
async fn supervise(boot: &Arc<Boot>, data: &Data) {
    boot.work("etcd member", 5.0).await;
    let mut changes = data.cluster.changes();
    loop {
        let (state, leader) =
            data.cluster.read(|membership| (membership.member(data.member).cloned(), membership.leader()));
        let Some(state) = state else {
            boot.services.set("etcd", State::Failed, "the member has been permanently removed from the cluster");
            return;
        };
        if state.learner {
            match data.cluster.change(|membership| membership.promote(data.member)) {
                Ok(()) => boot.logs.service("etcd", "promoted member to a voting member"),
                Err(refusal) => boot.logs.service("etcd", &format!("failed to promote member: {refusal}")),
            }
            boot.world.touch();
        }
        match leader {
            Some(_) => boot.services.set_health("etcd", Ok(())),
            None => boot.services.set_health("etcd", Err("context deadline exceeded")),
        }
        tokio::select! {
            () = boot.world.rest(std::time::Duration::from_secs(15)) => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}
