//! The way from power-on to running: initialize, configuration or maintenance, install, boot (talos.md 6.1).

use std::sync::Arc;

use talos::proto::machine::sequence_event::Action as SequenceAction;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::network::Network;
use super::node::{Boot, Stage};
use super::release::Line;
use super::sequence::{self, End, begin_phase, end_phase, publish_sequence};
use super::services::State;
use super::world::Affiliate;
use super::{apid, clock, etcd, install, join, publish};

/// Runs a boot until something ends it.
pub(crate) async fn run(boot: &Arc<Boot>, requests: &mut mpsc::UnboundedReceiver<sequence::Request>) -> End {
    let request = tokio::select! {
        end = flow(boot) => return end,
        request = requests.recv() => request,
    };
    match request {
        Some(request) => sequence::run(boot, request, requests).await,
        None => std::future::pending().await,
    }
}

async fn flow(boot: &Arc<Boot>) -> End {
    initialize(boot).await;
    let config = match stored_config(boot) {
        Some(config) => config,
        None => maintenance(boot).await,
    };
    activate(boot, &config);
    publish_sequence(boot, "initialize", SequenceAction::Stop, None, "");
    if !boot.disk.is_installed() {
        match install::run(boot, &config).await {
            Ok(()) => {}
            Err(text) => {
                boot.logs.kernel(&format!("install failed: {text}"));
                let error = super::fatal(text);
                publish_sequence(boot, "install", SequenceAction::Stop, Some(error), "");
                boot.set_stage(Stage::Rebooting);
                boot.work("reboot after an error", 35.0).await;
            }
        }
        return End::Reboot;
    }
    boot.disk.write(|saved| saved.config = Some(config.text.clone()));
    publish::config(boot, &config);
    boot_sequence(boot, &config).await;
    // A booted node stays up until a sequence is asked for.
    std::future::pending().await
}

async fn initialize(boot: &Arc<Boot>) {
    publish_sequence(boot, "initialize", SequenceAction::Start, None, "");
    boot.set_stage(Stage::Booting);
    boot.set_status(Stage::Booting, false, vec![("time".into(), "time is not synced".into())]);
    boot.logs.kernel(&format!("Linux version {} (talos@buildkitsandbox)", boot.release.kernel()));
    boot.logs.kernel(&format!("initialize sequence: 7 phase(s) on Talos {}", boot.release));
    for (phase, task) in [("systemRequirements", "enforceKSPPRequirements"), ("earlyServices", "startMachined")] {
        begin_phase(boot, phase, task, "");
        boot.work(phase, 1.0).await;
        end_phase(boot, phase, task, "");
    }
    for id in ["machined", "udevd", "containerd", "auditd", "syslogd"] {
        boot.services.set(id, State::Preparing, "Running pre state");
        boot.services.set(id, State::Running, &format!("Service started as goroutine or process {id}"));
        boot.services.set_health(id, Ok(()));
    }
    boot.services.set("dashboard", State::Running, "Process Process([\"/sbin/dashboard\"]) started with PID 2544");
    begin_phase(boot, "config", "loadConfig", "");
    let clock = Arc::clone(boot);
    boot.spawn(async move { clock::follow(&clock).await });
}

/// STATE first, then what the platform brings.
fn stored_config(boot: &Boot) -> Option<Arc<Config>> {
    let stored = boot.disk.read(|saved| saved.config.clone());
    let platform = || boot.machine.network.as_ref()?.user_data.clone();
    let config = Config::parse(&stored.or_else(platform)?).ok()?;
    config.is_complete().then(|| Arc::new(config))
}

/// Serves maintenance mode until a complete configuration was applied.
async fn maintenance(boot: &Arc<Boot>) -> Arc<Config> {
    begin_phase(boot, "config", "runningMaintenance", "");
    // Before the first call can come in: what it may do depends on the stage.
    boot.set_stage(Stage::Maintenance);
    let stop = boot.stop.child_token();
    match apid::maintenance(boot, &stop).await {
        Ok(fingerprint) => {
            let addresses = boot.network().addresses();
            boot.logs.kernel("this machine is reachable at:");
            addresses.iter().for_each(|address| boot.logs.kernel(&format!("\t{address}")));
            boot.logs.kernel(&format!("server certificate issued, fingerprint {fingerprint}"));
            boot.services.set("apid", State::Running, "Started task apid (PID 2601) for container apid");
            boot.services.set_health("apid", Ok(()));
        }
        Err(error) => boot.logs.kernel(&format!("the maintenance certificate cannot be made: {error}")),
    }
    let mut configs = boot.config.subscribe();
    let config = loop {
        let current = configs.borrow_and_update().clone();
        if let Some(config) = current.filter(|config| config.is_complete()) {
            break config;
        }
        if configs.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    // The call that brought it comes to its end, and its reply to the caller.
    drop(boot.applying.lock().await);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    leave_maintenance(boot, &stop);
    config
}

fn leave_maintenance(boot: &Arc<Boot>, stop: &CancellationToken) {
    stop.cancel();
    boot.services.set("apid", State::Stopping, "Stopping to load the new configuration");
    end_phase(boot, "config", "runningMaintenance", "");
    boot.set_status(Stage::Booting, false, Vec::new());
}

/// Makes a configuration the active one: names, addresses and resources follow.
pub(crate) fn activate(boot: &Arc<Boot>, config: &Arc<Config>) {
    let mut network = Network::of(&boot.machine, Some(config), &boot.disk.identity());
    boot.change_network(|current| {
        network.virtual_addresses = std::mem::take(&mut current.virtual_addresses);
        network.given = std::mem::take(&mut current.given);
        *current = network;
    });
    // Who waits for a configuration finds the resources made from it.
    publish::config(boot, config);
    boot.config.send_replace(Some(Arc::clone(config)));
    announce(boot, config);
}

/// Tells discovery about this node.
fn announce(boot: &Boot, config: &Config) {
    let (Some(machine_type), true) = (config.machine_type(), config.discovery()) else { return };
    let network = boot.network();
    let hostname = network.short_name().to_owned();
    let affiliate = Affiliate::new(boot.node_id(), hostname, network.addresses(), machine_type)
        .with_operating_system(format!("Talos ({})", boot.release));
    boot.world.announce((config.cluster_id(), config.cluster_secret()), affiliate);
}

async fn boot_sequence(boot: &Arc<Boot>, config: &Arc<Config>) {
    end_phase(boot, "config", "loadConfig", "");
    publish_sequence(boot, "boot", SequenceAction::Start, None, "");
    if boot.release.line >= Line::V1_14 {
        publish::unattended_install(boot, 2);
    }
    for (phase, task) in
        [("memorySizeCheck", "memorySizeCheck"), ("diskSizeCheck", "diskSizeCheck"), ("env", "setUserEnvVars")]
    {
        begin_phase(boot, phase, task, "");
        end_phase(boot, phase, task, "");
    }
    for (phase, task) in
        [("dbus", "startDBus"), ("ephemeral", "mountEphemeralPartition"), ("userSetup", "writeUserFiles")]
    {
        begin_phase(boot, phase, task, "");
        boot.work(phase, 1.0).await;
        end_phase(boot, phase, task, "");
    }
    publish::volumes(boot);
    begin_phase(boot, "startEverything", "startAllServices", "");
    start_services(boot, config);
    let members = Arc::clone(boot);
    boot.spawn(async move { publish::follow_discovery(&members).await });
    let status = Arc::clone(boot);
    boot.spawn(async move { report_readiness(&status).await });
    let mut changes = boot.services.changes();
    while !required_services(config).iter().all(|id| boot.services.is_up(id)) {
        if changes.changed().await.is_err() {
            return;
        }
    }
    end_phase(boot, "startEverything", "startAllServices", "");
    publish_sequence(boot, "boot", SequenceAction::Stop, None, "");
    boot.logs.kernel("boot sequence: done");
    let (ready, unmet) = readiness(boot);
    boot.set_status(Stage::Running, ready, unmet);
}

fn required_services(config: &Config) -> &'static [&'static str] {
    if config.is_control_plane() { &["apid", "cri", "kubelet", "trustd", "etcd"] } else { &["apid", "cri", "kubelet"] }
}

fn start_services(boot: &Arc<Boot>, config: &Config) {
    let cri = Arc::clone(boot);
    boot.spawn(async move {
        cri.services.set("cri", State::Preparing, "Running pre state");
        cri.work("service cri", 2.0).await;
        cri.services.set("cri", State::Running, "Process Process([\"/bin/containerd\"]) started with PID 2588");
        cri.services.set_health("cri", Ok(()));
    });
    boot.spawn(apid::configured(Arc::clone(boot)));
    boot.spawn(join::kubelet(Arc::clone(boot)));
    if config.is_control_plane() {
        boot.spawn(apid::trustd(Arc::clone(boot)));
        boot.spawn(etcd::run(Arc::clone(boot)));
        boot.spawn(join::control_plane(Arc::clone(boot)));
    }
}

/// Recomputes readiness whenever something it depends on changes.
async fn report_readiness(boot: &Arc<Boot>) {
    let mut changes = boot.services.changes();
    loop {
        let stage = boot.stage();
        if matches!(stage, Stage::Booting | Stage::Running) {
            let (ready, unmet) = readiness(boot);
            boot.set_readiness(stage, ready, unmet);
        }
        tokio::select! {
            () = boot.world.rest(std::time::Duration::from_secs(1)) => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// The conditions that `MachineStatus` names.
fn readiness(boot: &Boot) -> (bool, Vec<(String, String)>) {
    let Some(config) = boot.active_config() else { return (true, Vec::new()) };
    let mut unmet = Vec::new();
    if !*boot.synced.borrow() {
        unmet.push(("time".to_owned(), "time is not synced".to_owned()));
    }
    let required: &[&str] = if config.is_control_plane() {
        &["apid", "etcd", "kubelet", "machined", "trustd"]
    } else {
        &["apid", "kubelet", "machined"]
    };
    let problems: Vec<String> = required.iter().filter_map(|id| boot.services.problem(id)).collect();
    if !problems.is_empty() {
        unmet.push(("services".to_owned(), problems.join(", ")));
    }
    let kubelet = boot.state().kubelet.clone();
    if config.is_control_plane() {
        let ready = kubelet.as_ref().map_or(0, |kubelet| publish::ready_static_pods(kubelet));
        if ready < publish::STATIC_PODS.len() {
            unmet.push(("staticPods".to_owned(), "static pods are not ready".to_owned()));
        }
    }
    let name = boot.name();
    match kubelet {
        Some(kubelet) if kubelet.is_node_ready() => {}
        Some(kubelet) if kubelet.is_registered() => {
            unmet.push(("nodeReady".to_owned(), format!("node \"{name}\" is not ready")));
        }
        _ => unmet.push(("nodeReady".to_owned(), format!("node \"{name}\" status is not available yet"))),
    }
    (unmet.is_empty(), unmet)
}
