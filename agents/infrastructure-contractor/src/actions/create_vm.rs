//! `infrastructure.create_vm`: makes one reserved machine on its host.
//!
//! The id was chosen by us, so running this again finds the same VM. If somebody else's VM stands there by now, the id is
//! quarantined and another one taken: `nextid` reserves nothing (proxmox.md 5). If a VM carries part of our proof, there or
//! under another id, nothing is made beside it: it may be the machine, changed by somebody while it was being made.

use std::time::Duration;

use contractor::action::{Action, Done, Effects, Kept, StepContext, StepError};
use engine::catalog::Undo;
use proxmox::{
    Upid, VmId,
    error::{Kind, Missing},
    form::Params,
    property::Property,
    qemu::NewClone,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use store::{Commit, InventoryChange};

use super::{ensure_image::AvailableImage, machine_event, recall, recall_known, record};
use crate::{
    Deps, blueprint,
    claims::Claim,
    failure,
    fence::{self, Found, Ours},
    half_clone::{self, Nonce},
    inventory::{Machine, MachineRef, VmState, vmid_key},
    look_alike,
    own_task::{self, OwnTask},
    ownership,
    reservation::{self, Ground},
    teardown,
};

/// Creating copies an image or clones a disk.
const PATIENCE: Duration = Duration::from_secs(8 * 60);
/// Ids that may turn out to be somebody else's before this gives up.
const IDS: usize = 5;
/// What a template decides, not we.
const TEMPLATE_DECIDES: [&str; 5] = ["bios", "machine", "scsihw", "boot", "ostype"];

pub(super) struct CreateVm(pub(super) Deps);

/// Which machine, from which image.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// The machine, as it was reserved.
    machine: MachineRef,
    /// The image on each host.
    images: Vec<AvailableImage>,
}

/// What an attempt has come to; durable.
#[derive(Clone, Serialize, Deserialize)]
struct Progress {
    /// The id in use: the reserved one, unless that turned out to be somebody else's.
    vmid: u32,
    /// What proves the clone that was asked for; kept before the call, whose answer may be lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nonce: Option<Nonce>,
    /// The task that makes the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    task: Option<Upid>,
}

impl Progress {
    fn of(cx: &StepContext) -> Option<Self> {
        Self::deserialize(cx.last_checkpoint.as_ref()?).ok()
    }

    async fn keep(&self, cx: &StepContext) -> Result<(), StepError> {
        cx.checkpoint(reservation::json(self)).await
    }

    /// Whether a clone was asked for and nobody knows what became of it.
    fn is_unanswered(&self) -> bool {
        self.nonce.is_some() && self.task.is_none()
    }
}

/// A machine on its way, under the id that is in use.
struct Making {
    machine: Machine,
    progress: Progress,
}

impl Making {
    /// Goes on where an earlier attempt was.
    fn of(cx: &StepContext, reserved: &Machine) -> Self {
        let fresh = || Progress { vmid: reserved.vmid, nonce: None, task: None };
        let progress = Progress::of(cx).unwrap_or_else(fresh);
        Self { machine: Machine { vmid: progress.vmid, ..reserved.clone() }, progress }
    }

    /// Another id, under which nothing was asked for yet. Durable when this returns, in the inventory first: whoever takes
    /// the machine away must know under which id there may be one.
    async fn take_id(&mut self, deps: &Deps, cx: &StepContext, vmid: u32) -> Result<(), StepError> {
        let mut inventory = reservation::moved(&self.machine, vmid);
        self.machine.vmid = vmid;
        inventory.push(record(&cx.store, &self.machine, VmState::Reserved)?);
        let taken = deps.store.commit(Commit { inventory, ..Commit::default() }).await;
        taken.map_err(|error| StepError::retry(format!("another VMID cannot be recorded: {error}")))?;
        self.progress = Progress { vmid, nonce: None, task: None };
        self.progress.keep(cx).await
    }
}

impl Action for CreateVm {
    const NAME: &'static str = "infrastructure.create_vm";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = MachineRef;

    fn limits(&self, input: &Input) -> Vec<(String, usize)> {
        let section = &self.0.sections.proxmox;
        vec![
            (format!("host/{}", input.machine.host), section.parallel_per_host),
            (input.machine.storage_limit(), section.parallel_per_storage),
        ]
    }

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<MachineRef>, StepError> {
        let reserved = recall_known(&cx.store, &input.machine)?;
        let mut making = Making::of(cx, &reserved);
        let mut task = self.task_of(&making.progress).await;
        let mut made = task == Task::Made;
        let mut claim = None;
        for _ in 0..IDS {
            let machine = &making.machine;
            match self.look(machine, making.progress.nonce).await? {
                Found::Ours(ours) => {
                    let mut done = self.finish(cx, &reserved, making.machine, ours).await?;
                    done.effects.until_then = Kept::new(claim);
                    return Ok(done);
                }
                Found::HalfCloned(half) => self.dress(machine, &half).await?,
                // Nobody is at it any more: what the task has left has no mark, and its lock only root can take away.
                Found::Unfinished { host, lock } if task == Task::Lost && !made => {
                    claim = self.leave_id(cx, &mut making, &half_made(&host, &lock)).await?;
                    task = Task::Unknown;
                }
                Found::Unfinished { host, lock } => return Err(fence::unfinished(machine, &host, &lock)),
                Found::LookAlike(found) => return Err(look_alike::refuse(&self.0, machine, &found).await),
                // It was made for us, or may have been, and somebody took away all that tells it, or took its place.
                Found::Foreign { host, differences }
                    if made || making.progress.is_unanswered() || self.was_made(cx, machine, &input.images).await? =>
                {
                    return Err(fence::refuse(&self.0, machine, &host, &differences).await);
                }
                Found::Foreign { host, differences } => {
                    let words = ownership::in_words(&differences);
                    claim = self.leave_id(cx, &mut making, &format!("somebody else's (on {host}: {words})")).await?;
                    made = false;
                }
                Found::Hidden if made => return Err(fence::hidden(&self.0, machine).await),
                Found::Hidden => match self.own_task(cx, machine, &input.images).await? {
                    OwnTask::Running(upid) => made = self.0.proxmox.wait_for_task(&upid, PATIENCE).await.is_ok(),
                    OwnTask::Made => made = true,
                    OwnTask::None if self.is_hidden(&making).await? => {
                        claim = self.leave_id(cx, &mut making, "somebody else's (a guest that we may not see)").await?;
                    }
                    OwnTask::None => {}
                },
                Found::Absent => match self.make_alone(cx, &mut making, &input.images).await {
                    Ok(()) => made = true,
                    Err(Unmade::Taken) if self.is_absent(&making).await? => {
                        claim = self.leave_id(cx, &mut making, "somebody else's (a guest that comes and goes)").await?;
                    }
                    Err(Unmade::Taken) => {}
                    Err(Unmade::Step(error)) => return Err(error),
                },
            }
        }
        let reason = format!("no VM for {} after {IDS} looks; see the quarantine", reserved.hostname);
        Err(StepError::retry(reason))
    }

    async fn find(&self, cx: &StepContext, input: &Input) -> Result<Option<Done<MachineRef>>, StepError> {
        let reserved = recall_known(&cx.store, &input.machine)?;
        let machine = Making::of(cx, &reserved).machine;
        match self.look(&machine, None).await? {
            Found::Ours(ours) if ours.config.lock().is_none() => {
                self.finish(cx, &reserved, machine, ours).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    async fn undo(&self, cx: &StepContext, input: &Input, output: Option<&MachineRef>) -> Result<Effects, StepError> {
        let Some(reserved) = recall(&cx.store, &input.machine)? else { return Ok(Effects::default()) };
        let Making { machine, progress } = Making::of(cx, &reserved);
        let left = machine.vmid != reserved.vmid;
        let asked = left || progress.nonce.is_some() || progress.task.is_some() || output.is_some();
        let task = self.task_of(&progress).await;
        // What was reported has its hardware, and nothing less proves it any more.
        let nonce = progress.nonce.filter(|_| output.is_none());
        match self.look(&machine, nonce).await? {
            // We never asked for a VM, and what stands there is not ours.
            Found::Foreign { .. } if !asked && !self.was_made(cx, &machine, &input.images).await? => {}
            Found::Unfinished { host, lock } if task == Task::Lost => {
                let reason = format!("VM {} is {}", machine.vmid, half_made(&host, &lock));
                self.0.quarantine_vmid(machine.vmid, &reason).await;
            }
            Found::Hidden => match self.ended_task(cx, &machine, &input.images).await? {
                OwnTask::None if !asked => {}
                _ => teardown::destroy(&self.0, cx, &machine, nonce).await?,
            },
            // A clone takes its id late, so one whose answer was lost may come still.
            Found::Absent if progress.is_unanswered() => {
                self.ended_task(cx, &machine, &input.images).await?;
                teardown::destroy(&self.0, cx, &machine, nonce).await?;
            }
            _ => teardown::destroy(&self.0, cx, &machine, nonce).await?,
        }
        let mut inventory = vec![record(&cx.store, &machine, VmState::Reserved)?];
        if left {
            inventory.push(InventoryChange::delete(vmid_key(reserved.vmid)));
        }
        Ok(Effects { inventory, ..Effects::default() })
    }
}

/// What became of the task of an earlier attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Task {
    /// It made the VM.
    Made,
    /// It died with its host, wherever it was.
    Lost,
    /// There was none, it failed, or it cannot be asked.
    Unknown,
}

/// What a task leaves that died in the middle.
fn half_made(host: &str, lock: &str) -> String {
    format!(
        "half made (lock: {lock}) by a task of ours that died with {host}; as root, `qm unlock` and `qm destroy` it"
    )
}

/// Why there is no VM after asking for one.
enum Unmade {
    /// The id is taken.
    Taken,
    /// Something else.
    Step(StepError),
}

impl CreateVm {
    async fn look(&self, machine: &Machine, nonce: Option<Nonce>) -> Result<Found, StepError> {
        fence::look_for_clone(&self.0, machine, nonce).await
    }

    async fn is_absent(&self, making: &Making) -> Result<bool, StepError> {
        Ok(matches!(self.look(&making.machine, making.progress.nonce).await?, Found::Absent))
    }

    async fn is_hidden(&self, making: &Making) -> Result<bool, StepError> {
        Ok(matches!(self.look(&making.machine, making.progress.nonce).await?, Found::Hidden))
    }

    /// Waits for the task of an earlier attempt; what stands there says more than the task does.
    async fn task_of(&self, progress: &Progress) -> Task {
        let Some(upid) = &progress.task else { return Task::Unknown };
        match self.0.proxmox.wait_for_task(upid, PATIENCE).await {
            Ok(_) => Task::Made,
            Err(error) if error.kind == Kind::TaskLost => Task::Lost,
            Err(_) => Task::Unknown,
        }
    }

    async fn was_made(
        &self,
        cx: &StepContext,
        machine: &Machine,
        images: &[AvailableImage],
    ) -> Result<bool, StepError> {
        Ok(matches!(self.own_task(cx, machine, images).await?, OwnTask::Made))
    }

    async fn own_task(
        &self,
        cx: &StepContext,
        machine: &Machine,
        images: &[AvailableImage],
    ) -> Result<OwnTask, StepError> {
        let image = images.iter().find(|image| image.host == machine.host);
        let template = image.and_then(|image| Some((image.template_host.as_deref()?, image.template?)));
        own_task::search(&self.0, &cx.store, machine, template).await
    }

    /// Like [`own_task`](Self::own_task), once none of them runs any more.
    async fn ended_task(
        &self,
        cx: &StepContext,
        machine: &Machine,
        images: &[AvailableImage],
    ) -> Result<OwnTask, StepError> {
        match self.own_task(cx, machine, images).await? {
            OwnTask::Running(upid) => {
                let reason = format!("a task of ours still makes VM {} ({upid})", machine.vmid);
                Err(StepError::wait(reason, Duration::from_secs(2)))
            }
            ended => Ok(ended),
        }
    }

    /// Makes the VM, unless one that may be it stands under another id.
    async fn make_alone(&self, cx: &StepContext, making: &mut Making, images: &[AvailableImage]) -> Result<(), Unmade> {
        let found = look_alike::elsewhere(&self.0, &making.machine).await;
        match found.map_err(|error| Unmade::Step(failure::of(&error)))? {
            Some(found) => Err(Unmade::Step(look_alike::refuse(&self.0, &making.machine, &found).await)),
            None => self.make(cx, making, images).await,
        }
    }

    /// Asks for the VM and waits until it stands.
    async fn make(&self, cx: &StepContext, making: &mut Making, images: &[AvailableImage]) -> Result<(), Unmade> {
        let host = making.machine.host.clone();
        let image = images.iter().find(|image| image.host == host);
        let image = image.ok_or_else(|| Unmade::Step(StepError::fail(format!("{host} has no image"))))?;
        let upid = match (&image.volume, image.template) {
            (Some(volume), _) => {
                let vm = blueprint::vm(&self.0.sections, &making.machine, volume);
                self.0.proxmox.create_vm(&host, &vm).await.map_err(|error| self.unmade(&error))?
            }
            (None, Some(template)) => {
                // Two tasks of which one is late would make one VM, and after its end another.
                if making.progress.is_unanswered() {
                    self.ended_task(cx, &making.machine, images).await.map_err(Unmade::Step)?;
                }
                self.ask_for_clone(cx, making, (image, template)).await?
            }
            (None, None) => return Err(Unmade::Step(StepError::fail("the image has neither volume nor template"))),
        };
        making.progress.task = Some(upid.clone());
        making.progress.keep(cx).await.map_err(Unmade::Step)?;
        cx.progress(format!("{host} makes {}", making.machine.hostname));
        self.0.proxmox.wait_for_task(&upid, PATIENCE).await.map(drop).map_err(|error| self.unmade(&error))
    }

    /// Asks for a clone, with a nonce that is durable before. It is the same as often as this asks under this id, since an
    /// earlier call may have been carried out although it failed; where it was certainly not, the nonce is given up again.
    async fn ask_for_clone(
        &self,
        cx: &StepContext,
        making: &mut Making,
        (image, template): (&AvailableImage, u32),
    ) -> Result<Upid, Unmade> {
        let known = making.progress.nonce;
        let nonce = known.unwrap_or_else(Nonce::draw);
        if known.is_none() || making.progress.task.is_some() {
            making.progress = Progress { nonce: Some(nonce), task: None, ..making.progress };
            making.progress.keep(cx).await.map_err(Unmade::Step)?;
        }
        let asked = self.clone_template(&making.machine, image, template, nonce).await;
        if known.is_none() && asked.as_ref().is_err_and(proxmox::Error::is_refusal) {
            making.progress.nonce = None;
            making.progress.keep(cx).await.map_err(Unmade::Step)?;
        }
        asked.map_err(|error| self.unmade(&error))
    }

    async fn clone_template(
        &self,
        machine: &Machine,
        image: &AvailableImage,
        template: u32,
        nonce: Nonce,
    ) -> proxmox::Result<Upid> {
        let source = image.template_host.as_deref().unwrap_or(&machine.host);
        let clone = NewClone {
            new_id: VmId(machine.vmid),
            name: machine.hostname.to_string(),
            description: Some(half_clone::description(machine, nonce)),
            pool: self.0.sections.proxmox.pool.clone(),
            target: (source != machine.host).then(|| machine.host.clone()),
            full_on: Some(machine.storage.clone()),
        };
        self.0.proxmox.clone_vm(source, VmId(template), &clone).await
    }

    fn unmade(&self, error: &proxmox::Error) -> Unmade {
        match error.kind {
            Kind::AlreadyExists => Unmade::Taken,
            Kind::NotFound(Missing::Volume) => {
                let message = format!("the image is gone: {error}");
                Unmade::Step(StepError::retry(message).with_hint("run the flow again to have it fetched"))
            }
            _ => Unmade::Step(failure::of(error)),
        }
    }

    /// Gives a fresh clone what `create` would have given it, and the machine's own description in place of the one with the
    /// nonce; volumes that the template has stay.
    async fn dress(&self, machine: &Machine, clone: &Ours) -> Result<(), StepError> {
        let wanted = blueprint::vm(&self.0.sections, machine, "");
        let mut params = Params::default();
        for (name, value) in wanted.options().iter().filter(|(name, _)| !TEMPLATE_DECIDES.contains(name)) {
            params.push(name, value);
        }
        for disk in wanted.disks.iter().skip(1).filter(|disk| clone.config.get(&disk.slot).is_none()) {
            params.push(disk.slot.clone(), disk.property());
        }
        let has_cloud_init = |slot: &str| clone.config.get(slot).is_some_and(|drive| drive.contains("cloudinit"));
        if let Some(drive) = wanted.cloud_init.as_ref().filter(|drive| !has_cloud_init(&drive.slot)) {
            params.push(drive.slot.clone(), format!("{}:cloudinit", drive.storage));
        }
        let surplus: Vec<_> = clone.config.macs().into_keys().filter(|nic| params.get(nic).is_none()).collect();
        if !surplus.is_empty() {
            params.push("delete", surplus.join(","));
        }
        let digest = clone.config.digest();
        let set = self.0.proxmox.set_vm_config(&clone.host, VmId(machine.vmid), &params, digest).await;
        set.map_err(|error| failure::of(&error))
    }

    /// Grows the system disk to what was asked for, and reports.
    async fn finish(
        &self,
        cx: &StepContext,
        reserved: &Machine,
        mut machine: Machine,
        ours: Ours,
    ) -> Result<Done<MachineRef>, StepError> {
        if let Some(lock) = ours.config.lock() {
            return Err(fence::unfinished(&machine, &ours.host, lock));
        }
        machine.host.clone_from(&ours.host);
        let gib = u64::from(machine.shape.disk_gib);
        let volumes = ours.config.volumes();
        let size = volumes.get(blueprint::SYSTEM_DISK).and_then(bytes).unwrap_or_default();
        if size < gib << 30 {
            let failed = |error| failure::of(&error);
            let vmid = VmId(machine.vmid);
            let (disk, digest) = ((blueprint::SYSTEM_DISK, gib), ours.config.digest());
            let task = self.0.proxmox.resize_disk(&machine.host, vmid, disk, digest).await;
            if let Some(upid) = task.map_err(failed)? {
                self.0.proxmox.wait_for_task(&upid, PATIENCE).await.map_err(failed)?;
            }
        }
        let mut effects = Effects::default();
        effects.inventory.push(record(&cx.store, &machine, VmState::Created)?);
        if machine.vmid != reserved.vmid {
            effects.inventory.extend(reservation::moved(reserved, machine.vmid));
        }
        effects.events.push(machine_event("vm_created", &machine));
        Ok(Done::with_effects(machine.reference(), effects))
    }

    /// Quarantines the id and takes another one, durably, before anything is made under it. The claim keeps it from others
    /// until it is in the inventory.
    async fn leave_id(&self, cx: &StepContext, making: &mut Making, why: &str) -> Result<Option<Claim>, StepError> {
        let machine = &making.machine;
        let reason = format!("VM {} is {why}", machine.vmid);
        tracing::warn!(vmid = machine.vmid, node = %machine.hostname, why, "a reserved VMID cannot be used");
        self.0.quarantine_vmid(machine.vmid, &reason).await;
        cx.progress(format!("{reason}; taking another id"));
        let mut ground = Ground::survey(&self.0, &cx.store, &machine.cluster).await?;
        let vmid = ground.take_vmid(&self.0).await?.ok_or_else(|| StepError::retry(reason))?;
        making.take_id(&self.0, cx, vmid).await?;
        Ok(ground.into_claim())
    }
}

/// `size=32G` in bytes.
fn bytes(disk: &Property) -> Option<u64> {
    let text = disk.get("size")?;
    let unit = match text.chars().last()? {
        'K' => 1_u64 << 10,
        'M' => 1 << 20,
        'G' => 1 << 30,
        'T' => 1 << 40,
        _ => 1,
    };
    let number: f64 = text.trim_end_matches(['K', 'M', 'G', 'T']).parse().ok()?;
    Some((number * unit as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, expected) in [("32G", 32 << 30), ("4252M", 4252 << 20), ("528K", 528 << 10), ("2T", 2 << 40)] {
            assert_eq!(bytes(&Property::parse(&format!("a:b,size={text}"))), Some(expected), "{text}");
        }
    }
}
