//! One boot of one node: everything its services and its API share until it reboots or loses power.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use talos::pki::CertificateAndKey;
use talos::proto::machine::{MachineStatusEvent, machine_status_event as stage};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::clock::Clock;
use super::config::Config;
use super::cosi::Store;
use super::disk::SystemDisk;
use super::etcd;
use super::events::EventLog;
use super::logs::Logs;
use super::network::Network;
use super::publish;
use super::release::Release;
use super::sequence;
use super::services::Services;
use super::tls;
use super::world::World;
use crate::kubernetes::Kubelet;
use crate::machine::{ImageRef, Machine};

pub(crate) use talos::proto::machine::machine_status_event::MachineStage as Stage;

/// One boot; shared by everything that runs in it.
pub(crate) struct Boot {
    pub(crate) world: World,
    pub(crate) machine: Arc<Machine>,
    pub(crate) release: Release,
    /// What booted: a disk's image or an ISO.
    pub(crate) image: ImageRef,
    pub(crate) disk: SystemDisk,
    pub(crate) boot_id: Uuid,
    pub(crate) started: SystemTime,
    pub(crate) events: EventLog,
    pub(crate) cosi: Store,
    pub(crate) services: Services,
    pub(crate) logs: Logs,
    /// The active configuration.
    pub(crate) config: watch::Sender<Option<Arc<Config>>>,
    pub(crate) etcd: etcd::Service,
    pub(crate) requests: mpsc::UnboundedSender<sequence::Request>,
    /// Ends every task of this boot.
    pub(crate) stop: CancellationToken,
    /// Whether the hypervisor has stopped the machine's processors.
    pub(crate) frozen: watch::Receiver<bool>,
    /// What time the machine has.
    pub(crate) clock: Clock,
    /// Whether a time server has set the clock in this boot.
    pub(crate) synced: watch::Sender<bool>,
    /// The certificate that apid shows.
    pub(crate) shown: Arc<tls::Shown>,
    /// Held while an ApplyConfiguration runs.
    pub(crate) applying: tokio::sync::Mutex<()>,
    /// Held while a status is changed and published: what was published last is what is.
    publishing: Mutex<()>,
    state: Mutex<State>,
}

/// What changes during a boot.
pub(crate) struct State {
    pub(crate) stage: Stage,
    pub(crate) ready: bool,
    pub(crate) unmet: Vec<(String, String)>,
    pub(crate) network: Network,
    /// A REBOOT apply was accepted.
    pub(crate) rebooting_for_config: bool,
    /// Ends a TRY configuration early.
    pub(crate) try_revert: Option<CancellationToken>,
    pub(crate) kubelet: Option<Arc<Kubelet>>,
    /// apid's certificate, for the resources and for the VIP's listener.
    pub(crate) api_certificate: Option<CertificateAndKey>,
    /// When, by its own clock, the node made its certificates.
    pub(crate) certified: Option<jiff::Timestamp>,
    /// Installer or upgrade that runs.
    pub(crate) installing: bool,
}

impl Boot {
    pub(crate) fn new(
        world: &World,
        machine: &Arc<Machine>,
        booted: (Release, ImageRef, SystemDisk),
        (stop, frozen, clock): (CancellationToken, watch::Receiver<bool>, Clock),
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<sequence::Request>) {
        let (release, image, disk) = booted;
        let (events, cosi, logs) = (EventLog::default(), Store::new(release.line), Logs::default());
        let (requests, received) = mpsc::unbounded_channel();
        let network = Network::of(machine, None, &disk.identity());
        let state = State {
            stage: Stage::Unknown,
            ready: false,
            unmet: Vec::new(),
            network,
            rebooting_for_config: false,
            try_revert: None,
            kubelet: None,
            api_certificate: None,
            certified: None,
            installing: false,
        };
        let boot = Arc::new(Self {
            world: world.clone(),
            machine: Arc::clone(machine),
            release,
            image,
            disk,
            boot_id: Uuid::new_v4(),
            started: SystemTime::now(),
            services: Services::new(events.clone(), cosi.clone(), logs.clone()),
            events,
            cosi,
            logs,
            config: watch::Sender::new(None),
            etcd: etcd::Service::default(),
            requests,
            stop,
            frozen,
            clock,
            synced: watch::Sender::new(false),
            shown: Arc::default(),
            applying: tokio::sync::Mutex::new(()),
            publishing: Mutex::default(),
            state: Mutex::new(state),
        });
        publish::hardware(&boot);
        publish::network(&boot);
        (boot, received)
    }

    /// Lets a stretch of this machine's work pass.
    pub(crate) async fn work(&self, what: &str, seconds: f64) {
        self.world.work(self.machine.vmid, what, seconds).await;
    }

    /// Waits while the machine's processors stand still.
    pub(crate) async fn awake(&self) {
        // Without a sender the machine is off, and the boot is about to end.
        let _ = self.frozen.clone().wait_for(|frozen| !frozen).await;
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn network(&self) -> Network {
        self.state().network.clone()
    }

    /// Host name without domain: member name, Node name.
    pub(crate) fn name(&self) -> String {
        self.state().network.short_name().to_owned()
    }

    /// The address other nodes reach it on.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.state().network.primary()
    }

    pub(crate) fn active_config(&self) -> Option<Arc<Config>> {
        self.config.borrow().clone()
    }

    pub(crate) fn is_control_plane(&self) -> bool {
        self.active_config().is_some_and(|config| config.is_control_plane())
    }

    pub(crate) fn stage(&self) -> Stage {
        self.state().stage
    }

    /// Changes the stage; outside of booting and running a node always calls itself ready (talos.md 6.1).
    pub(crate) fn set_stage(&self, stage: Stage) {
        let ready = !matches!(stage, Stage::Booting | Stage::Running);
        self.set_status(stage, ready, Vec::new());
    }

    /// Publishes stage and readiness where they changed.
    pub(crate) fn set_status(&self, stage: Stage, ready: bool, unmet: Vec<(String, String)>) {
        self.change_status(None, stage, ready, unmet);
    }

    /// Publishes readiness, unless the stage has moved on since it was computed.
    pub(crate) fn set_readiness(&self, stage: Stage, ready: bool, unmet: Vec<(String, String)>) {
        self.change_status(Some(stage), stage, ready, unmet);
    }

    fn change_status(&self, only_in: Option<Stage>, stage: Stage, ready: bool, unmet: Vec<(String, String)>) {
        let _in_order = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut state = self.state();
            if only_in.is_some_and(|only_in| only_in != state.stage) {
                return;
            }
            if state.stage == stage && state.ready == ready && state.unmet == unmet {
                return;
            }
            state.stage = stage;
            state.ready = ready;
            state.unmet.clone_from(&unmet);
        }
        publish::machine_status(self, stage, ready, &unmet);
        let unmet_conditions =
            unmet.into_iter().map(|(name, reason)| stage::machine_status::UnmetCondition { name, reason }).collect();
        let status = stage::MachineStatus { ready, unmet_conditions };
        self.events.publish(&MachineStatusEvent { stage: stage.into(), status: Some(status) }, "");
        self.world.touch();
    }

    /// Changes the network and republishes what follows from it.
    pub(crate) fn change_network(&self, change: impl FnOnce(&mut Network)) {
        let _in_order = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut self.state().network);
        publish::network(self);
    }

    /// Discovery's key of the cluster this node belongs to.
    pub(crate) fn discovery_key(&self) -> Option<(String, String)> {
        let config = self.active_config()?;
        Some((config.cluster_id(), config.cluster_secret()))
    }

    /// Base62-like text of the node's identity.
    pub(crate) fn node_id(&self) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(self.disk.identity()).replace(['-', '_'], "x")
    }

    /// Spawns a task that ends with this boot.
    pub(crate) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }
}

/// As YAML and people write a stage.
pub(crate) fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Unknown => "unknown",
        Stage::Booting => "booting",
        Stage::Installing => "installing",
        Stage::Maintenance => "maintenance",
        Stage::Running => "running",
        Stage::Rebooting => "rebooting",
        Stage::ShuttingDown => "shutting down",
        Stage::Resetting => "resetting",
        Stage::Upgrading => "upgrading",
    }
}
