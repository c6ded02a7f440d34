//! The agents on the nodes: one task per node that registers, heartbeats and runs pods.

mod certificates;
mod cilium;
pub(crate) mod containers;
mod node;
mod pods;
mod static_pods;
mod volumes;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cluster::Cluster;
use super::controllers::least_grace;
use super::settings::{KubeletOptions, StaticPod};
use super::{ControlPlane, FindControlPlane};

/// How often a kubelet renews its lease and looks around, as the real one does.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long changes gather before a kubelet looks at them.
const GATHER: Duration = Duration::from_millis(5);
/// How often a kubelet that reaches no control plane tries again.
const RECONNECT: Duration = Duration::from_secs(2);

/// One node's kubelet: registers the node, heartbeats, runs the pods bound to it. Dropping it is a power loss.
pub struct Kubelet {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    options: Mutex<KubeletOptions>,
    changed: Notify,
    registered: AtomicBool,
    node_ready: AtomicBool,
    mirror_pods: Mutex<Vec<Arc<Value>>>,
}

impl Shared {
    fn options(&self) -> MutexGuard<'_, KubeletOptions> {
        self.options.lock().expect("no panic while the lock is held")
    }
}

impl Kubelet {
    /// Starts a kubelet; it keeps asking `find` for the control plane it can reach, before and after losing it.
    pub fn start(options: KubeletOptions, find: FindControlPlane, speed: f64) -> Self {
        let shared = Arc::new(Shared {
            options: Mutex::new(options),
            changed: Notify::new(),
            registered: AtomicBool::new(false),
            node_ready: AtomicBool::new(false),
            mirror_pods: Mutex::new(Vec::new()),
        });
        let stop = CancellationToken::new();
        let speed = if speed.is_finite() && speed > 0.0 { speed } else { 1.0 };
        let agent = Agent { shared: Arc::clone(&shared), speed, memory: Memory::default() };
        let ended = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = agent.run(find) => {}
            }
        });
        Self { shared, _stop: stop.drop_guard() }
    }

    /// The kubelet as a Talos service: true once the node is registered and the control plane is reachable.
    pub fn is_registered(&self) -> bool {
        self.shared.registered.load(Ordering::SeqCst)
    }

    /// Whether the node's Ready condition is true, as far as the kubelet knows.
    pub fn is_node_ready(&self) -> bool {
        self.shared.node_ready.load(Ordering::SeqCst)
    }

    /// Replaces the static pods (an image or config version changed); mirror pods follow.
    pub fn set_static_pods(&self, pods: Vec<StaticPod>) {
        self.update(|options| options.static_pods = pods);
    }

    /// The mirror pods as last seen, for Talos's `StaticPodStatus`.
    pub fn static_pod_statuses(&self) -> Vec<Arc<Value>> {
        self.shared.mirror_pods.lock().expect("no panic while the lock is held").clone()
    }

    /// Changes what the node reports: labels, taints, versions, static pods. Takes effect at once when reachable.
    pub fn update(&self, change: impl FnOnce(&mut KubeletOptions)) {
        change(&mut self.shared.options());
        self.shared.changed.notify_one();
    }
}

/// What the agent remembers about the pods it runs; lost with the node's power.
#[derive(Default)]
pub(super) struct Memory {
    /// By pod uid.
    pods: HashMap<String, PodMemory>,
    /// A CNI has written its configuration since the node started.
    network: bool,
    serving: certificates::Serving,
    last_heartbeat: Option<Instant>,
    bootstrapped: bool,
}

/// One pod as its kubelet knows it.
pub(super) struct PodMemory {
    /// When the present step began.
    since: Instant,
    step: pods::Step,
}

struct Agent {
    shared: Arc<Shared>,
    speed: f64,
    memory: Memory,
}

impl Agent {
    async fn run(mut self, find: FindControlPlane) {
        // Since when the last look for an API server was slept over.
        let mut paused: Option<Instant> = None;
        loop {
            let Some(control_plane) = find().filter(ControlPlane::is_available) else {
                self.shared.registered.store(false, Ordering::SeqCst);
                paused = Some(Instant::now());
                let pause = RECONNECT.div_f64(self.speed).max(Duration::from_millis(20));
                let _ = tokio::time::timeout(pause, self.shared.changed.notified()).await;
                continue;
            };
            if let Some(since) = paused.take() {
                self.shared.options().delays.note("kubelet's look for an API server", since.elapsed());
            }
            let cluster = Arc::clone(&control_plane.cluster);
            drop(control_plane);
            let mut activity = cluster.store.activity();
            activity.borrow_and_update();
            let wake_in = self.sync(&cluster);
            tokio::select! {
                _ = activity.changed() => tokio::time::sleep(GATHER).await,
                () = self.shared.changed.notified() => {}
                () = tokio::time::sleep(wake_in) => {}
            }
        }
    }

    /// Brings node and pods one step further; returns when to look again if nothing happens before.
    fn sync(&mut self, cluster: &Arc<Cluster>) -> Duration {
        let options = self.shared.options().clone();
        let heartbeat = HEARTBEAT.div_f64(self.speed).max(least_grace() / 4);
        let Some(node) = node::register(cluster, &options, &mut self.memory) else { return heartbeat };
        if self.memory.last_heartbeat.is_none_or(|last| last.elapsed() >= heartbeat / 2) {
            node::renew_lease(cluster, &node);
            self.memory.last_heartbeat = Some(Instant::now());
        }
        certificates::serving(cluster, &options, &node, &mut self.memory.serving);
        let mirrors = static_pods::sync(cluster, &options, &node);
        *self.shared.mirror_pods.lock().expect("no panic while the lock is held") = mirrors;
        let next = pods::sync(cluster, &options, &node, &mut self.memory);
        let ready = node::report(cluster, &options, &self.memory);
        self.shared.node_ready.store(ready, Ordering::SeqCst);
        self.shared.registered.store(true, Ordering::SeqCst);
        next.map_or(heartbeat, |next| next.min(heartbeat)).max(Duration::from_millis(2))
    }
}
