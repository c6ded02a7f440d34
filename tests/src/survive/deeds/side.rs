//! One contractor's side: its real actions on a real store, with a process of its own that can die.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use contractor::{
    action::Actions,
    driver::{Clock, Driver, Happened, Hooks, Journal, NewRun, Parts, SystemClock},
    runtime::message_schema,
};
use engine::{
    event::Failure,
    library::{Library, World as Checked},
    plan::Plan,
    report::{Report, Status},
};
use futures::future::BoxFuture;
use serde_json::Value;
use store::{Commit, CommitError, Committed, Outgoing, ReadError, Reader, RunQuery, RunRow, Store};
use tokio::{runtime::Runtime, sync::Notify};
use uuid::Uuid;

use super::trouble::Trouble;

/// No run of a small cluster takes longer.
const PATIENCE: Duration = Duration::from_secs(240);

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

/// When the process dies: at the commit that makes this zero.
#[derive(Default)]
struct Death {
    commits_left: AtomicU64,
    died: Notify,
}

impl Side {
    /// A contractor with these actions and playbooks.
    ///
    /// # Errors
    /// If a playbook is wrong, or it does not start.
    pub fn start(store: Store, actions: &Actions, playbooks: &[(String, String)]) -> anyhow::Result<Self> {
        Self::start_by(Arc::new(SystemClock), store, actions, playbooks)
    }

    /// The same by another clock.
    ///
    /// # Errors
    /// See [`start`](Self::start).
    pub fn start_by(
        clock: Arc<dyn Clock>,
        store: Store,
        actions: &Actions,
        playbooks: &[(String, String)],
    ) -> anyhow::Result<Self> {
        let trouble = Trouble::default();
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

    /// The same, with the process dying at the commit of that number.
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub fn run_through_death(&mut self, playbook: &str, input: &Value, commit: u64) -> anyhow::Result<Report> {
        let run = self.submit(playbook, input)?;
        self.death.commits_left.store(commit, Ordering::SeqCst);
        let death = self.death.clone();
        let (runtime, driver) = self.life.as_ref().context("it lives")?;
        runtime.block_on(async {
            let idle = async {
                driver.idle().await;
            };
            tokio::select! {
                () = death.died.notified() => {}
                () = idle => {}
            }
        });
        death.commits_left.store(0, Ordering::SeqCst);
        self.die();
        self.live()?;
        self.rest(run)
    }

    /// The same, cancelled while the step is at work.
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub fn run_and_cancel(&self, playbook: &str, input: &Value, step: &str) -> anyhow::Result<Report> {
        self.trouble.watch(step);
        let run = self.submit(playbook, input)?;
        let (runtime, driver) = self.life.as_ref().context("it lives")?;
        runtime.block_on(async {
            tokio::time::timeout(PATIENCE, self.trouble.reached()).await.context("the step does not start")?;
            driver.cancel(run, "test").await.context("it cannot be cancelled")
        })?;
        let report = self.rest(run);
        self.trouble.clear();
        report
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

    /// Everything that it believes of its world, by key; checksums of shared images are left out.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn beliefs(&self) -> anyhow::Result<Vec<String>> {
        let reader = self.store.reader();
        let keys = reader.keys("")?.into_iter().map(|(key, _)| key).filter(|key| !key.starts_with("image/"));
        let secrets = reader.secret_names("")?.into_iter().map(|(name, _)| format!("secret {name}"));
        Ok(keys.chain(secrets).collect())
    }

    /// Runs something on the contractor's own threads.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> anyhow::Result<T> {
        let (runtime, _) = self.life.as_ref().context("it lives")?;
        Ok(runtime.block_on(work))
    }

    fn live(&mut self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let parts = Parts {
            journal: Arc::new(Mortal { store: self.store.clone(), death: self.death.clone() }),
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

/// The store, until the process dies at a commit: that commit is durable, and nobody hears of it.
struct Mortal {
    store: Store,
    death: Arc<Death>,
}

impl Journal for Mortal {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, CommitError>> {
        Box::pin(async move {
            let count = |left: u64| left.checked_sub(1);
            let before = self.death.commits_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count);
            let committed = self.store.commit(commit).await;
            if before == Ok(1) {
                self.death.died.notify_one();
                return std::future::pending().await;
            }
            committed
        })
    }

    fn events(&self, run: Uuid) -> Result<Vec<Value>, ReadError> {
        Journal::events(&self.store, run)
    }

    fn row(&self, run: Uuid) -> Result<Option<RunRow>, ReadError> {
        Journal::row(&self.store, run)
    }

    fn rows(&self, query: &RunQuery) -> Result<Vec<RunRow>, ReadError> {
        Journal::rows(&self.store, query)
    }

    fn definition(&self, hash: &str) -> Result<Option<String>, ReadError> {
        Journal::definition(&self.store, hash)
    }

    fn reader(&self) -> Reader {
        Journal::reader(&self.store)
    }
}

/// Keeps what playbooks emit; makes no messages.
struct Recorder(Emitted);

impl Hooks for Recorder {
    fn outgoing(&self, _: &Happened<'_>) -> Result<Vec<Outgoing>, Failure> {
        Ok(Vec::new())
    }

    fn committed(&self, happened: &Happened<'_>) {
        let emissions = happened.emissions.iter().map(|emission| (emission.name.clone(), emission.body.clone()));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(emissions);
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
