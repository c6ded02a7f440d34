//! Tasks of ours that make, or made, a machine's VM although the reply that named them was lost.

use contractor::action::StepError;
use proxmox::{Upid, VmId, tasks::TaskRow};
use store::Reader;

use crate::{
    Deps, failure,
    inventory::{Machine, Vm, vm_key},
};

/// How far the clocks of contractor and hypervisors may be apart, in seconds.
const CLOCKS: i64 = 120;

/// What the task list says of a VM that cannot be seen.
pub(crate) enum OwnTask {
    /// A task of ours that may be making it still runs.
    Running(Upid),
    /// A task of ours made it since the machine was reserved: it is ours, wherever our rights on it went.
    Made,
    /// Nothing of ours.
    None,
}

/// Looks for a task of ours behind `machine`.
///
/// A clone's task is named after the template: any clone of it that still runs may be the one, and of one that has
/// ended nothing is known.
pub(crate) async fn search(
    deps: &Deps,
    reader: &Reader,
    machine: &Machine,
    template: Option<(&str, u32)>,
) -> Result<OwnTask, StepError> {
    let (node, kind, subject) = match template {
        Some((host, template)) => (host, "qmclone", template),
        None => (machine.host.as_str(), "qmcreate", machine.vmid),
    };
    let rows = deps.proxmox.recent_tasks(node, kind, VmId(subject)).await;
    let rows = rows.map_err(|error| failure::of(&error))?;
    if let Some(row) = rows.iter().find(|row| row.endtime.is_none()) {
        return Ok(OwnTask::Running(row.upid.clone()));
    }
    if template.is_some() {
        return Ok(OwnTask::None);
    }
    let vm = reader.get::<Vm>(&vm_key(machine.node_uid)).map_err(failure::read)?;
    let since = vm.map_or(i64::MAX, |vm| vm.value.created.as_second() - CLOCKS);
    let made = |row: &&TaskRow| row.succeeded() && i64::try_from(row.upid.starttime).is_ok_and(|at| at >= since);
    Ok(rows.iter().find(made).map_or(OwnTask::None, |_| OwnTask::Made))
}
