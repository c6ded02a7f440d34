//! Sequences: phases and tasks with their events, and which sequence may interrupt which (talos.md 3.4, 3.5).

use std::sync::Arc;

use talos::proto::common;
use talos::proto::machine::{PhaseEvent, SequenceEvent, TaskEvent, phase_event, sequence_event, task_event};
use tokio::sync::mpsc;

use super::disk::Partition;
use super::node::{Boot, Stage};
use super::{leave, services};

/// What an API call or a controller wants done.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) action: Action,
    /// Marks the events of this call.
    pub(crate) actor: String,
    /// Interrupts whatever runs.
    pub(crate) takeover: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Action {
    Reboot {
        force: bool,
    },
    Shutdown {
        force: bool,
    },
    Reset(Reset),
    /// Image that the next boot runs; already written to the disk when the stage ends.
    Upgrade {
        image: crate::machine::ImageRef,
        maintenance: bool,
    },
}

/// A checked Reset call.
#[derive(Clone, Debug)]
pub(crate) struct Reset {
    pub(crate) graceful: bool,
    pub(crate) reboot: bool,
    /// `None` is the whole system disk.
    pub(crate) partitions: Option<Vec<Partition>>,
    /// Indexes of user disks, and whether the system disk is left alone.
    pub(crate) user_disks: Vec<usize>,
    pub(crate) keep_system_disk: bool,
}

/// How a boot ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Reboot,
    PowerOff,
}

impl Action {
    fn name(&self) -> &'static str {
        match self {
            Self::Reboot { .. } => "reboot",
            Self::Shutdown { .. } => "shutdown",
            Self::Reset(_) => "reset",
            Self::Upgrade { maintenance: true, .. } => "maintenanceUpgrade",
            Self::Upgrade { .. } => "upgrade",
        }
    }

    fn stage(&self) -> Stage {
        match self {
            Self::Reboot { .. } => Stage::Rebooting,
            Self::Shutdown { .. } => Stage::ShuttingDown,
            Self::Reset(_) => Stage::Resetting,
            Self::Upgrade { .. } => Stage::Upgrading,
        }
    }

    fn end(&self) -> End {
        match self {
            Self::Shutdown { .. } => End::PowerOff,
            Self::Reset(reset) if !reset.reboot => End::PowerOff,
            _ => End::Reboot,
        }
    }

    /// Phases with the task of each.
    fn phases(&self) -> Vec<(&'static str, &'static str)> {
        const STOP_ALL: [(&str, &str); 6] = [
            ("stopServices", "stopServicesForUpgrade"),
            ("umount", "unmountPodMounts"),
            ("unmountBind", "unmountSystemDiskBindMounts"),
            ("unmountSystem", "unmountEphemeralPartition"),
            ("volumeFinalize", "teardownLifecycle"),
            ("stopEverything", "stopAllServices"),
        ];
        let mut phases = Vec::new();
        match self {
            Self::Reboot { force: true } => return vec![("reboot", "reboot")],
            Self::Reboot { force: false } => {
                phases.extend([("cleanup", "stopAllPods"), ("dbus", "stopDBus")]);
                phases.extend(STOP_ALL);
                phases.push(("reboot", "reboot"));
            }
            Self::Shutdown { force } => {
                phases.push(("storeShutdown", "storeShutdownEmergency"));
                phases.extend((!force).then_some(("drain", "cordonAndDrainNode")));
                phases.extend([("cleanup", "stopAllPods"), ("dbus", "stopDBus")]);
                phases.extend(STOP_ALL);
                phases.push(("shutdown", "shutdown"));
            }
            Self::Reset(reset) => {
                phases.extend(reset.graceful.then_some(("drain", "cordonAndDrainNode")));
                let cleanup = if reset.graceful { "removeAllPods" } else { "stopAllPods" };
                phases.extend([("cleanup", cleanup), ("dbus", "stopDBus")]);
                phases.extend(reset.graceful.then_some(("leave", "leaveEtcd")));
                phases.push(("preReset", "sendResetSignal"));
                phases.extend(STOP_ALL);
                phases.push(("forceCleanup", "forceCleanup"));
                if !reset.keep_system_disk {
                    let whole = reset.partitions.is_none();
                    phases.push(if whole {
                        ("reset", "resetSystemDisk")
                    } else {
                        ("resetSpec", "resetSystemDiskSpec")
                    });
                }
                phases.extend((!reset.user_disks.is_empty()).then_some(("resetUserDisks", "resetUserDisks")));
                phases.push(if reset.reboot { ("reboot", "reboot") } else { ("shutdown", "shutdown") });
            }
            Self::Upgrade { maintenance, .. } => {
                if !maintenance {
                    phases.extend([
                        ("drain", "cordonAndDrainNode"),
                        ("cleanup", "removeAllPods"),
                        ("dbus", "stopDBus"),
                    ]);
                    phases.extend(&STOP_ALL[..5]);
                }
                phases.extend([("upgrade", "upgrade"), ("meta", "reloadMeta")]);
                phases.extend([("stopEverything", "stopAllServices"), ("reboot", "reboot")]);
            }
        }
        phases
    }
}

/// Runs requested sequences, one at a time, until one ends the boot.
pub(crate) async fn run(boot: &Arc<Boot>, first: Request, requests: &mut mpsc::UnboundedReceiver<Request>) -> End {
    let mut current = first;
    loop {
        let next = tokio::select! {
            end = perform(boot, &current) => return end,
            next = interrupting(boot, &current, requests) => next,
        };
        boot.logs.kernel(&format!("{} sequence was interrupted", current.action.name()));
        current = next;
    }
}

/// Waits for a request that may take over; the others are told that the node is locked.
async fn interrupting(boot: &Arc<Boot>, current: &Request, requests: &mut mpsc::UnboundedReceiver<Request>) -> Request {
    while let Some(request) = requests.recv().await {
        let allowed = matches!(
            (&current.action, &request.action),
            (Action::Reboot { .. } | Action::Reset(_), Action::Reboot { .. })
        );
        if request.takeover || allowed {
            return request;
        }
        let boot_of_event = Arc::clone(boot);
        boot.spawn(async move {
            boot_of_event.work("wait for the sequence before", 60.0).await;
            let error =
                common::Error { code: common::Code::Locked.into(), message: "locked".into(), details: Vec::new() };
            let name = request.action.name();
            publish_sequence(&boot_of_event, name, sequence_event::Action::Noop, Some(error), &request.actor);
        });
    }
    std::future::pending().await
}

/// Runs one sequence to its end.
async fn perform(boot: &Arc<Boot>, request: &Request) -> End {
    let name = request.action.name();
    publish_sequence(boot, name, sequence_event::Action::Start, None, &request.actor);
    boot.set_stage(request.action.stage());
    boot.logs.kernel(&format!("{name} sequence: {} phase(s)", request.action.phases().len()));
    for (phase, task) in request.action.phases() {
        // The machine is gone before the last phase could report its end.
        let last = matches!(phase, "reboot" | "shutdown");
        begin_phase(boot, phase, task, &request.actor);
        if let Err(text) = execute(boot, task, request).await {
            boot.logs.kernel(&format!("task {task} failed: {text}"));
            let error = common::Error { code: common::Code::Fatal.into(), message: text, details: Vec::new() };
            publish_sequence(boot, name, sequence_event::Action::Stop, Some(error), &request.actor);
            boot.work("reboot after an error", 10.0).await;
            return End::Reboot;
        }
        if !last {
            end_phase(boot, phase, task, &request.actor);
        }
    }
    // Who follows the events has seen the last of them, however fast the lab runs.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    request.action.end()
}

async fn execute(boot: &Arc<Boot>, task: &str, request: &Request) -> Result<(), String> {
    match (task, &request.action) {
        ("cordonAndDrainNode", _) => leave::drain(boot).await,
        ("leaveEtcd", _) => leave::leave_etcd(boot).await?,
        ("stopServicesForUpgrade", _) => leave::stop_kubernetes(boot).await,
        ("stopAllServices", _) => {
            boot.work(task, 2.0).await;
            for id in boot.services.ids().iter().filter(|id| !matches!(id.as_str(), "machined" | "apid" | "udevd")) {
                stop_service(boot, id);
            }
        }
        ("sendResetSignal", _) => {
            if let Some(key) = boot.discovery_key() {
                boot.world.withdraw(&key, &boot.node_id());
            }
        }
        ("resetSystemDisk", _) => boot.disk.wipe(),
        ("resetSystemDiskSpec", Action::Reset(Reset { partitions: Some(partitions), .. })) => {
            boot.disk.wipe_partitions(partitions);
        }
        ("resetUserDisks", Action::Reset(reset)) => {
            reset.user_disks.iter().for_each(|index| boot.machine.disks[*index].content.wipe());
        }
        ("upgrade", Action::Upgrade { image, .. }) => {
            boot.work(task, 20.0).await;
            boot.disk.upgrade(image.clone());
        }
        _ => boot.work(task, 0.5).await,
    }
    Ok(())
}

pub(crate) fn stop_service(boot: &Boot, id: &str) {
    if boot.services.state(id) == Some(services::State::Running) {
        boot.services.set(id, services::State::Stopping, "Sending SIGTERM to Process");
        boot.services.set(id, services::State::Finished, "Service finished successfully");
    }
}

pub(crate) fn publish_sequence(
    boot: &Boot,
    sequence: &str,
    action: sequence_event::Action,
    error: Option<common::Error>,
    actor: &str,
) {
    let event = SequenceEvent { sequence: sequence.to_owned(), action: action.into(), error };
    boot.events.publish(&event, actor);
}

pub(crate) fn begin_phase(boot: &Boot, phase: &str, task: &str, actor: &str) {
    boot.events.publish(&PhaseEvent { phase: phase.to_owned(), action: phase_event::Action::Start.into() }, actor);
    boot.events.publish(&TaskEvent { task: task.to_owned(), action: task_event::Action::Start.into() }, actor);
    boot.logs.kernel(&format!("phase {phase}: task {task} starting"));
}

pub(crate) fn end_phase(boot: &Boot, phase: &str, task: &str, actor: &str) {
    boot.events.publish(&TaskEvent { task: task.to_owned(), action: task_event::Action::Stop.into() }, actor);
    boot.events.publish(&PhaseEvent { phase: phase.to_owned(), action: phase_event::Action::Stop.into() }, actor);
    boot.logs.kernel(&format!("phase {phase}: done"));
}
