//! Actions that are held at work until somebody tells them how to end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use contractor::action::{Actions, AnyAction, Change, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::{ActionSpec, Undo};
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    Subject,
    journal::MemoryJournal,
    machine::{lock, output},
    witness::Witness,
};

/// How often the engine tries an undo at least.
const UNDO_ATTEMPTS: usize = 5;

/// How a held attempt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Well.
    Ok,
    /// Well, but nobody hears of it.
    LoseReply,
    /// Not at all.
    Fail,
}

/// Every attempt at work, and the world that they change; a cheap clone.
#[derive(Clone)]
pub struct Gate {
    journal: MemoryJournal,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    is_open: bool,
    held: BTreeMap<(Uuid, String), oneshot::Sender<Verdict>>,
    objects: BTreeSet<(Uuid, String)>,
    /// How often each undo did not end well.
    failed_undos: BTreeMap<(Uuid, String), usize>,
    witnesses: BTreeMap<Uuid, Witness>,
}

impl Gate {
    /// One that holds everybody, for runs that are recorded in `journal`.
    pub fn new(journal: MemoryJournal) -> Self {
        Self { journal, state: Arc::default() }
    }

    /// Holds nobody any more.
    pub fn open(&self) {
        let mut state = lock(&self.state);
        state.is_open = true;
        for (_, held) in std::mem::take(&mut state.held) {
            // Whoever was held may be gone.
            let _ = held.send(Verdict::Ok);
        }
    }

    /// The process died, and with it everybody who was held.
    pub fn forget(&self) {
        lock(&self.state).held.clear();
    }

    /// Tells one of those that are held how to end.
    pub fn tell(&self, at: usize, verdict: Verdict) {
        let mut state = lock(&self.state);
        let chosen = state.held.keys().cycle().nth(at).cloned();
        if let Some(held) = chosen.and_then(|key| state.held.remove(&key)) {
            let _ = held.send(verdict);
        }
    }

    /// Runs of which somebody is held.
    pub fn runs_at_work(&self) -> BTreeSet<Uuid> {
        lock(&self.state).held.keys().map(|(run, _)| *run).collect()
    }

    /// What a run has made and not taken back.
    pub fn objects(&self, run: Uuid) -> BTreeSet<String> {
        let state = lock(&self.state);
        state.objects.iter().filter(|(of, _)| *of == run).map(|(_, step)| step.clone()).collect()
    }

    /// Whether an undo of the run was told to fail, or did not end well as often as it is tried.
    pub fn has_failed_undo(&self, run: Uuid) -> bool {
        lock(&self.state).failed_undos.iter().any(|((of, _), times)| *of == run && *times >= UNDO_ATTEMPTS)
    }

    /// Promises of the driver that were broken.
    pub fn broken(&self) -> Vec<String> {
        lock(&self.state).witnesses.values().flat_map(Witness::broken).collect()
    }

    /// The actions of the subjects, held.
    pub fn actions(&self, subjects: &[Subject]) -> Actions {
        let specs = subjects.first().map(|subject| subject.specs.clone()).unwrap_or_default();
        let by_name: BTreeMap<_, _> =
            subjects.iter().map(|subject| (subject.playbook.clone(), subject.clone())).collect();
        let held = |actions: Actions, spec: ActionSpec| {
            let action = Held { spec: spec.clone(), gate: self.clone(), subjects: by_name.clone() };
            actions.with_any(spec, Arc::new(action))
        };
        specs.into_iter().fold(Actions::default(), held)
    }
}

/// An undo that does not end well, unless it is told to; one that is held for too long is dropped.
struct Failing {
    gate: Gate,
    undo: (Uuid, String),
    times: usize,
}

impl Drop for Failing {
    fn drop(&mut self) {
        *lock(&self.gate.state).failed_undos.entry(self.undo.clone()).or_default() += self.times;
    }
}

struct Held {
    spec: ActionSpec,
    gate: Gate,
    subjects: BTreeMap<String, Subject>,
}

impl Held {
    async fn verdict(&self, cx: &StepContext) -> Verdict {
        let (tell, told) = oneshot::channel();
        {
            let mut state = lock(&self.gate.state);
            if state.is_open {
                return Verdict::Ok;
            }
            state.held.insert((cx.run, cx.step.clone()), tell);
        }
        match told.await {
            Ok(verdict) => verdict,
            // The process died, and this with it.
            Err(_) => std::future::pending().await,
        }
    }

    fn witness(&self, cx: &StepContext) -> Option<Witness> {
        let opened = self.gate.journal.look(cx.run, |events| events.first().cloned())?;
        let definition = self.subjects.get(opened["playbook"].as_str()?)?.definition().clone();
        let mut state = lock(&self.gate.state);
        let new = || Witness::new(definition, self.gate.journal.clone());
        Some(state.witnesses.entry(cx.run).or_insert_with(new).clone())
    }

    fn change(&self, cx: &StepContext, undo: bool) {
        let mut state = lock(&self.gate.state);
        let object = (cx.run, cx.step.clone());
        if undo {
            state.objects.remove(&object);
        } else if self.spec.undo != Undo::Nothing {
            state.objects.insert(object);
        }
    }

    async fn act(&self, cx: &StepContext, undo: bool, input: &Value) -> Result<(), StepError> {
        let objects = self.gate.objects(cx.run);
        let _at_work = self.witness(cx).map(|witness| witness.enter(cx, undo, input, &objects));
        let mut failing = undo.then(|| Failing { gate: self.gate.clone(), undo: (cx.run, cx.step.clone()), times: 1 });
        match self.verdict(cx).await {
            Verdict::Ok => {
                self.change(cx, undo);
                if let Some(failing) = &mut failing {
                    failing.times = 0;
                }
                Ok(())
            }
            Verdict::LoseReply => {
                self.change(cx, undo);
                Err(StepError::retry("the reply was lost"))
            }
            Verdict::Fail => {
                if let Some(failing) = &mut failing {
                    failing.times = UNDO_ATTEMPTS;
                }
                Err(StepError::fail("it is not possible"))
            }
        }
    }

    fn done(&self, cx: &StepContext) -> Done<Value> {
        Done::new(output(&self.spec.output, &cx.step))
    }
}

impl AnyAction for Held {
    fn run<'a>(&'a self, cx: &'a StepContext, input: &'a Value) -> BoxFuture<'a, Result<Done<Value>, StepError>> {
        Box::pin(async move {
            self.act(cx, false, input).await?;
            Ok(self.done(cx))
        })
    }

    fn find<'a>(&'a self, cx: &'a StepContext, _: &'a Value) -> BoxFuture<'a, Result<Option<Done<Value>>, StepError>> {
        Box::pin(async move { Ok(self.gate.objects(cx.run).contains(&cx.step).then(|| self.done(cx))) })
    }

    fn undo<'a>(
        &'a self,
        cx: &'a StepContext,
        input: &'a Value,
        _: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<Effects, StepError>> {
        Box::pin(async move {
            self.act(cx, true, input).await?;
            Ok(Effects::default())
        })
    }

    fn limits(&self, _: &Value) -> Vec<(String, usize)> {
        Vec::new()
    }

    fn preview<'a>(&'a self, _: &'a PreviewContext, _: &'a Value) -> BoxFuture<'a, Result<Vec<Change>, StepError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}
