//! Fencing: nothing is done to a VM before its ownership is proven (design invariant 5).

use contractor::action::StepError;
use proxmox::{
    Error, VmId,
    config::VmConfig,
    error::{Kind, Missing},
    qemu::VmStatus,
};

use crate::{
    Deps, failure,
    half_clone::{self, Nonce},
    inventory::Machine,
    look_alike::LookAlike,
    ownership::{self, Difference},
};

/// What stands at a machine's VMID.
#[derive(Debug)]
pub(crate) enum Found {
    /// Our VM, proven.
    Ours(Ours),
    /// A VM that is being made and has no marks yet: ours or not, wait and look again.
    Unfinished {
        /// Its host.
        host: String,
        /// What holds it: `create`, `clone`.
        lock: String,
    },
    /// The clone that the step asked for: it never ran, and has not been given its hardware yet.
    HalfCloned(Ours),
    /// A VM that carries part of the proof and not all of it: perhaps ours, and somebody changed it. Never touched, and
    /// nothing is made beside it.
    LookAlike(LookAlike),
    /// Something else: never touched.
    Foreign {
        /// Its host.
        host: String,
        /// What is not as the inventory says.
        differences: Vec<Difference>,
    },
    /// Something that we may not see: a VM joins its pool, where our rights are, only when it is made (proxmox.md 3.1).
    Hidden,
    /// Nothing.
    Absent,
}

/// What Proxmox calls a clone until its first disk is copied: it has no other mark by then.
const CLONING: &str = "qmclone temporary file";

/// A proven VM.
#[derive(Debug)]
pub(crate) struct Ours {
    /// Where it is now; a migration may have moved it.
    pub(crate) host: String,
    /// Its configuration.
    pub(crate) config: VmConfig,
}

/// Looks at the machine's VMID: at its host, then anywhere in the cluster. Never finds a half clone.
pub(crate) async fn look(deps: &Deps, machine: &Machine) -> Result<Found, Error> {
    look_by(deps, machine, None).await
}

/// The same for the step that makes the machine, with the nonce of the clone that it asked for, if it did.
pub(crate) async fn look_for_clone(deps: &Deps, machine: &Machine, nonce: Option<Nonce>) -> Result<Found, StepError> {
    let look = async || look_by(deps, machine, nonce).await.map_err(|error| failure::of(&error));
    let found = look().await?;
    let Found::HalfCloned(half) = found else { return Ok(found) };
    if status(deps, machine, &half.host).await?.is_running() {
        return Ok(Found::LookAlike(half_clone::that_runs(machine, &half)));
    }
    // A proof is good for the next call only, and that was the look at the status.
    look().await
}

async fn look_by(deps: &Deps, machine: &Machine, nonce: Option<Nonce>) -> Result<Found, Error> {
    let vmid = VmId(machine.vmid);
    let unreachable = match deps.proxmox.vm_config(&machine.host, vmid).await {
        Ok(config) => return Ok(judge(machine, nonce, machine.host.clone(), config)),
        // Proxmox checks rights before it looks: with rights on a pool only, what is not there is forbidden.
        Err(error) if matches!(error.kind, Kind::NotFound(Missing::Vm | Missing::Node) | Kind::Permission { .. }) => {
            None
        }
        // The HA manager may have taken the VM to another host since.
        Err(error) if error.kind == Kind::NodeOffline => Some(error),
        Err(error) => return Err(error),
    };
    let Some(row) = deps.proxmox.locate_vm(vmid).await? else {
        return Ok(if deps.proxmox.is_free(vmid).await? { Found::Absent } else { Found::Hidden });
    };
    let host = row.node.unwrap_or_default();
    if let Some(error) = unreachable.filter(|_| host == machine.host) {
        return Err(error);
    }
    if row.kind != "qemu" {
        let difference = Difference { what: "kind of guest", expected: "qemu".into(), found: row.kind };
        return Ok(Found::Foreign { host, differences: vec![difference] });
    }
    match deps.proxmox.vm_config(&host, vmid).await {
        Ok(config) => Ok(judge(machine, nonce, host, config)),
        // It was taken away between the two looks, or moved: then it is looked for again.
        Err(error) if error.is_missing_vm() => match deps.proxmox.is_free(vmid).await? {
            true => Ok(Found::Absent),
            false => Err(Error { kind: Kind::Modified, ..error }),
        },
        Err(error) => Err(error),
    }
}

fn judge(machine: &Machine, nonce: Option<Nonce>, host: String, config: VmConfig) -> Found {
    let differences = ownership::differences(machine, VmId(machine.vmid), &config);
    if differences.is_empty() {
        return Found::Ours(Ours { host, config });
    }
    let asked_for = nonce.is_some_and(|nonce| half_clone::is_asked_for(machine, &config, nonce));
    let unmarked = || config.get("description").is_none_or(|text| text.trim() == CLONING);
    match config.lock() {
        Some(lock @ ("create" | "clone" | "import")) if asked_for || unmarked() => {
            Found::Unfinished { host, lock: lock.to_owned() }
        }
        _ if asked_for => Found::HalfCloned(Ours { host, config }),
        _ => match ownership::traces(machine, &config) {
            carries if carries.is_empty() => Found::Foreign { host, differences },
            carries => Found::LookAlike(LookAlike { vmid: machine.vmid, host, carries, differences }),
        },
    }
}

/// The machine's VM if it is there and proven; `None` if there is nothing. Otherwise the step fails, names what
/// differs, and id and address are quarantined.
///
/// Proxmox has no call that proves and acts at once, so the proof is good for the next call only.
pub(crate) async fn prove(deps: &Deps, machine: &Machine) -> Result<Option<Ours>, StepError> {
    match look(deps, machine).await.map_err(|error| failure::of(&error))? {
        Found::Ours(ours) => Ok(Some(ours)),
        Found::Absent => Ok(None),
        Found::Unfinished { host, lock } => Err(unfinished(machine, &host, &lock)),
        Found::HalfCloned(ours) => {
            let differences = ownership::differences(machine, VmId(machine.vmid), &ours.config);
            Err(refuse(deps, machine, &ours.host, &differences).await)
        }
        Found::LookAlike(LookAlike { host, differences, .. }) | Found::Foreign { host, differences } => {
            Err(refuse(deps, machine, &host, &differences).await)
        }
        Found::Hidden => Err(hidden(deps, machine).await),
    }
}

/// Quarantines: the id is taken by what we may not see, so nothing about it can be proven.
pub(crate) async fn hidden(deps: &Deps, machine: &Machine) -> StepError {
    let message =
        format!("VM {} ({}) is there and we may not see it; it was not touched", machine.vmid, machine.hostname);
    deps.quarantine(machine, &message).await;
    let pool = deps.sections.proxmox.pool.as_deref().unwrap_or("…");
    StepError::fail(message)
        .with_hint(format!("if it is the node, put it back: pveum pool modify {pool} --vms {}", machine.vmid))
}

/// Like [`prove`], where the VM must be there.
pub(crate) async fn prove_present(deps: &Deps, machine: &Machine) -> Result<Ours, StepError> {
    let gone = || StepError::fail(format!("{} is not there any more", machine.title()));
    prove(deps, machine).await?.ok_or_else(gone)
}

/// How a proven VM is.
pub(crate) async fn status(deps: &Deps, machine: &Machine, host: &str) -> Result<VmStatus, StepError> {
    deps.proxmox.vm_status(host, VmId(machine.vmid)).await.map_err(|error| match error.kind {
        // Its configuration could be read a moment ago, by the same right.
        Kind::NotFound(Missing::Vm) | Kind::Permission { .. } => {
            StepError::retry(format!("{} was there and is not any more: {error}", machine.title()))
        }
        _ => failure::of(&error),
    })
}

/// Quarantines, and says what differs.
pub(crate) async fn refuse(deps: &Deps, machine: &Machine, host: &str, differences: &[Difference]) -> StepError {
    let words = ownership::in_words(differences);
    let message = format!("VM {} on {host} is not {}: {words}; it was not touched", machine.vmid, machine.hostname);
    deps.quarantine(machine, &message).await;
    StepError::fail(message).with_hint(format!(
        "look at VM {} on {host}: restore what differs if it is the node, or remove the node from its cluster",
        machine.vmid
    ))
}

/// Somebody is making a VM there.
pub(crate) fn unfinished(machine: &Machine, host: &str, lock: &str) -> StepError {
    let reason = format!("VM {} on {host} is being made (lock: {lock})", machine.vmid);
    StepError::wait(reason, std::time::Duration::from_secs(2))
}
