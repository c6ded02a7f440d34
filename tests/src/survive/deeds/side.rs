//! One contractor's side: its real actions on a real store, with a process of its own that can die.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use contractor::{
    action::Actions,
    driver::{Clock, Driver, Happened, Hooks, NewRun, Parts, SystemClock},
    runtime::message_schema,
};
use engine::{
    event::Failure,
    library::{Library, World as Checked},
    plan::Plan,
    report::{Report, Status, StepStatus},
};
use serde_json::Value;
use store::{Commit, Outgoing, Store};
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::{
    super::path::levels,
    death::{Death, Hour, Last, Mortal},
    trouble::Trouble,
};

/// No run of a small cluster takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// One contractor.
pub struct Side {
    /// Its store.
    pub store: Store,
    /// What happens to its actions.
    pub trouble: Trouble,
    actions: Actions,
    library: Library,
    clock: Arc<dyn Clock>,
    emitted: Emitted,
    death: Arc<Death>,
    life: Option<(Runtime, Driver)>,
}

type Emitted = Arc<Mutex<Vec<(String, Value)>>>;

impl Side {
    /// A contractor with these actions and playbooks, in this trouble.
    ///
    /// # Errors
    /// If a playbook is wrong, or it does not start.
    pub fn start(
        trouble: Trouble,
        store: Store,
        actions: &Actions,
        playbooks: &[(String, String)],
    ) -> anyhow::Result<Self> {
        Self::start_by(Arc::new(SystemClock), trouble, store, actions, playbooks)
    }

    /// The same by another clock.
    ///
    /// # Errors
    /// See [`start`](Self::start).
    pub fn start_by(
        clock: Arc<dyn Clock>,
        trouble: Trouble,
        store: Store,
        actions: &Actions,
        playbooks: &[(String, String)],
    ) -> anyhow::Result<Self> {
        let actions = trouble.with(actions);
        let checked = Checked {
            catalog: &actions,
            conditions: talos_contractor::background::CONDITIONS,
            messages: &message_schema,
        };
        let library = Library::load(playbooks, &checked).map_err(|problems| anyhow::anyhow!("{problems}"))?;
        let (emitted, death) = (Emitted::default(), Arc::default());
        let mut side = Self { store, trouble, actions, library, clock, emitted, death, life: None };
        side.live()?;
        Ok(side)
    }

    /// What the playbook would do.
    ///
    /// # Errors
    /// Why there is no plan.
    pub fn plan(&self, playbook: &str, input: &Value) -> anyhow::Result<Plan> {
        let (runtime, driver) = self.life.as_ref().context("it lives")?;
        runtime.block_on(driver.plan(playbook, Uuid::new_v4(), input)).with_context(|| format!("plan of {playbook}"))
    }

    /// Runs the playbook until it comes to rest; returns its flow with how it looks then.
    ///
    /// # Errors
    /// If it is refused or does not come to rest.
    pub fn run(&self, playbook: &str, input: &Value) -> anyhow::Result<Report> {
        let run = self.submit(playbook, input)?;
        self.rest(run)
    }

    /// The same, with the process dying at that hour; whether it did.
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub fn run_through_death(
        &mut self,
        playbook: &str,
        input: &Value,
        hour: impl Into<Hour>,
        last: Last,
    ) -> anyhow::Result<(Report, bool)> {
        self.death.come_at(hour.into(), last);
        let (mut buried, run) = (self.death.count(), self.submit(playbook, input));
        let before = buried;
        while run.is_ok() && self.dies(buried)? {
            buried += 1;
            self.die();
            self.live()?;
        }
        self.death.stay_away();
        Ok((self.rest(run?)?, buried > before))
    }

    /// Whether it dies once more before it comes to rest.
    fn dies(&self, buried: u64) -> anyhow::Result<bool> {
        let (runtime, driver) = self.life.as_ref().context("it lives")?;
        let end = async {
            tokio::select! {
                biased;
                () = self.death.follows(buried) => true,
                () = driver.idle() => false,
            }
        };
        // What does not come to rest is complained of by whoever waits for that.
        Ok(runtime.block_on(async { tokio::time::timeout(PATIENCE, end).await }).unwrap_or_default())
    }

    /// The same, cancelled while the step is at work.
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub fn run_and_cancel(&self, playbook: &str, input: &Value, step: &str) -> anyhow::Result<Report> {
        self.trouble.watch(step);
        let run = self.submit(playbook, input)?;
        let (runtime, driver) = self.life.as_ref().context("it lives")?;
        let cancelled = match self.is_reached()? {
            true => runtime.block_on(driver.cancel(run, "test")).map(drop).context("it cannot be cancelled"),
            false => Err(anyhow::anyhow!("the step does not start")),
        };
        let report = cancelled.and_then(|()| self.rest(run));
        self.trouble.clear();
        report
    }

    /// Whether a watched step comes to be at work before all is at rest.
    fn is_reached(&self) -> anyhow::Result<bool> {
        let (runtime, driver) = self.life.as_ref().context("it lives")?;
        let reached = async {
            tokio::select! {
                biased;
                () = self.trouble.reached() => true,
                () = driver.idle() => false,
            }
        };
        Ok(runtime.block_on(async { tokio::time::timeout(PATIENCE, reached).await })?)
    }

    /// The same, cancelled while the first attempt of each step is at work; it goes on each time, or another run does where
    /// it has ended. Returns how the last one looks, and which steps were cancelled.
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub fn run_and_cancel_each(&self, playbook: &str, input: &Value) -> anyhow::Result<(Report, BTreeSet<String>)> {
        self.trouble.watch_each();
        let ended = self.cancel_each(playbook, input);
        let watched = self.trouble.watched();
        self.trouble.clear();
        Ok((ended?, watched))
    }

    fn cancel_each(&self, playbook: &str, input: &Value) -> anyhow::Result<Report> {
        let (runtime, driver) = self.life.as_ref().context("it lives")?;
        let mut run = self.submit(playbook, input)?;
        loop {
            if self.is_reached()? {
                runtime.block_on(driver.cancel(run, "test")).context("it cannot be cancelled")?;
            }
            let report = self.rest(run)?;
            match report.status {
                Status::Paused => runtime.block_on(driver.resume(run, "test"))?,
                Status::Cancelled => run = self.submit(playbook, input)?,
                _ => return Ok(report),
            }
        }
    }

    /// Takes back a run that succeeded.
    ///
    /// # Errors
    /// If it is refused or does not come to rest.
    pub fn undo(&self, report: &Report) -> anyhow::Result<Report> {
        let (runtime, driver) = self.life.as_ref().context("it lives")?;
        runtime.block_on(driver.request_undo(report.flow, "test"))?;
        self.rest(report.run)
    }

    /// Lets a paused run go on until it rests again.
    ///
    /// # Errors
    /// If it is refused or does not come to rest.
    pub fn resume(&self, report: &Report) -> anyhow::Result<Report> {
        let (runtime, driver) = self.life.as_ref().context("it lives")?;
        runtime.block_on(driver.resume(report.run, "test"))?;
        self.rest(report.run)
    }

    /// The body of the last message of that name that a playbook emitted.
    ///
    /// # Errors
    /// If there is none.
    pub fn last(&self, name: &str) -> anyhow::Result<Value> {
        let emitted = self.emitted.lock().unwrap_or_else(PoisonError::into_inner);
        let found = emitted.iter().rev().find(|(own, _)| own == name);
        found.map(|(_, body)| body.clone()).with_context(|| format!("no {name} was emitted"))
    }

    /// Everything that it believes of its world, by key; secrets by name, without what is in them.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn beliefs(&self) -> anyhow::Result<BTreeMap<String, Value>> {
        let reader = self.store.reader();
        let values = reader.scan("")?.into_iter().map(|entry| (entry.key, entry.value));
        let secrets = reader.secret_names("")?.into_iter().map(|(name, _)| (format!("secret {name}"), Value::Null));
        Ok(values.chain(secrets).collect())
    }

    /// Whether something in the playbook cannot be taken back.
    pub fn is_irreversible(&self, playbook: &str) -> bool {
        self.library.get(playbook).is_some_and(|definition| definition.is_irreversible())
    }

    /// The playbooks that a run has called.
    pub fn called(&self, report: &Report) -> BTreeSet<String> {
        let Some(definition) = self.library.get(&report.playbook) else { return BTreeSet::new() };
        let done = report.steps.iter().filter(|step| step.status == StepStatus::Succeeded);
        let levels = done.flat_map(|step| levels(definition, &step.step).into_iter().skip(1));
        levels.map(|level| level.definition.playbook.name.value.clone()).collect()
    }

    /// What its runs have written, commit by commit: kinds of entries with their steps. It is forgotten then.
    pub fn commits(&self) -> Vec<Vec<String>> {
        self.death.commits()
    }

    /// Runs something on the contractor's own threads.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> anyhow::Result<T> {
        let (runtime, _) = self.life.as_ref().context("it lives")?;
        Ok(runtime.block_on(work))
    }

    fn live(&mut self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let parts = Parts {
            journal: Arc::new(Mortal::new(self.store.clone(), self.death.clone())),
            actions: self.actions.clone(),
            playbooks: self.library.clone(),
            clock: self.clock.clone(),
            hooks: Arc::new(Recorder(self.emitted.clone())),
        };
        let driver = runtime.block_on(Driver::start(parts))?;
        self.life = Some((runtime, driver));
        Ok(())
    }

    fn die(&mut self) {
        if let Some((runtime, _)) = self.life.take() {
            // Every task ends where it stands; calls that are on the wire are answered to nobody.
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }

    fn submit(&self, playbook: &str, input: &Value) -> anyhow::Result<Uuid> {
        let run = Uuid::new_v4();
        let new = NewRun {
            run,
            flow: run,
            key: None,
            cause: format!("/test/{run}"),
            playbook: playbook.to_owned(),
            subject: Some("prod".to_owned()),
            input: input.clone(),
            plan: None,
            trace: None,
            with: Commit::default(),
        };
        let (runtime, driver) = self.life.as_ref().context("it lives")?;
        runtime.block_on(driver.submit(new)).with_context(|| format!("{playbook} is refused"))?;
        Ok(run)
    }

    fn rest(&self, run: Uuid) -> anyhow::Result<Report> {
        let (runtime, driver) = self.life.as_ref().context("it lives")?;
        let idle = runtime.block_on(async { tokio::time::timeout(PATIENCE, driver.idle()).await });
        let report = driver.report(run)?.context("the run is gone")?;
        if idle.is_err()
            || matches!(report.status, Status::Pending | Status::Running | Status::Waiting | Status::Undoing)
        {
            bail!("{} does not come to rest: {:?}, {:?}", report.playbook, report.status, report.waits_for);
        }
        Ok(report)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.die();
    }
}

/// Keeps what playbooks emit, as a process that dies of that commit tells nobody; makes no messages.
struct Recorder(Emitted);

impl Hooks for Recorder {
    fn outgoing(&self, happened: &Happened<'_>) -> Result<Vec<Outgoing>, Failure> {
        let emissions = happened.emissions.iter().map(|emission| (emission.name.clone(), emission.body.clone()));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(emissions);
        Ok(Vec::new())
    }
}

/// Opens a store of its own below `folder`.
///
/// # Errors
/// If it cannot.
pub fn store(folder: &Path, name: &str) -> anyhow::Result<Store> {
    let key_file = folder.join(format!("{name}.age"));
    store::create_key_file(&key_file)?;
    let options = store::Options { key_file: Some(key_file), ..store::Options::default() };
    Ok(Store::open(&folder.join(name), options)?)
}
