//! Real actions that are run twice, fail after they have acted, are cancelled while they act, or have a bug.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use contractor::action::{Actions, AnyAction, Change, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Catalog;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::watch;

use super::Bug;

/// What happens to the actions of a contractor; a cheap clone.
#[derive(Clone, Default)]
pub struct Trouble {
    plan: Arc<Mutex<Plan>>,
    /// Attempts that wait to be cancelled.
    held: Arc<watch::Sender<usize>>,
    /// What is wrong with the actions, so that the harness can be put to the test.
    bug: Option<Bug>,
}

#[derive(Default)]
struct Plan {
    twice: bool,
    /// Steps that have run once more.
    repeated: BTreeSet<String>,
    undo_twice: bool,
    failing: BTreeSet<String>,
    /// Steps that have failed, where each does once.
    failing_once: Option<BTreeSet<String>>,
    watched: Watched,
}

/// Whose attempts begin only when they are cancelled.
#[derive(Default)]
enum Watched {
    #[default]
    Nobody,
    /// This step's.
    Step(String),
    /// The first of every step but these, which have had theirs.
    EachBut(BTreeSet<String>),
}

/// An attempt that waits to be cancelled.
struct Held<'t>(&'t Trouble);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.send_modify(|held| *held -= 1);
    }
}

impl Trouble {
    /// With actions that have the bug, if there is one.
    pub fn of(bug: Option<Bug>) -> Self {
        Self { bug, ..Self::default() }
    }

    /// Every action and every undo runs twice.
    pub fn repeat_all(&self) {
        let mut plan = self.plan();
        (plan.twice, plan.undo_twice) = (true, true);
    }

    /// The step fails for good after it has done what it should; every undo runs twice.
    pub fn fail(&self, step: &str) {
        let mut plan = self.plan();
        plan.failing.insert(step.to_owned());
        plan.undo_twice = true;
    }

    /// Every step fails for good the first time, after it has done what it should.
    pub fn fail_each_once(&self) {
        self.plan().failing_once = Some(BTreeSet::new());
    }

    /// Every undo runs twice.
    pub fn undo_twice(&self) {
        self.plan().undo_twice = true;
    }

    /// Which steps have failed since [`fail_each_once`](Self::fail_each_once).
    pub fn failed(&self) -> BTreeSet<String> {
        self.plan().failing_once.clone().unwrap_or_default()
    }

    /// The step's attempts begin only when they are cancelled; [`reached`](Self::reached) returns while one waits for it.
    pub fn watch(&self, step: &str) {
        self.plan().watched = Watched::Step(step.to_owned());
    }

    /// The same for the first attempt of every step.
    pub fn watch_each(&self) {
        self.plan().watched = Watched::EachBut(BTreeSet::new());
    }

    /// Which steps have been reached since [`watch_each`](Self::watch_each).
    pub fn watched(&self) -> BTreeSet<String> {
        match &self.plan().watched {
            Watched::EachBut(reached) => reached.clone(),
            Watched::Nobody | Watched::Step(_) => BTreeSet::new(),
        }
    }

    /// Waits for a watched step to be at work.
    pub async fn reached(&self) {
        // The sender lives as long as `self`.
        let _ = self.held.subscribe().wait_for(|held| *held > 0).await;
    }

    /// Nothing happens any more.
    pub fn clear(&self) {
        *self.plan() = Plan::default();
    }

    /// The same actions, in trouble.
    pub fn with(&self, actions: &Actions) -> Actions {
        let mut troubled = Actions::default();
        for name in actions.names() {
            if let (Some(spec), Some(action)) = (actions.action(name), actions.get(name)) {
                let releases = name == "infrastructure.release_vm";
                let action = Troubled { action: action.clone(), releases, trouble: self.clone() };
                troubled = troubled.with_any(spec.clone(), Arc::new(action));
            }
        }
        troubled
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn repeats(&self, step: &str) -> bool {
        let mut plan = self.plan();
        plan.twice && plan.repeated.insert(step.to_owned())
    }

    fn fails(&self, step: &str) -> bool {
        let mut plan = self.plan();
        let first = plan.failing_once.as_mut().is_some_and(|failed| failed.insert(step.to_owned()));
        first || plan.failing.contains(step)
    }

    /// An attempt of a watched step waits to be cancelled.
    async fn hold(&self, cx: &StepContext) {
        let is_watched = match &mut self.plan().watched {
            Watched::Nobody => false,
            Watched::Step(step) => *step == cx.step,
            Watched::EachBut(reached) => reached.insert(cx.step.clone()),
        };
        if is_watched {
            self.held.send_modify(|held| *held += 1);
            let _held = Held(self);
            cx.cancelled.cancelled().await;
        }
    }
}

struct Troubled {
    action: Arc<dyn AnyAction>,
    /// Whether it takes a machine away.
    releases: bool,
    trouble: Trouble,
}

impl AnyAction for Troubled {
    fn run<'a>(&'a self, cx: &'a StepContext, input: &'a Value) -> BoxFuture<'a, Result<Done<Value>, StepError>> {
        Box::pin(async move {
            // It begins only when it is cancelled, as one would that does not listen.
            self.trouble.hold(cx).await;
            if let Some(bug) = self.trouble.bug.as_ref().filter(|_| self.releases) {
                bug.strikes_before_release(cx, input).await;
            }
            let mut done = self.action.run(cx, input).await?;
            if matches!(self.trouble.bug, Some(Bug::LosesInventory)) {
                done.effects.inventory.clear();
            }
            if self.trouble.repeats(&cx.step) {
                // What the first one would have committed is lost with its reply. The second may have to wait.
                drop(done);
                done = self.action.run(cx, input).await?;
            }
            if self.trouble.fails(&cx.step) {
                return Err(StepError::fail("made to fail after it was done"));
            }
            Ok(done)
        })
    }

    fn find<'a>(
        &'a self,
        cx: &'a StepContext,
        input: &'a Value,
    ) -> BoxFuture<'a, Result<Option<Done<Value>>, StepError>> {
        self.action.find(cx, input)
    }

    fn undo<'a>(
        &'a self,
        cx: &'a StepContext,
        input: &'a Value,
        output: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<Effects, StepError>> {
        Box::pin(async move {
            if matches!(self.trouble.bug, Some(Bug::UndoesNothing)) {
                return Ok(Effects::default());
            }
            let mut effects = self.action.undo(cx, input, output).await?;
            if self.trouble.plan().undo_twice {
                if matches!(self.trouble.bug, Some(Bug::UndoesOnce)) {
                    return Err(StepError::fail("it is not there"));
                }
                effects = self.action.undo(cx, input, output).await?;
            }
            Ok(effects)
        })
    }

    fn limits(&self, input: &Value) -> Vec<(String, usize)> {
        self.action.limits(input)
    }

    fn preview<'a>(
        &'a self,
        cx: &'a PreviewContext,
        input: &'a Value,
    ) -> BoxFuture<'a, Result<Vec<Change>, StepError>> {
        self.action.preview(cx, input)
    }

    fn foresee<'a>(
        &'a self,
        cx: &'a PreviewContext,
        input: &'a Value,
    ) -> BoxFuture<'a, Result<Option<Value>, StepError>> {
        self.action.foresee(cx, input)
    }
}
