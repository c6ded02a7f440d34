//! A driver over a real store, with one action that does what its step's input says and a clock that can be set.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use contractor::{
    action::{Action, Actions, Change, Done, Effects, PreviewContext, StepContext, StepError},
    driver::{Approved, Clock, Driver, Happened, Hooks, Journal, NewRun, Parts, Submitted, UnfinishedRun},
};
use engine::{
    catalog::Undo,
    event::{Failure, run_id},
    library::{Library, World},
    report::{Report, Status},
};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{
    Commit, CommitError, Committed, InboxKey, InventoryChange, Outgoing, ReadError, Reader, RunQuery, RunRow, Store,
};
use tempfile::TempDir;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);

/// What outlives the process: the disk, the world, the time.
pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    pub(crate) world: Arc<Outside>,
    pub(crate) clock: SetClock,
    pub(crate) spoilt: Spoilt,
}

/// The run that cannot be recorded any more, if any.
type Spoilt = Arc<Mutex<Option<Uuid>>>;

/// One life of a contractor.
pub(crate) struct Life {
    pub(crate) driver: Driver,
    pub(crate) store: Store,
}

/// The world that actions change.
#[derive(Default)]
pub(crate) struct Outside {
    /// Everything that was done, in order.
    log: Mutex<Vec<String>>,
    /// Steps that may go on.
    open: Mutex<BTreeSet<String>>,
}

impl Outside {
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn open(&self, step: &str) {
        self.open.lock().unwrap().insert(step.to_owned());
    }

    fn is_open(&self, step: &str) -> bool {
        self.open.lock().unwrap().contains(step)
    }

    fn note(&self, what: String) {
        self.log.lock().unwrap().push(what);
    }
}

/// The machine's clock, some hours off.
#[derive(Clone, Default)]
pub(crate) struct SetClock(Arc<AtomicI64>);

impl SetClock {
    pub(crate) fn advance(&self, hours: i64) {
        self.0.fetch_add(hours, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::now() + SignedDuration::from_hours(self.0.load(Ordering::SeqCst))
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            while self.now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, world: Arc::default(), clock: SetClock::default(), spoilt: Arc::default() }
    }

    /// Writes nonsense over a row of the store, which is closed.
    pub(crate) fn damage(&self, key: &str) {
        let data = sled::Config::new().path(self.folder.path().join("store/data-1")).segment_size(4 << 20);
        let db = data.open().unwrap();
        assert!(db.insert(key, b"nonsense").unwrap().is_some(), "there is no {key}");
        db.flush().unwrap();
    }

    /// The process starts, with these playbooks.
    pub(crate) async fn start(&self, playbooks: &[&str]) -> Life {
        let store = open(&self.folder.path().join("store"));
        let actions = Actions::default().with(Act(self.world.clone()));
        let files: Vec<_> = playbooks.iter().map(|text| ("p.yaml".to_owned(), (*text).to_owned())).collect();
        let world = World { catalog: &actions, messages: &|_, _| Some(json!(true)), conditions: &[] };
        let playbooks = Library::load(&files, &world).unwrap_or_else(|problems| panic!("{problems}"));
        let parts = Parts {
            journal: Arc::new(Recorder { store: store.clone(), spoilt: self.spoilt.clone() }),
            actions,
            playbooks,
            clock: Arc::new(self.clock.clone()),
            hooks: Arc::new(Silent),
        };
        Life { driver: Driver::start(parts).await.unwrap(), store }
    }
}

fn open(path: &Path) -> Store {
    Store::open(path, store::Options { min_free_bytes: 0, ..store::Options::default() }).unwrap()
}

impl Life {
    /// A message comes and starts a run of the playbook; the same message, if it came before.
    pub(crate) async fn submit(&self, message: &str, playbook: &str, input: Value) -> Uuid {
        self.submit_approved(message, playbook, input, None).await
    }

    pub(crate) async fn submit_approved(
        &self,
        message: &str,
        playbook: &str,
        input: Value,
        plan: Option<Approved>,
    ) -> Uuid {
        let run = run_id("/test", message, playbook);
        let new = NewRun {
            run,
            flow: flow(message),
            key: None,
            cause: format!("/test/{message}"),
            playbook: playbook.to_owned(),
            subject: Some("prod".to_owned()),
            input,
            plan,
            trace: None,
            with: Commit {
                inbox: Some(InboxKey { source: "/test".to_owned(), id: message.to_owned() }),
                ..Commit::default()
            },
        };
        match self.driver.submit(new).await.unwrap() {
            Submitted::New(run) | Submitted::Known(run) => run,
        }
    }

    /// How the run looks once it is as it is wanted.
    pub(crate) async fn until(&self, run: Uuid, wanted: impl Fn(&Report) -> bool) -> Report {
        let looked = async {
            loop {
                let report = self.driver.report(run).unwrap().unwrap();
                if wanted(&report) {
                    return report;
                }
                match self.driver.watch(run) {
                    Some(mut watched) => drop(tokio::time::timeout(Duration::from_millis(50), watched.changed()).await),
                    None => tokio::task::yield_now().await,
                }
            }
        };
        match tokio::time::timeout(PATIENCE, looked).await {
            Ok(report) => report,
            Err(_) => panic!("still: {:#?}", self.driver.report(run).unwrap()),
        }
    }

    pub(crate) async fn until_status(&self, run: Uuid, status: Status) -> Report {
        self.until(run, |report| report.status == status).await
    }

    /// The process ends in order.
    pub(crate) async fn stop(self) {
        self.driver.shutdown(Duration::from_secs(20)).await;
        drop(self.driver);
        self.store.close().await;
    }
}

pub(crate) fn flow(message: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, message.as_bytes())
}

/// Does what its input says.
struct Act(Arc<Outside>);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Input {
    /// What to do.
    #[serde(default)]
    what: What,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
enum What {
    /// At once.
    #[default]
    Make,
    /// When the step is opened; ends early when it is cancelled.
    Hold,
    /// The same, without listening to a cancel: it is in the middle of something.
    Deaf,
    /// There is no room until the step is opened.
    Room,
    /// The world is not ready until the step is opened.
    Wait,
    /// The same, and it is looked at once an hour.
    Later,
    /// Makes a value durable, then holds.
    Checkpoint,
    /// Writes what an older look said, then what a fresh one says.
    Conflict,
    /// Fails for good until the step is opened.
    Fail,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Output {
    step: String,
}

impl Action for Act {
    const NAME: &'static str = "act";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let soon = Duration::from_millis(10);
        let is_open = self.0.is_open(&cx.step);
        match input.what {
            What::Make => {}
            What::Hold => self.hold(cx, true).await?,
            What::Deaf => self.hold(cx, false).await?,
            What::Room if !is_open => return Err(StepError::no_capacity("no room", soon)),
            What::Wait if !is_open => return Err(StepError::wait("not ready", soon)),
            What::Later if !is_open => return Err(StepError::wait("not ready", Duration::from_secs(3_600))),
            What::Fail if !is_open => return Err(StepError::fail("not possible").with_hint("open it")),
            What::Room | What::Wait | What::Later | What::Fail => {}
            What::Checkpoint => {
                if cx.last_checkpoint.is_none() {
                    cx.checkpoint(json!({"upid": cx.step})).await?;
                }
                self.0.note(format!("{} checkpoint {}", cx.step, cx.last_checkpoint.is_some()));
                self.hold(cx, true).await?;
            }
            What::Conflict => return self.conflict(cx),
        }
        self.0.note(format!("make {}", cx.step));
        Ok(done(cx, InventoryChange::put(format!("made/{}", cx.step), json!(cx.attempt))))
    }

    async fn find(&self, cx: &StepContext, _: &Input) -> Result<Option<Done<Output>>, StepError> {
        self.0.note(format!("find {}", cx.step));
        Ok(None)
    }

    async fn undo(&self, cx: &StepContext, _: &Input, _: Option<&Output>) -> Result<Effects, StepError> {
        self.0.note(format!("undo {}", cx.step));
        let change = InventoryChange::delete(format!("made/{}", cx.step));
        Ok(Effects { inventory: vec![change], ..Effects::default() })
    }

    async fn preview(&self, cx: &PreviewContext, _: &Value) -> Result<Vec<Change>, StepError> {
        let seen = cx.read::<Value>("made/other").map_err(|error| StepError::fail(error.to_string()))?;
        let object = format!("beside {}", seen.is_some());
        Ok(vec![Change { verb: "make".to_owned(), object, details: [].into(), destroys: false }])
    }
}

impl Act {
    async fn hold(&self, cx: &StepContext, listens: bool) -> Result<(), StepError> {
        self.0.note(format!("hold {}", cx.step));
        while !self.0.is_open(&cx.step) {
            if listens && cx.cancelled.is_cancelled() {
                return Err(StepError::retry("told to stop"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// The first time it says what it saw before somebody else wrote.
    fn conflict(&self, cx: &StepContext) -> Result<Done<Output>, StepError> {
        let read = |error: store::ReadError| StepError::fail(error.to_string());
        let seen = cx.store.get::<Value>("made/other").map_err(read)?.map_or(0, |found| found.revision);
        let first = !self.0.log().iter().any(|what| what.starts_with("conflict"));
        self.0.note(format!("conflict {}", cx.attempt));
        let revision = if first { seen + 1_000 } else { seen };
        Ok(done(cx, InventoryChange::update("made/other", revision, json!("mine"))))
    }
}

fn done(cx: &StepContext, change: InventoryChange) -> Done<Output> {
    let effects = Effects { inventory: vec![change], ..Effects::default() };
    Done::with_effects(Output { step: cx.step.clone() }, effects)
}

/// The store, but for what is spoilt.
struct Recorder {
    store: Store,
    spoilt: Spoilt,
}

impl Journal for Recorder {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, CommitError>> {
        let run = commit.run.as_ref().map(|append| append.run);
        if run.is_some() && run == *self.spoilt.lock().unwrap() {
            return Box::pin(async { Err(CommitError::Damaged("the run's row".to_owned())) });
        }
        Journal::commit(&self.store, commit)
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

    fn unfinished(&self) -> Result<Vec<UnfinishedRun>, ReadError> {
        Journal::unfinished(&self.store)
    }

    fn first_event(&self, run: Uuid) -> Result<Option<Value>, ReadError> {
        Journal::first_event(&self.store, run)
    }

    fn definition(&self, hash: &str) -> Result<Option<String>, ReadError> {
        Journal::definition(&self.store, hash)
    }

    fn reader(&self) -> Reader {
        Journal::reader(&self.store)
    }
}

/// Makes no messages.
struct Silent;

impl Hooks for Silent {
    fn outgoing(&self, _: &Happened<'_>) -> Result<Vec<Outgoing>, Failure> {
        Ok(Vec::new())
    }
}
