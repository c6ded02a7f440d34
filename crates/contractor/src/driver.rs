//! The driver performs what the engine decides: it appends, acts, appends the result, and decides again.
//!
//! Each unfinished run has one task that owns its [`RunState`](engine::run::RunState); attempts are tasks of their own
//! that report back to it. The journal is whatever implements [`Journal`]: the store, or a fake in tests.

mod approval;
mod attempt;
mod limits;
mod locks;
mod orders;
mod plan;
mod ports;
mod recover;
mod row;
mod run;
mod stop;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use engine::{
    event::{Event, FORMAT, Opened},
    library::{Definition, Library},
    plan::Plan,
    playbook::OnFailure,
    report::Report,
    run::RunState,
};
pub(crate) use orders::does_not_go_on;
pub use plan::PlanError;
pub use ports::{Clock, Happened, Hooks, Journal, SystemClock, UnfinishedRun};
use serde_json::Value;
use store::{Commit, CommitError, Deed, ReadError};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, Span, info_span};
use uuid::Uuid;

use self::{
    limits::Limits,
    locks::Locks,
    recover::Unreadable,
    run::{Message, RunTask},
};
use crate::{action::Actions, audit};

/// What a driver works with; named by the composition root.
pub struct Parts {
    /// Where runs are recorded, together with what they change.
    pub journal: Arc<dyn Journal>,
    /// What steps can do.
    pub actions: Actions,
    /// The playbooks that new runs may name.
    pub playbooks: Library,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Who turns what happens into messages.
    pub hooks: Arc<dyn Hooks>,
}

/// A run to start.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// [`engine::event::run_id`] of source, message id and playbook.
    pub run: Uuid,
    /// The flow (correlation id) that it belongs to.
    pub flow: Uuid,
    /// The message that caused it, `ce-source/ce-id`.
    pub cause: String,
    /// The last 8 characters of the key that signed it, for the audit log; none where nobody did.
    pub key: Option<String>,
    /// The playbook's name.
    pub playbook: String,
    /// What it is about: the cluster's name, mostly.
    pub subject: Option<String>,
    /// The message's body, or what a trigger gives.
    pub input: Value,
    /// The approved plan, if it had to be approved.
    pub plan: Option<Approved>,
    /// The W3C trace that the message is part of, as 32 hex digits.
    pub trace: Option<String>,
    /// What commits together with the run's first entry: inbox row, replies. Its `run` and `definitions` are set here.
    pub with: Commit,
}

/// A plan that somebody consented to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approved {
    /// The hash that was shown and approved; it covers both contractors' parts.
    pub shown: String,
    /// The hash of this contractor's part, as [`Driver::plan`] makes it, where consent was needed: the run makes it again.
    pub own: Option<String>,
}

/// What became of a submitted run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// It is durable and on its way.
    New(Uuid),
    /// It was there: the message was redelivered.
    Known(Uuid),
}

/// Why a run was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// There is no such playbook.
    #[error("there is no playbook `{0}`")]
    NoPlaybook(String),
    /// The input does not fit the playbook.
    #[error("the input does not fit playbook `{playbook}`: {reason}")]
    Input {
        /// The playbook.
        playbook: String,
        /// What does not fit; no values.
        reason: String,
    },
    /// The store did not take it.
    #[error("the run could not be recorded")]
    Commit(#[source] CommitError),
    /// The store could not be read.
    #[error("the store could not be read")]
    Read(#[source] ReadError),
}

/// Why an operator's command had no effect.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such run or flow here.
    #[error("nothing known under {0}")]
    Unknown(Uuid),
    /// The run is not in a state for it.
    #[error("{0}")]
    Refused(String),
    /// The contractor stops: runs leave their tasks without having ended, and take it after the next start.
    #[error("the contractor is stopping; ask again when it has started")]
    Stopping,
    /// The store did not take it.
    #[error("it could not be recorded")]
    Commit(#[source] CommitError),
    /// The store could not be read.
    #[error("the store could not be read")]
    Read(#[source] ReadError),
}

/// Runs playbooks; a cheap clone.
#[derive(Clone)]
pub struct Driver {
    shared: Arc<Shared>,
}

/// What all runs share.
struct Shared {
    parts: Parts,
    locks: Locks,
    limits: Limits,
    /// Runs at work, paused or stuck.
    runs: Mutex<BTreeMap<Uuid, Handle>>,
    /// Runs whose journal cannot be read or written, with why. They keep the locks that they are known to hold.
    unreadable: Mutex<BTreeMap<Uuid, String>>,
    /// Pinned playbooks that are not the library's, by hash.
    restored: Mutex<BTreeMap<String, Arc<Definition>>>,
    /// How many runs are at work.
    busy: watch::Sender<usize>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// How to reach a run's task.
struct Handle {
    flow: Uuid,
    orders: mpsc::UnboundedSender<Message>,
    report: watch::Receiver<Arc<Report>>,
    busy: bool,
}

/// What a run would do, for a contractor that does not run: nothing is recovered or started.
///
/// # Errors
/// See [`PlanError`].
pub async fn plan_only(parts: &Parts, playbook: &str, input: &Value) -> Result<Plan, PlanError> {
    plan::plan(parts, playbook, Uuid::now_v7(), input).await
}

impl Driver {
    /// Starts it, and with it every unfinished run, of which there may be none.
    pub async fn start(parts: Parts) -> Result<Self, ReadError> {
        let driver = Self {
            shared: Arc::new(Shared {
                parts,
                locks: Locks::default(),
                limits: Limits::default(),
                runs: Mutex::default(),
                unreadable: Mutex::default(),
                restored: Mutex::default(),
                busy: watch::Sender::new(0),
                stop: CancellationToken::new(),
                tasks: TaskTracker::new(),
            }),
        };
        recover::resume_all(&driver.shared)?;
        Ok(driver)
    }

    /// Makes a run durable (with its inbox row and whatever else `with` holds) and sets it going.
    pub async fn submit(&self, new: NewRun) -> Result<Submitted, SubmitError> {
        let shared = &self.shared;
        let name = &new.playbook;
        let definition = shared.parts.playbooks.get(name).ok_or_else(|| SubmitError::NoPlaybook(name.clone()))?.clone();
        let refused = |reason| SubmitError::Input { playbook: name.clone(), reason };
        if let Some(reason) = definition.refuses(&new.input) {
            return Err(refused(reason));
        }
        let mut opened = Opened {
            format: FORMAT,
            run: new.run,
            flow: new.flow,
            cause: new.cause,
            playbook: name.clone(),
            version: definition.playbook.version,
            pins: definition.pins.clone(),
            subject: new.subject,
            input: new.input,
            locks: Vec::new(),
            on_failure: None,
            plan: new.plan.as_ref().map(|plan| plan.shown.clone()),
            own_plan: new.plan.and_then(|plan| plan.own),
            trace: new.trace,
            at: shared.parts.clock.now(),
        };
        opened.locks = definition.locks(&opened.input, &opened.about()).map_err(|error| refused(error.to_string()))?;
        if let OnFailure::Asked(_) = definition.playbook.on_failure {
            let asked = definition.playbook.on_failure.policy(&opened.input, &opened.about());
            opened.on_failure = Some(asked.map_err(refused)?);
        }
        let state = RunState::open(opened, definition.clone()).map_err(|error| refused(error.to_string()))?;
        match self.record(&state, &definition, new.key, new.with).await {
            Ok(()) => {}
            Err(CommitError::Duplicate { first, .. }) => return Ok(Submitted::Known(first.run.unwrap_or(new.run))),
            Err(CommitError::Sequence { .. }) => return Ok(Submitted::Known(new.run)),
            Err(error) => return Err(SubmitError::Commit(error)),
        }
        shared.set_going(state, None);
        Ok(Submitted::New(new.run))
    }

    /// The first entry of a run's journal, with everything that belongs to it.
    async fn record(
        &self,
        state: &RunState,
        definition: &Definition,
        key: Option<String>,
        with: Commit,
    ) -> Result<(), CommitError> {
        let (opened, report) = (state.opened(), state.report());
        let events = [Event::Opened(Box::new(opened.clone()))];
        let happened =
            Happened { run: opened, before: None, after: &report, events: &events, emissions: &[], domain: &[] };
        let texts = definition.texts().into_iter();
        let mut commit = Commit {
            run: Some(row::append(opened, 0, &events, &report)),
            definitions: texts
                .map(|(pin, text)| store::Definition { hash: pin.hash.clone(), text: text.to_owned() })
                .collect(),
            ..with
        };
        commit.audit.extend(audit::of_run(opened, &events).into_iter().map(|deed| Deed { key: key.clone(), ..deed }));
        match self.shared.parts.hooks.outgoing(&happened) {
            Ok(outgoing) => commit.outgoing.extend(outgoing),
            Err(error) => return Err(CommitError::Invalid(error.message)),
        }
        self.shared.parts.journal.commit(commit).await?;
        self.shared.parts.hooks.committed(&happened);
        Ok(())
    }

    /// What a run would do. Previews only look; they may reserve, with expiry, for `flow`.
    pub async fn plan(&self, playbook: &str, flow: Uuid, input: &Value) -> Result<Plan, PlanError> {
        plan::plan(&self.shared.parts, playbook, flow, input).await
    }

    /// How a run looks now, whether it is at work or long finished.
    pub fn report(&self, run: Uuid) -> Result<Option<Report>, ReadError> {
        if let Some(handle) = self.shared.runs().get(&run) {
            return Ok(Some(Report::clone(&handle.report.borrow())));
        }
        match recover::load(&self.shared, run) {
            Ok(state) => Ok(state.map(|state| state.report())),
            Err(Unreadable::Store(error)) => Err(error),
            Err(Unreadable::Journal(reason)) => Err(ReadError::Corrupt { key: format!("run {run}"), reason }),
        }
    }

    /// Every run at work, paused or stuck.
    pub fn active(&self) -> Vec<Arc<Report>> {
        self.shared.runs().values().map(|handle| handle.report.borrow().clone()).collect()
    }

    /// Runs that do not go on because their journal cannot be read or written, with why; an operator must look.
    pub fn unreadable(&self) -> BTreeMap<Uuid, String> {
        self.shared.unreadable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows a run that is at work; the channel closes when it ends.
    pub fn watch(&self, run: Uuid) -> Option<watch::Receiver<Arc<Report>>> {
        self.shared.runs().get(&run).map(|handle| handle.report.clone())
    }

    /// Resolves when no run is at work: all are finished, paused or stuck.
    pub async fn idle(&self) {
        // The sender lives as long as `self`.
        let _ = self.shared.busy.subscribe().wait_for(|busy| *busy == 0).await;
    }

    /// Stops: running attempts are told, and get `grace` to end; the rest is resumed at the next start.
    pub async fn shutdown(&self, grace: Duration) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(grace, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!("some attempts did not end in time; they are resumed at the next start");
        }
    }
}

impl Shared {
    /// Gives a run its task, with the first thing that it is told.
    fn set_going(self: &Arc<Self>, state: RunState, first: Option<Message>) {
        let opened = state.opened();
        let span = span(opened);
        let (myself, inbox) = mpsc::unbounded_channel();
        if let Some(first) = first {
            // The receiver is right here.
            let _ = myself.send(first);
        }
        let published = watch::Sender::new(Arc::new(state.report()));
        let report = published.subscribe();
        let handle = Handle { flow: opened.flow, orders: myself.clone(), report, busy: true };
        let mut runs = self.runs();
        if runs.contains_key(&opened.run) {
            return;
        }
        runs.insert(opened.run, handle);
        drop(runs);
        self.busy.send_modify(|busy| *busy += 1);
        let task = RunTask {
            shared: self.clone(),
            state,
            inbox,
            myself,
            published,
            in_hand: BTreeMap::new(),
            holds_locks: false,
            held_up: None,
            places: self.limits.places(),
            plan_holds: false,
            wake: None,
        };
        self.tasks.spawn(task.work().instrument(span));
    }

    fn active_of(&self, flow: Uuid) -> Vec<Uuid> {
        self.runs().iter().filter(|(_, handle)| handle.flow == flow).map(|(run, _)| *run).collect()
    }

    fn note_unreadable(&self, run: Uuid, reason: String) {
        tracing::error!(%run, reason, "a run does not go on: its journal cannot be read or written");
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).insert(run, reason);
    }

    fn is_set_aside(&self, run: Uuid) -> bool {
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&run)
    }

    fn set_busy(&self, run: Uuid, busy: bool) {
        let changed = self.runs().get_mut(&run).is_some_and(|it| std::mem::replace(&mut it.busy, busy) != busy);
        if changed {
            self.busy.send_modify(|count| if busy { *count += 1 } else { *count -= 1 });
        }
    }

    fn forget(&self, run: Uuid) {
        let forgotten = self.runs().remove(&run);
        // Whoever hears that nothing is at work finds it gone.
        if forgotten.is_some_and(|handle| handle.busy) {
            self.busy.send_modify(|busy| *busy -= 1);
        }
    }

    fn runs(&self) -> MutexGuard<'_, BTreeMap<Uuid, Handle>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The span that everything of a run is logged in.
fn span(opened: &Opened) -> Span {
    info_span!("run", run = %opened.run, flow = %opened.flow, playbook = %opened.playbook)
}
