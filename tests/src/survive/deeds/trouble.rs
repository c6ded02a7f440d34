//! Real actions that are run twice, fail after they have acted, or are cancelled while they act.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use contractor::action::{Actions, AnyAction, Change, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Catalog;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::Notify;

/// What happens to the actions of a contractor; a cheap clone.
#[derive(Clone, Default)]
pub struct Trouble {
    plan: Arc<Mutex<Plan>>,
    /// Told when the step to be cancelled is at work.
    at_work: Arc<Notify>,
}

#[derive(Default)]
struct Plan {
    twice: bool,
    /// Steps that have run once more.
    repeated: BTreeSet<String>,
    undo_twice: bool,
    failing: BTreeSet<String>,
    failing_once: Option<BTreeSet<String>>,
    cancelled: Option<String>,
}

impl Trouble {
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

    /// [`reached`](Self::reached) returns when this step is at work.
    pub fn watch(&self, step: &str) {
        self.plan().cancelled = Some(step.to_owned());
    }

    /// Waits for the watched step to be at work.
    pub async fn reached(&self) {
        self.at_work.notified().await;
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
                let action = Troubled { action: action.clone(), trouble: self.clone() };
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
}

struct Troubled {
    action: Arc<dyn AnyAction>,
    trouble: Trouble,
}

impl AnyAction for Troubled {
    fn run<'a>(&'a self, cx: &'a StepContext, input: &'a Value) -> BoxFuture<'a, Result<Done<Value>, StepError>> {
        Box::pin(async move {
            let is_watched = self.trouble.plan().cancelled.as_deref() == Some(&*cx.step);
            if is_watched {
                self.trouble.at_work.notify_one();
                // The action begins only now, as one would that does not listen.
                cx.cancelled.cancelled().await;
            }
            let mut done = self.action.run(cx, input).await?;
            if self.trouble.repeats(&cx.step) {
                // What the first one would have committed is lost with its reply. The second may have to wait.
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
            let mut effects = self.action.undo(cx, input, output).await?;
            if self.trouble.plan().undo_twice {
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
