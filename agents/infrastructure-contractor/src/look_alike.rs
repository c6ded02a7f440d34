//! Look-alikes: VMs that carry part of a machine's proof and not all of it. One may be our own VM, changed by somebody
//! while it was being made, so nothing is made beside it, and it is never touched.

use contractor::action::StepError;
use proxmox::{Error, VmId, cluster::Resource, error::Kind};

use crate::{
    Deps,
    inventory::{Machine, TakenVmid, vmid_key},
    ownership::{self, Difference},
};

/// A VM that may be ours and is not proven.
#[derive(Debug)]
pub(crate) struct LookAlike {
    /// Its id.
    pub(crate) vmid: u32,
    /// Its host.
    pub(crate) host: String,
    /// What it has of ours.
    pub(crate) carries: Vec<&'static str>,
    /// What is not as the inventory says.
    pub(crate) differences: Vec<Difference>,
}

/// A look-alike under another id than the machine's: a restored backup, a clone, a VM of the same name.
///
/// The list of guests tells names and tags. A guest that has no name there, because it is too young or its host is
/// gone, is looked at itself unless the inventory knows whose it is.
pub(crate) async fn elsewhere(deps: &Deps, machine: &Machine) -> Result<Option<LookAlike>, Error> {
    let tag = ownership::own_tag(machine);
    for row in deps.proxmox.guests().await?.iter() {
        let (Some(vmid), Some(host)) = (row.vmid, row.node.clone()) else { continue };
        let named = row.name.as_deref() == Some(machine.hostname.as_str()) || row.has_tag(&tag);
        if vmid == machine.vmid || row.kind != "qemu" || !(named || is_unknown(deps, row)) {
            continue;
        }
        let config = match deps.proxmox.vm_config(&host, VmId(vmid)).await {
            Ok(config) => config,
            Err(error) if error.is_missing_vm() || (!named && error.kind == Kind::NodeOffline) => continue,
            Err(error) => return Err(error),
        };
        let carries = ownership::traces(machine, &config);
        if !carries.is_empty() {
            let differences = ownership::differences(machine, VmId(vmid), &config);
            return Ok(Some(LookAlike { vmid, host, carries, differences }));
        }
    }
    Ok(None)
}

fn is_unknown(deps: &Deps, row: &Resource) -> bool {
    let ours = |vmid| matches!(deps.store.reader().get::<TakenVmid>(&vmid_key(vmid)), Ok(Some(_)));
    row.name.is_none() && !row.vmid.is_some_and(ours)
}

/// Quarantines what the look-alike may be using, and says what differs.
pub(crate) async fn refuse(deps: &Deps, machine: &Machine, found: &LookAlike) -> StepError {
    let LookAlike { vmid, host, carries, differences } = found;
    let message = format!(
        "VM {vmid} on {host} carries {} of {}, but {}; it was not touched, and no second VM was made beside it",
        carries.join(", "),
        machine.hostname,
        ownership::in_words(differences),
    );
    if *vmid == machine.vmid {
        deps.quarantine(machine, &message).await;
    } else if *carries != ["name"] {
        deps.quarantine_address(machine, &message).await;
    }
    StepError::fail(message).with_hint(format!(
        "look at VM {vmid} on {host}: restore what differs if it is the node, rename or remove it if it is not, then \
         lift the quarantine and resume the run"
    ))
}
