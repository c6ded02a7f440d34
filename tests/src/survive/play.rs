//! Plays a scenario on the real driver: as many lives as it has crashes, on one disk and in one world.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use contractor::{
    action::Actions,
    driver::{Clock, Driver, Happened, Hooks, Journal, NewRun, Parts},
};
use engine::{
    event::{Failure, run_id},
    plan::Plan,
    report::{EmissionKind, Report, Status},
    run::Command,
};
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::{Value, json};
use store::{Commit, InboxKey, Lane, Outgoing, RunSummary};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Fault, Scenario, Subject,
    journal::MemoryJournal,
    sabotage,
    subject::BYSTANDER,
    witness::Witness,
    world::{Fake, World},
};

/// Virtual time after which a run that does nothing any more is called hung.
const EVER: Duration = Duration::from_secs(30 * 24 * 3600);
/// No scenario has more lives.
const MAX_LIVES: usize = 64;
/// Runs that may be started beside the one under test.
const BESIDE: usize = 2;

/// How it went.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Where the run stands.
    pub status: Status,
    /// How it looks.
    pub report: Report,
    /// What is in the world.
    pub objects: BTreeSet<String>,
    /// What was sent, by type and body.
    pub messages: BTreeSet<(String, String)>,
    /// Ids of what was sent, in order.
    pub sent: Vec<String>,
    /// Ids of what playbooks handed over, whether or not it was ever durable.
    pub handed: BTreeSet<String>,
    /// How many runs there are of the message.
    pub runs: usize,
    /// Objects that the inventory knows.
    pub known: BTreeSet<String>,
    /// Promises of the driver that were broken.
    pub broken: Vec<String>,
    /// Commands that were asked, by their place in the scenario.
    pub asked: BTreeSet<usize>,
    /// Those of them that were accepted.
    pub accepted: BTreeSet<usize>,
    /// Those of them that were accepted while an attempt was at work that never ends.
    pub while_hanging: BTreeSet<usize>,
    /// Faults of the scenario that never came to pass.
    pub spared: Vec<Fault>,
    /// How the runs beside it ended: the one that was started with it, and the one once it needed an operator.
    pub bystanders: Vec<Status>,
    /// Commits made.
    pub commits: u64,
    /// The commit in which each step instance was started first. One commit may start several.
    pub started: BTreeMap<String, u64>,
    /// How often the process started.
    pub lives: usize,
    /// The run's journal.
    pub journal: Vec<Value>,
}

impl Ending {
    /// A message that was committed twice.
    pub fn first_repeated_message(&self) -> Option<&str> {
        let mut seen = BTreeSet::new();
        self.sent.iter().find(|id| !seen.insert(id.as_str())).map(String::as_str)
    }
}

/// Plays it; an error says how it broke off.
pub fn play(subject: &Subject, scenario: &Scenario) -> Result<Ending, String> {
    Stage::new(subject, scenario).play()
}

/// A run as another program left it.
#[derive(Clone, Debug)]
pub struct Left {
    /// How its row reads.
    pub summary: RunSummary,
    /// Its journal so far.
    pub events: Vec<Value>,
    /// The texts that it goes by, by hash.
    pub texts: BTreeMap<String, String>,
    /// What it has made.
    pub objects: BTreeSet<String>,
}

/// Plays a run of the subject's playbook on to its end, from where another program left it.
///
/// # Errors
/// How it broke off.
pub fn play_on(subject: &Subject, scenario: &Scenario, left: Left) -> Result<Ending, String> {
    let mut stage = Stage::new(subject, scenario);
    let run = stage.run();
    stage.world.place(run, left.objects);
    stage.journal.hold(run, left.summary, left.events, left.texts);
    stage.acknowledged = true;
    stage.play()
}

/// The plan of its run, as the driver makes it before anything is done.
///
/// # Errors
/// Why there is none.
pub fn plan(subject: &Subject) -> Result<Plan, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let scenario = Scenario::default();
    let parts = Stage::new(subject, &scenario).parts();
    let planning = contractor::driver::plan_only(&parts, &subject.playbook, &subject.input);
    let planned = runtime.map_err(|error| error.to_string())?.block_on(planning);
    planned.map_err(|error| format!("{}: {error}", subject.title()))
}

struct Stage<'s> {
    subject: &'s Subject,
    scenario: &'s Scenario,
    journal: MemoryJournal,
    world: World,
    witness: Witness,
    now: Arc<Mutex<Timestamp>>,
    /// The bus delivers again until the message is acknowledged.
    acknowledged: bool,
    /// Commands that were answered.
    asked: BTreeSet<usize>,
    /// Commands that were accepted.
    accepted: BTreeSet<usize>,
    /// Commands that were accepted while an attempt was at work that never ends.
    while_hanging: BTreeSet<usize>,
    handed: Arc<Mutex<BTreeSet<String>>>,
    /// Runs beside the one under test that were started.
    beside: usize,
    bystanders: Vec<Status>,
}

/// The flow of the run under test.
const FLOW: Uuid = Uuid::from_u128(1);

impl<'s> Stage<'s> {
    fn new(subject: &'s Subject, scenario: &'s Scenario) -> Self {
        let beside = (0..BESIDE).map(neighbour);
        let journal = MemoryJournal::new(&scenario.crashes).beside(beside);
        Self {
            subject,
            scenario,
            world: World::new(&scenario.faults),
            witness: Witness::new(subject.definition().clone(), journal.clone()),
            journal,
            now: Arc::new(Mutex::new(Timestamp::UNIX_EPOCH)),
            acknowledged: false,
            asked: BTreeSet::new(),
            accepted: BTreeSet::new(),
            while_hanging: BTreeSet::new(),
            handed: Arc::default(),
            beside: 0,
            bystanders: Vec::new(),
        }
    }

    fn play(mut self) -> Result<Ending, String> {
        for lives in 1..=MAX_LIVES {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            // Dropping the runtime is the death of the process: every task is gone where it stood.
            let report = runtime.block_on(async {
                let life = tokio::time::timeout(EVER, self.live()).await;
                life.map_err(|_| "the run hangs".to_owned())?
            })?;
            drop(runtime);
            if let Some(report) = report {
                return self.ending(report, lives);
            }
        }
        Err(format!("still not ended after {MAX_LIVES} lives"))
    }

    fn ending(self, report: Report, lives: usize) -> Result<Ending, String> {
        let run = self.run();
        let outgoing = self.journal.outgoing();
        let spared = self.scenario.faults.iter().filter(|fault| !self.world.has_befallen(fault));
        Ok(Ending {
            status: report.status,
            report,
            objects: self.world.objects(run),
            known: self.journal.keys(&format!("object/{run}/")).into_iter().collect(),
            broken: self.witness.broken(),
            spared: spared.cloned().collect(),
            asked: self.asked,
            accepted: self.accepted,
            while_hanging: self.while_hanging,
            bystanders: self.bystanders,
            messages: outgoing.iter().map(|it| (it.subject.clone(), it.body.clone())).collect(),
            sent: outgoing.into_iter().map(|it| it.id).collect(),
            handed: self.handed.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            runs: self.journal.runs(),
            commits: self.journal.progress().borrow().commits,
            started: self.journal.started(run),
            lives,
            journal: self.journal.events(run).map_err(|error| error.to_string())?,
        })
    }

    /// One life of the process; none when it died.
    async fn live(&mut self) -> Result<Option<Report>, String> {
        let mut deaths = self.journal.progress();
        let before = deaths.borrow().deaths;
        let died = async move {
            // The sender lives as long as the journal.
            let _ = deaths.wait_for(|progress| progress.deaths > before).await;
        };
        tokio::select! {
            biased;
            () = died => Ok(None),
            report = self.work() => report.map(Some),
        }
    }

    async fn work(&mut self) -> Result<Report, String> {
        let driver = Driver::start(self.parts()).await.map_err(|error| error.to_string())?;
        let run = self.run();
        if !self.acknowledged || self.scenario.redelivers {
            driver.submit(self.new_run(run, FLOW)).await.map_err(|error| error.to_string())?;
            self.acknowledged = true;
        }
        if self.scenario.bystander && self.beside == 0 {
            self.stand_by(&driver).await?;
        }
        let mut progress = self.journal.progress();
        loop {
            let commits = progress.borrow_and_update().commits;
            if self.ask_what_is_due(&driver, commits).await {
                continue;
            }
            tokio::select! {
                biased;
                // Whoever asks after the last commit asks a run that has just ended: before anybody looks at its end.
                _ = progress.changed() => continue,
                () = driver.idle() => {}
            }
            let report = driver.report(run).map_err(|error| error.to_string())?.ok_or("the run is gone")?;
            if report.status.needs_operator() && self.scenario.bystander && self.beside < BESIDE {
                self.stand_by(&driver).await?;
                continue;
            }
            if report.status == Status::Stuck && self.scenario.mends {
                self.world.mend();
                driver.resume(run, "test").await.map_err(|error| error.to_string())?;
                continue;
            }
            if let Some((run, reason)) = driver.unreadable().into_iter().next() {
                return Err(format!("run {run} cannot go on: {reason}"));
            }
            self.bystanders = (0..self.beside).map(|at| status(&driver, neighbour(at))).collect::<Result<_, _>>()?;
            return Ok(report);
        }
    }

    /// Asks for the first thing that is due and was not asked for; false when there is none.
    async fn ask_what_is_due(&mut self, driver: &Driver, commits: u64) -> bool {
        let mut due = self.scenario.commands.iter().enumerate();
        let due = due.find(|(at, (when, _))| *when <= commits && !self.asked.contains(at));
        let Some((at, (_, command))) = due else { return false };
        // A refusal is an answer.
        let is_accepted = match command {
            Command::Cancel => driver.cancel(FLOW, "test").await.is_ok(),
            Command::Undo => driver.request_undo(FLOW, "test").await.is_ok(),
            Command::Resume => driver.resume(self.run(), "test").await.is_ok(),
        };
        self.asked.insert(at);
        self.accepted.extend(is_accepted.then_some(at));
        self.while_hanging.extend((is_accepted && self.world.hangs()).then_some(at));
        true
    }

    /// Starts another run of the contractor.
    async fn stand_by(&mut self, driver: &Driver) -> Result<(), String> {
        let run = neighbour(self.beside);
        let id = (2 + self.beside).to_string();
        let inbox = Some(InboxKey { source: "/test".to_owned(), id });
        let new = NewRun {
            playbook: BYSTANDER.to_owned(),
            input: Value::Null,
            with: Commit { inbox, ..Commit::default() },
            ..self.new_run(run, run)
        };
        driver.submit(new).await.map_err(|error| error.to_string())?;
        self.beside += 1;
        Ok(())
    }

    fn parts(&self) -> Parts {
        let mut actions = Actions::default();
        for spec in &self.subject.specs {
            let fake = Fake {
                spec: spec.clone(),
                output: self.subject.outputs.get(spec.name).cloned().unwrap_or_else(|| json!({})),
                world: self.world.clone(),
                witness: self.witness.clone(),
                bug: self.subject.bug,
            };
            actions = actions.with_any(spec.clone(), Arc::new(fake));
        }
        Parts {
            journal: sabotage::journal(self.subject.bug, self.journal.clone()),
            actions,
            playbooks: self.subject.library.clone(),
            clock: Arc::new(PausedClock::new(self.now.clone())),
            hooks: Arc::new(Messages { handed: self.handed.clone(), refuses: self.scenario.refuses }),
        }
    }

    fn run(&self) -> Uuid {
        run_id("/test", "1", &self.subject.playbook)
    }

    fn new_run(&self, run: Uuid, flow: Uuid) -> NewRun {
        NewRun {
            run,
            flow,
            key: None,
            cause: "/test/1".to_owned(),
            playbook: self.subject.playbook.clone(),
            subject: Some("prod-k8s".to_owned()),
            input: self.subject.input.clone(),
            plan: None,
            trace: None,
            with: Commit {
                inbox: Some(InboxKey { source: "/test".to_owned(), id: "1".to_owned() }),
                ..Commit::default()
            },
        }
    }
}

/// A run beside the one under test.
fn neighbour(at: usize) -> Uuid {
    run_id("/test", &(2 + at).to_string(), BYSTANDER)
}

fn status(driver: &Driver, run: Uuid) -> Result<Status, String> {
    let report = driver.report(run).map_err(|error| error.to_string())?;
    report.map(|report| report.status).ok_or_else(|| format!("run {run} is gone"))
}

/// Wall-clock time that goes with tokio's paused time and on through all lives.
pub(super) struct PausedClock {
    base: Timestamp,
    started: Instant,
    latest: Arc<Mutex<Timestamp>>,
}

impl PausedClock {
    pub(super) fn new(latest: Arc<Mutex<Timestamp>>) -> Self {
        let base = *latest.lock().unwrap_or_else(PoisonError::into_inner);
        Self { base, started: Instant::now(), latest }
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        let now = self.base.saturating_add(self.started.elapsed()).unwrap_or(Timestamp::MAX);
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = now;
        now
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'_, ()> {
        let left = Duration::try_from(deadline.duration_since(self.base)).unwrap_or_default();
        Box::pin(tokio::time::sleep_until(self.started + left))
    }
}

/// Every message goes out as it is, and its id is remembered.
#[derive(Default)]
pub(super) struct Messages {
    handed: Arc<Mutex<BTreeSet<String>>>,
    /// Whether what a run hands over when it succeeds is refused.
    refuses: bool,
}

impl Hooks for Messages {
    fn outgoing(&self, happened: &Happened<'_>) -> Result<Vec<Outgoing>, Failure> {
        let message = |emission: &engine::report::Emission| Outgoing {
            id: emission.id.to_string(),
            lane: match emission.kind {
                EmissionKind::Handoff => Lane::Handoff,
                EmissionKind::Event => Lane::Event,
            },
            subject: emission.name.clone(),
            headers: std::collections::BTreeMap::new(),
            body: emission.body.to_string(),
        };
        if self.refuses && happened.after.status == Status::Succeeded && !happened.emissions.is_empty() {
            return Err(Failure::new("what it hands over does not fit its schema"));
        }
        let mut handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        handed.extend(happened.emissions.iter().map(|emission| emission.id.to_string()));
        Ok(happened.emissions.iter().map(message).collect())
    }
}
