//! Real daemons, a real nats-server and the lab, and `SIGKILL` at random instants.
//!
//! In each round a cluster is asked for, grown, shrunk and taken away again while the daemons are killed, now and then
//! while they are still starting. Then every store opens, what was acknowledged has its run, every run has ended, there was
//! one VM per node, and the datacenter is as before. How long each of the four takes is seen in a life without harm first:
//! kills fall into that time.

use std::{
    fs,
    ops::AddAssign,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use cortexctl::{
    client::{Client, Submission},
    commands::flows,
    watch,
};
use jiff::Timestamp;
use messages::{
    query::{FlowView, Listing, RunView},
    subject::Party,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    demo,
    process::Process,
    world::{World, WorldOptions, consented, tail},
};

/// No flow of a round takes longer, on any machine that runs this.
pub const PATIENCE: Duration = Duration::from_secs(240);
/// Kills of a starting daemon fall into this time after its start.
const START: Duration = Duration::from_millis(20);

/// A life has about one kill of each daemon amid a run of its own; where it takes so many for one, kills miss the work.
const LIVES_PER_KILL: u64 = 20;

/// Kills at the start between two times at which the daemons must become ready.
const IN_A_ROW: usize = 20;
/// With so many of them each daemon must have been killed with its store open.
const ENOUGH: u64 = 100;

/// Which daemon, by its place in the world.
type Victim = usize;
const INFRASTRUCTURE: Victim = 0;
const TALOS: Victim = 1;
const PARTIES: [Party; 2] = [Party::Infrastructure, Party::Talos];

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Of everything random.
    pub seed: u64,
    /// How often each daemon is killed while a run of its own is at work, at least: so many clusters live and die.
    pub rounds: u64,
    /// How often a daemon is killed in the first 20 ms after its start.
    pub starts: u64,
    /// No flow takes longer, however often its contractors die.
    pub patience: Duration,
    /// Whether infrastructure-contractor's store does not survive its death at work, which must be found.
    pub forgets: bool,
}

/// How often a daemon was killed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kills {
    /// At a random instant after something was asked for.
    pub at_work: u64,
    /// Of these, while a run of its own was not over.
    pub amid_a_run: u64,
    /// In the first 20 ms after its start.
    pub at_start: u64,
    /// Of these, while it had its store open, or was opening it.
    pub in_store: u64,
}

impl AddAssign for Kills {
    fn add_assign(&mut self, other: Self) {
        let Self { at_work, amid_a_run, at_start, in_store } = other;
        self.at_work += at_work;
        self.amid_a_run += amid_a_run;
        self.at_start += at_start;
        self.in_store += in_store;
    }
}

/// What happened in a round.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// Its number.
    pub number: u64,
    /// Of infrastructure-contractor and talos-contractor.
    pub kills: [Kills; 2],
    /// How long it took.
    pub took: Duration,
}

/// Plays all rounds in one world.
///
/// # Errors
/// What did not survive, with the seed in the words of the caller.
pub fn play(options: Options, tell: &mut dyn FnMut(&Round)) -> anyhow::Result<()> {
    // A second installation fails, and the first is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let world = World::start(folder.path(), &WorldOptions { seed: options.seed, ..WorldOptions::default() })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let operator = runtime.block_on(world.operator())?;
    let random = StdRng::seed_from_u64(options.seed);
    let Options { patience, forgets, .. } = options;
    let (round, pace) = (Round::default(), Vec::new());
    let mut stage = Stage { world, runtime, operator, random, patience, forgets, round, pace, place: 0 };
    let told = stage.play(options, tell);
    let logs = told.is_err().then(|| [stage.world.infrastructure.log(), stage.world.talos.log()]);
    told.with_context(|| logs.map(|logs| logs.map(|log| tail(&log)).join("\n")).unwrap_or_default())
}

struct Stage {
    world: World,
    runtime: tokio::runtime::Runtime,
    operator: Client,
    random: StdRng,
    patience: Duration,
    forgets: bool,
    round: Round,
    /// How long each of a life's requests takes when nobody dies.
    pace: Vec<Duration>,
    /// Which of them comes next.
    place: usize,
}

impl Stage {
    fn play(&mut self, options: Options, tell: &mut dyn FnMut(&Round)) -> anyhow::Result<()> {
        let before = self.snapshot()?;
        self.life("rehearsal").context("a life without harm")?;
        let (mut amid_a_run, mut number) = ([0; 2], 0);
        while amid_a_run.iter().any(|kills| *kills < options.rounds) {
            ensure!(number < LIVES_PER_KILL * options.rounds, "{number} lives and {amid_a_run:?} kills amid a run");
            let began = Instant::now();
            number += 1;
            self.round = Round { number, ..Round::default() };
            self.life(&format!("round-{number}")).with_context(|| format!("round {number}"))?;
            let left = demo::leftovers(&before, &self.snapshot()?);
            ensure!(left.is_empty(), "round {number} leaves {}", left.join(", "));
            self.round.took = began.elapsed();
            tell(&self.round);
            for (all, kills) in amid_a_run.iter_mut().zip(self.round.kills) {
                *all += kills.amid_a_run;
            }
        }
        if options.starts > 0 {
            let began = Instant::now();
            self.round = Round { number: number + 1, ..Round::default() };
            self.starts(options.starts).context("killed while starting")?;
            self.round.took = began.elapsed();
            tell(&self.round);
        }
        Ok(())
    }

    /// A cluster is made, grown, shrunk and taken away while its contractors die.
    fn life(&mut self, name: &str) -> anyhow::Result<()> {
        self.place = 0;
        let request = json!({
            "request_type": "provision_cluster", "cluster_name": name, "pattern": "edge", "worker_nodes": 1,
            "service_account_key": "ecdsa-p256",
        });
        self.through_kills("provision_cluster", &request)?;
        self.one_machine_per_node(name, 2)?;
        for count in [2, 1] {
            let scaled = json!({ "cluster_name": name, "pool": "worker", "count": count });
            self.with_consent("scale_request", scaled)?;
            self.one_machine_per_node(name, 1 + count)?;
        }
        self.with_consent("decommission_request", json!({ "cluster_name": name }))?;
        self.nothing_unfinished()
    }

    fn with_consent(&mut self, name: &str, body: Value) -> anyhow::Result<()> {
        let consented = self.runtime.block_on(consented(&self.operator, name, body))?;
        self.through_kills(name, &consented)
    }

    /// Asks for something and kills what does it, once, twice or three times.
    fn through_kills(&mut self, name: &str, body: &Value) -> anyhow::Result<()> {
        let flow = self.submit(name, body)?;
        let pace = self.pace.get(self.place).copied();
        self.place += 1;
        let killed = pace.map(|pace| self.kill_within(pace)).transpose()?;
        let ended = self.done(name, flow)?;
        let runs = self.runtime.block_on(flows::of(&self.operator, flow))?.runs;
        if pace.is_none() {
            let took = ended.ended.unwrap_or(ended.started).duration_since(ended.started);
            self.pace.push(took.try_into()?);
        }
        for (victim, at) in killed.into_iter().flatten() {
            let is_amid = |run: &RunView| {
                run.contractor == PARTIES[victim].as_str()
                    && run.started < at
                    && run.ended.is_none_or(|ended| at < ended)
            };
            self.round.kills[victim].amid_a_run += u64::from(runs.iter().any(is_amid));
        }
        Ok(())
    }

    /// Asks for something; it is acknowledged when this returns.
    fn submit(&self, name: &str, body: &Value) -> anyhow::Result<Uuid> {
        let flow = Uuid::now_v7();
        match self.runtime.block_on(self.operator.submit(Party::Infrastructure, name, flow, body))? {
            Submission::Accepted(_) => Ok(flow),
            Submission::AwaitsApproval { .. } => bail!("{name} waits for approval"),
        }
    }

    /// Waits until what was acknowledged is done.
    fn done(&self, name: &str, flow: Uuid) -> anyhow::Result<FlowView> {
        let ended = self.follow(flow).with_context(|| format!("{name}, acknowledged as flow {flow}"))?;
        let why = ended.reason.as_deref().unwrap_or_default();
        ensure!(ended.state == "succeeded", "{name} is {}: {why}", ended.state);
        Ok(ended)
    }

    /// Kills one daemon or both, once, twice or three times; who died when.
    fn kill_within(&mut self, pace: Duration) -> anyhow::Result<Vec<(Victim, Timestamp)>> {
        let mut killed = Vec::new();
        for _ in 0..self.random.random_range(1..=3) {
            std::thread::sleep(pace.mul_f64(self.random.random()));
            let victims: &[Victim] = match self.random.random_range(0..3) {
                0 => &[TALOS],
                1 => &[INFRASTRUCTURE],
                _ => &[TALOS, INFRASTRUCTURE],
            };
            for victim in victims {
                killed.push((*victim, Timestamp::now()));
                self.kill(*victim)?;
            }
            self.world.wait_ready()?;
        }
        Ok(killed)
    }

    fn victim(&mut self, victim: Victim) -> &mut Process {
        if victim == TALOS { &mut self.world.talos } else { &mut self.world.infrastructure }
    }

    fn kill(&mut self, victim: Victim) -> anyhow::Result<()> {
        kill(self.victim(victim))?;
        if self.forgets && victim == INFRASTRUCTURE {
            fs::remove_dir_all(self.world.folder.join("infrastructure-store"))?;
        }
        self.victim(victim).start(false)?;
        self.round.kills[victim].at_work += 1;
        while self.random.random_bool(0.4) {
            self.kill_at_start(victim)?;
        }
        Ok(())
    }

    /// Kills a daemon that has just been started, and starts it again.
    fn kill_at_start(&mut self, victim: Victim) -> anyhow::Result<()> {
        std::thread::sleep(START.mul_f64(self.random.random()));
        let process = self.victim(victim);
        let in_store = has_store_open(process);
        kill(process)?;
        process.start(false)?;
        self.round.kills[victim].at_start += 1;
        self.round.kills[victim].in_store += u64::from(in_store);
        Ok(())
    }

    /// Daemons that are killed again and again before they are ready, while a cluster is to be made; in between they must
    /// become ready, make it, and take it away.
    fn starts(&mut self, kills: u64) -> anyhow::Result<()> {
        for first in (0..kills).step_by(IN_A_ROW) {
            let name = format!("starts-{first}");
            let request = json!({
                "request_type": "provision_cluster", "cluster_name": name, "pattern": "single",
                "service_account_key": "ecdsa-p256",
            });
            let made = self.submit("provision_cluster", &request)?;
            let last = kills.min(first + IN_A_ROW as u64);
            for number in first..last {
                let victim = if number % 2 == 0 { INFRASTRUCTURE } else { TALOS };
                let process = self.victim(victim);
                kill(process)?;
                process.start(false)?;
                self.kill_at_start(victim)?;
            }
            self.world.wait_ready().with_context(|| format!("after {last} kills"))?;
            self.done("provision_cluster", made)?;
            self.one_machine_per_node(&name, 1)?;
            let gone = json!({ "cluster_name": name });
            let consented = self.runtime.block_on(consented(&self.operator, "decommission_request", gone))?;
            let gone = self.submit("decommission_request", &consented)?;
            self.done("decommission_request", gone)?;
        }
        let in_store = self.round.kills.map(|kills| kills.in_store);
        ensure!(
            kills < ENOUGH || !in_store.contains(&0),
            "a daemon was never killed with its store open: {in_store:?}"
        );
        self.nothing_unfinished()
    }

    fn follow(&self, flow: Uuid) -> anyhow::Result<FlowView> {
        self.runtime.block_on(async {
            let told = async {
                let tail = watch::events_from_now(&self.operator).await?;
                let now = flows::of(&self.operator, flow).await?;
                if now.ended.is_some() {
                    return Ok(now);
                }
                let (_, view) = watch::follow(&self.operator, flow, tail, |_| {}).await?;
                view.context("it needs an operator")
            };
            tokio::time::timeout(self.patience, told).await.context("it does not end")?
        })
    }

    fn one_machine_per_node(&self, cluster: &str, wanted: usize) -> anyhow::Result<()> {
        let nodes = self.rows(Party::Talos, "nodes.list", json!({ "cluster": cluster }))?;
        let snapshot = self.snapshot()?;
        let vms = snapshot["vms"].as_object().context("a snapshot has VMs")?;
        let mut machines: Vec<_> = vms.values().filter_map(|vm| vm["name"].as_str()).collect();
        let mut nodes: Vec<_> = nodes.iter().filter_map(|node| node["node"].as_str()).collect();
        machines.sort_unstable();
        nodes.sort_unstable();
        ensure!(nodes.len() == wanted && machines == nodes, "the nodes are {nodes:?}, the VMs {machines:?}");
        Ok(())
    }

    fn nothing_unfinished(&self) -> anyhow::Result<()> {
        for party in PARTIES {
            let clusters = self.rows(party, "clusters.list", json!({}))?;
            ensure!(clusters.is_empty(), "{party} still knows {clusters:?}");
            let runs: Vec<Value> =
                self.runtime.block_on(self.operator.query(party, "runs.list", json!({ "limit": 10_000 })))?;
            let is_over = |run: &Value| {
                matches!(run["state"].as_str(), Some("succeeded" | "undone" | "kept" | "cancelled"))
                    || run["playbook"] == "check-clusters"
            };
            let at_work: Vec<_> = runs.iter().filter(|run| !is_over(run)).collect();
            ensure!(at_work.is_empty(), "{party} still has at work: {at_work:?}");
        }
        Ok(())
    }

    fn rows(&self, party: Party, query: &str, input: Value) -> anyhow::Result<Vec<Value>> {
        let listing: Listing = self.runtime.block_on(self.operator.query(party, query, input))?;
        Ok(listing.rows.into_iter().map(|row| json!(row)).collect())
    }

    fn snapshot(&self) -> anyhow::Result<Value> {
        self.runtime.block_on(self.world.snapshot())
    }
}

/// Kills a daemon. One that has ended by itself would be started again as if it had been killed.
fn kill(victim: &mut Process) -> anyhow::Result<()> {
    if let Some(status) = victim.ended() {
        bail!("{} has ended by itself with {status}: {}", victim.name(), tail(&victim.log()));
    }
    victim.kill();
    Ok(())
}

/// Whether a daemon has a file of its store open.
fn has_store_open(daemon: &Process) -> bool {
    let open = daemon.id().and_then(|id| fs::read_dir(format!("/proc/{id}/fd")).ok());
    let targets = open.into_iter().flatten().flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    targets.map(|target| target.display().to_string()).any(|target| target.contains("-store/"))
}
