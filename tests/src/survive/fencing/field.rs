//! A datacenter with infrastructure-contractor's real actions and playbooks, in which one history after the other is
//! played, and what must be true of each.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::ensure;
use engine::report::{Report, Status, StepStatus};
use infrastructure_contractor::{
    Deps, actions,
    config::{Images, Method, Sections},
    inventory::{Cluster, Machine, Quarantine, Vm},
    playbooks,
};
use serde_json::{Value, json};
use simulators::{
    lab::{Lab, LabOptions},
    proxmox::{Heard, Snapshot},
};
use store::{Commit, InventoryChange, Store};
use tokio::runtime::{self, Runtime};

use super::{
    hurry::Hurry,
    story::{Act, Chapter, Deed, Step, Story, Twist},
    stranger::{self, Stranger},
};
use crate::{
    hypervisor,
    survive::deeds::{
        Bug,
        datacenter::{self, compare},
        death::Last,
        side::{self, Side},
        trouble::Trouble,
    },
};

/// No task of the hypervisors takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What became of a history.
#[derive(Debug, Default)]
pub(super) struct Played {
    /// What must not be.
    pub(super) complaints: Vec<String>,
    /// How many runs there were.
    pub(super) runs: usize,
    /// How many deeds of the stranger had an effect.
    pub(super) deeds: usize,
    /// What the runs said that did not go well.
    pub(super) reasons: Vec<String>,
}

/// Hypervisors, with a template where machines are cloned.
pub(super) struct Field {
    method: Method,
    /// Whether the contractor takes machines away by their numbers.
    careless: bool,
    lab: Arc<Lab>,
    runtime: Runtime,
    /// What is there when no history is played.
    empty: Snapshot,
}

/// One history on its way.
struct Play<'f> {
    lab: &'f Arc<Lab>,
    /// Where guests are switched.
    lab_runtime: &'f Runtime,
    side: Side,
    scene: Arc<Mutex<Scene>>,
    played: Played,
    _folder: tempfile::TempDir,
}

/// What the stranger has to do in the chapter that is played.
struct Scene {
    stranger: Stranger,
    /// How many of its deeds had an effect.
    done: usize,
    looks: u32,
    deeds: Vec<(u32, Deed)>,
    /// VMIDs that the last call of ours about them has looked at.
    proven: BTreeSet<u32>,
    store: Store,
}

impl Field {
    /// Starts the hypervisors, for a contractor that is careless or not.
    pub(super) fn start(method: Method, careless: bool) -> anyhow::Result<Self> {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let options = LabOptions { speed: f64::INFINITY, ..LabOptions::default() };
        let lab = Arc::new(runtime.block_on(Lab::start(options))?);
        if method == Method::Clone {
            let root = hypervisor::root(&lab.proxmox().url(), lab.proxmox().fingerprint())?;
            runtime.block_on(hypervisor::make_template(&root, &lab.mirror().url()))?;
        }
        let empty = seen(&lab);
        Ok(Self { method, careless, lab, runtime, empty })
    }

    /// Plays a history to its end, and leaves the datacenter as it was.
    pub(super) fn play(&self, story: &Story) -> anyhow::Result<Played> {
        let mut play = Play::start(self)?;
        let told = play.tell(story);
        let (mut played, lent) = play.end();
        let left = self.clear(&lent)?;
        told?;
        played.complaints.extend(left.map(|left| format!("the datacenter is not as before: {left}")));
        Ok(played)
    }

    /// Removes every VM as soon as no task works on one any more, and what VMs that were the stranger's have left. What
    /// else there is that was not.
    fn clear(&self, lent: &[String]) -> anyhow::Result<Option<String>> {
        let (proxmox, began) = (self.lab.proxmox(), Instant::now());
        while proxmox.is_at_work() {
            ensure!(began.elapsed() < PATIENCE, "a task of the last history does not end");
            std::thread::yield_now();
        }
        let _inside = self.runtime.enter();
        for vmid in proxmox.snapshot().vms.into_keys().filter(|vmid| !self.empty.vms.contains_key(vmid)) {
            ensure!(proxmox.remove_vm(vmid), "VM {vmid} of the last history cannot be removed");
        }
        for volume in lent {
            proxmox.remove_volume(volume);
        }
        // Or tasks about an id of this history would be taken for tasks about the same id of the next.
        proxmox.forget_tasks();
        let mut left = Vec::new();
        compare("", &json!(self.empty), &json!(seen(&self.lab)), &mut left);
        Ok((!left.is_empty()).then(|| left.join("; ")))
    }
}

/// What is there, shared images left out.
fn seen(lab: &Lab) -> Snapshot {
    let mut snapshot = lab.proxmox().snapshot();
    snapshot.volumes.values_mut().for_each(|volumes| volumes.retain(|volume| !volume.contains(":import/")));
    snapshot.volumes.retain(|_, volumes| !volumes.is_empty());
    snapshot
}

impl<'f> Play<'f> {
    fn start(field: &'f Field) -> anyhow::Result<Self> {
        let Field { lab, runtime: lab_runtime, .. } = field;
        let folder = tempfile::tempdir()?;
        let store = side::store(folder.path(), "infrastructure")?;
        let (sections, allowed) = (sections(field, folder.path())?, ["127.0.0.0/8".to_owned()]);
        let deps = Deps::new(sections.clone(), &allowed, store.clone())?;
        let bug = field.careless.then(|| Bug::destroys_by_number(&sections)).transpose()?;
        let trouble = Trouble::of(bug);
        let side =
            Side::start_by(Arc::new(Hurry::default()), trouble, store.clone(), &actions(&deps), &playbooks::shipped())?;
        let scene = Scene {
            stranger: Stranger::beside(lab.proxmox(), hypervisor::TEMPLATE),
            done: 0,
            looks: 0,
            deeds: Vec::new(),
            proven: BTreeSet::new(),
            store,
        };
        let scene = Arc::new(Mutex::new(scene));
        let (heard_by, of) = (scene.clone(), lab.clone());
        lab.proxmox().listen(move |heard| locked(&heard_by).hears(&of, heard));
        Ok(Self { lab, lab_runtime, side, scene, played: Played::default(), _folder: folder })
    }

    /// Ends the contractor. What became of the history, and the volumes that the stranger leaves.
    fn end(mut self) -> (Played, Vec<String>) {
        self.lab.proxmox().listen_no_more();
        let (done, lent) = {
            let mut scene = locked(&self.scene);
            (scene.done, std::mem::take(&mut scene.stranger.lent))
        };
        self.played.deeds = done;
        (self.played, lent)
    }

    fn tell(&mut self, story: &Story) -> anyhow::Result<()> {
        for chapter in &story.chapters {
            let goes_on = self.chapter(chapter)?;
            if !self.played.complaints.is_empty() {
                return Ok(());
            }
            // A run that misses a machine for good keeps its lock, until the cluster is taken away.
            if !goes_on {
                break;
            }
        }
        self.peace(None)?;
        self.run("decommission-cluster", Twist::Plain)?;
        self.run("destroy-cluster", Twist::Plain)?;
        let left = locked(&self.scene).stranger.ours(self.lab.proxmox());
        if !left.is_empty() {
            self.complain(format!("machines of ours are left at the end: {left:?}"));
        }
        Ok(())
    }

    /// Whether another chapter can follow.
    fn chapter(&mut self, chapter: &Chapter) -> anyhow::Result<bool> {
        {
            let mut scene = locked(&self.scene);
            (scene.looks, scene.deeds) = (0, chapter.deeds.clone());
        }
        let playbooks: &[&str] = match chapter.act {
            Act::Provision => &["provision-vms"],
            Act::Ready => &["register-monitoring"],
            Act::Up => &["scale-pool"],
            Act::Down => &["release-vms"],
            Act::Decommission => &["decommission-cluster", "destroy-cluster"],
        };
        let mut holds = false;
        for playbook in playbooks {
            let Some(report) = self.run(playbook, chapter.twist)? else { break };
            if report.status.needs_operator() {
                holds = self.peace(Some(&report))?;
            }
            if report.status != Status::Succeeded {
                break;
            }
        }
        {
            let _inside = self.lab_runtime.enter();
            locked(&self.scene).does_the_rest(self.lab);
        }
        self.look_after_strangers();
        Ok(!holds)
    }

    /// The stranger gives way, quarantines are lifted, and a run that needs an operator goes on; whether it stops again.
    fn peace(&mut self, stopped: Option<&Report>) -> anyhow::Result<bool> {
        self.look_after_strangers();
        {
            let _inside = self.lab_runtime.enter();
            let mut scene = locked(&self.scene);
            scene.deeds.clear();
            scene.stranger.gives_way(self.lab.proxmox());
        }
        let reader = self.side.store.reader();
        let quarantined = reader.scan::<Quarantine>("quarantine/")?;
        let inventory = quarantined.into_iter().map(|row| InventoryChange::delete(row.key)).collect();
        self.side.block_on(self.side.store.commit(Commit { inventory, ..Commit::default() }))??;
        let Some(report) = stopped else { return Ok(false) };
        let before = self.machines();
        let report = self.side.resume(report)?;
        self.judge(&report, &before, Told::InPeace);
        Ok(report.status.needs_operator())
    }

    /// Runs a playbook where there is something for it to do, and judges how it ends.
    fn run(&mut self, playbook: &str, twist: Twist) -> anyhow::Result<Option<Report>> {
        let Some(input) = self.input(playbook)? else { return Ok(None) };
        let before = self.machines();
        self.played.runs += 1;
        let mut report = match twist {
            Twist::Dies(commit) => self.side.run_through_death(playbook, &input, commit, Last::Durable)?.0,
            Twist::Fails(step) => {
                for name in names(step) {
                    self.side.trouble.fail(&name);
                }
                let report = self.side.run(playbook, &input);
                self.side.trouble.clear();
                report?
            }
            Twist::Plain | Twist::Undone => self.side.run(playbook, &input)?,
        };
        self.judge(&report, &before, Told::Amid);
        if twist == Twist::Undone && report.status == Status::Succeeded {
            let before = self.machines();
            report = self.side.undo(&report)?;
            self.judge(&report, &before, Told::Ordered);
        }
        Ok(Some(report))
    }

    /// What the playbook is given now; none if it makes no sense now.
    fn input(&self, playbook: &str) -> anyhow::Result<Option<Value>> {
        let reader = self.side.store.reader();
        let cluster = reader.get::<Cluster>("cluster/prod")?.map(|found| found.value);
        let machines = self.machines();
        let workers = machines.iter().filter(|machine| machine.pool.as_str() == "worker").count();
        let (
            Some(cluster),
            "register-monitoring" | "scale-pool" | "release-vms" | "decommission-cluster" | "destroy-cluster",
        ) = (&cluster, playbook)
        else {
            let request = json!({
                "request_type": "provision_cluster", "cluster_name": "prod", "control_plane_nodes": 1, "worker_nodes": 1,
                "storage_backend": "local-path",
            });
            return Ok((playbook == "provision-vms" && cluster.is_none()).then_some(request));
        };
        let is_active = cluster.ready.is_some();
        Ok(match playbook {
            "register-monitoring" if !is_active => Some(json!({
                "handoff_type": "cluster_ready", "cluster_name": "prod", "cluster_uid": cluster.uid,
                "api_endpoint": cluster.endpoint.url(), "status": "healthy",
            })),
            "scale-pool" if is_active => {
                Some(json!({ "cluster_name": "prod", "pool": "worker", "count": workers + 1 }))
            }
            "release-vms" if is_active => {
                let last = machines.iter().rfind(|machine| machine.pool.as_str() == "worker");
                last.map(|machine| {
                    let Machine { hostname, node_uid, pool, .. } = machine;
                    json!({
                        "handoff_type": "node_removed", "cluster_name": "prod", "cluster_uid": cluster.uid,
                        "nodes": [{ "hostname": hostname, "node_uid": node_uid, "pool": pool }],
                    })
                })
            }
            "decommission-cluster" => Some(json!({ "cluster_name": "prod" })),
            "destroy-cluster" => Some(json!({
                "handoff_type": "cluster_removed", "cluster_name": "prod", "cluster_uid": cluster.uid,
            })),
            _ => None,
        })
    }

    /// What must be true when a run rests.
    fn judge(&mut self, report: &Report, before: &[Machine], told: Told) {
        self.look_after_strangers();
        let what = format!("{} {:?}", report.playbook, report.status);
        let after = self.machines();
        let (ours, disturbed, foreign) = {
            let scene = locked(&self.scene);
            let foreign: Vec<u32> = after.iter().map(|m| m.vmid).filter(|id| scene.stranger.is_foreign(*id)).collect();
            (scene.stranger.ours(self.lab.proxmox()), scene.stranger.disturbed.clone(), foreign)
        };
        let is_there = |machine: &Machine| ours.contains(&machine.vmid);
        let released = before.iter().filter(|machine| !after.iter().any(|now| now.node_uid == machine.node_uid));
        for machine in released.filter(|machine| is_there(machine)) {
            self.complain(format!("{what}: {} is forgotten and still there", machine.title()));
        }
        if report.status == Status::Succeeded {
            let made = after.iter().filter(|machine| !disturbed.contains(&machine.vmid));
            for machine in made.filter(|machine| !is_there(machine)) {
                self.complain(format!("{what}: {} is not there (foreign: {foreign:?})", machine.title()));
            }
            return;
        }
        let stuck = report.steps.iter().filter(|step| step.status == StepStatus::UndoFailed);
        let stuck: Vec<String> = stuck.filter_map(|step| step.reason.clone()).collect();
        let failed = report.failure.iter().map(|failure| failure.error.message.clone());
        let reasons: Vec<String> = match told {
            Told::Amid => failed.chain(stuck).collect(),
            Told::Ordered => stuck,
            // The first failure is remembered for ever; only a machine that somebody removed may still be missed.
            Told::InPeace if report.status.is_terminal() => return,
            Told::InPeace => failed.chain(stuck).filter(|reason| !reason.contains(GONE)).collect(),
        };
        if told == Told::Amid && reasons.is_empty() {
            self.complain(format!("{what}: nothing says why"));
        }
        for reason in reasons {
            match EXPECTED.iter().find(|part| reason.contains(**part)) {
                Some(kind) if told != Told::InPeace => self.played.reasons.push((*kind).to_owned()),
                _ => self.complain(format!("{what} ({told:?}): {reason}")),
            }
        }
    }

    fn look_after_strangers(&mut self) {
        let complaints = locked(&self.scene).stranger.complaints(self.lab.proxmox());
        self.played.complaints.extend(complaints);
    }

    fn complain(&mut self, complaint: String) {
        self.played.complaints.push(complaint);
    }

    fn machines(&self) -> Vec<Machine> {
        machines(&self.side.store)
    }
}

/// What a step may say that does not go on: each names what differs or what is missing.
const EXPECTED: [&str; 8] = [
    "was not touched",
    "is not there any more",
    "is called",
    "made to fail after it was done",
    "no VM for",
    "does not answer at",
    "is there and we may not see it",
    "still has",
];
/// What may be said even when the stranger has given way: a machine that somebody removed does not come back.
const GONE: &str = "is not there any more";

/// When a run is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// While the stranger may be at it.
    Amid,
    /// After it was undone because we said so.
    Ordered,
    /// After the stranger gave way and it was resumed.
    InPeace,
}

impl Scene {
    fn hears(&mut self, lab: &Lab, heard: &Heard<'_>) {
        if !heard.user.starts_with("cortex@pve") {
            return;
        }
        let about = stranger::vmid_in(heard.path);
        self.proven.retain(|vmid| Some(*vmid) != about);
        if heard.method == "GET" {
            self.looks = self.looks.saturating_add(1);
            self.does_what_is_due(lab);
            self.proven.extend(about.filter(|_| heard.path.ends_with("/config")));
        }
        self.stranger.hears(heard);
    }

    /// What is due, except about a VM that another task of ours has just looked at to act on, or on which the hypervisor is at
    /// work: its lock keeps everybody out until that task has ended, and what it does was ordered before.
    fn does_what_is_due(&mut self, lab: &Lab) {
        let mut later = Vec::new();
        for (at, deed) in std::mem::take(&mut self.deeds) {
            let machines = machines(&self.store);
            let target = self.stranger.target(&deed, &machines);
            let taken = |vmid| self.proven.contains(&vmid) || lab.proxmox().works_on(vmid);
            if at > self.looks || target.is_some_and(taken) {
                later.push((at, deed));
            } else {
                self.done += usize::from(self.stranger.does(lab.proxmox(), &deed, &machines));
            }
        }
        self.deeds = later;
    }

    fn does_the_rest(&mut self, lab: &Lab) {
        self.proven.clear();
        self.looks = u32::MAX;
        self.does_what_is_due(lab);
    }
}

fn sections(field: &Field, folder: &Path) -> anyhow::Result<Sections> {
    let mut sections = datacenter::sections(&field.lab, folder)?;
    sections.machines.patience_seconds = 1;
    if field.method == Method::Clone {
        sections.images = Images { factory: sections.images.factory, ..hypervisor::clones() };
        sections.machines.storage = hypervisor::SHARED.to_owned();
    }
    Ok(sections)
}

fn locked(scene: &Mutex<Scene>) -> MutexGuard<'_, Scene> {
    scene.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ours, as the inventory has them, by name.
fn machines(store: &Store) -> Vec<Machine> {
    let rows = store.reader().scan::<Vm>("vm/").unwrap_or_default();
    let by_name: BTreeMap<_, _> =
        rows.into_iter().map(|row| (row.value.machine.hostname.clone(), row.value.machine)).collect();
    by_name.into_values().collect()
}

fn names(step: Step) -> Vec<String> {
    let step = match step {
        Step::Create => "create",
        Step::Start => "start",
        Step::Answer => "answer",
    };
    let machines = ["prod-cp-1", "prod-worker-1", "prod-worker-2", "prod-worker-3"];
    machines.iter().map(|machine| format!("make.{step}[{machine}]")).collect()
}
