//! A world that is a set of objects, one per step instance that did something, and actions that change it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use contractor::action::{AnyAction, Change, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::{ActionSpec, Undo};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use store::InventoryChange;
use uuid::Uuid;

use super::{Fault, FaultKind, example, sabotage::Bug, variants, witness::Witness};

/// What there is; it survives the process.
#[derive(Clone, Default)]
pub struct World {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// By the run that made them.
    objects: BTreeSet<(Uuid, String)>,
    /// Attempts that will not go well, by step instance, `undo ` before it for its undo.
    faults: BTreeMap<String, Vec<(FaultKind, u32)>>,
    /// What did not go well at least once, by the same names.
    befallen: BTreeSet<String>,
    /// Attempts at work that never end.
    hanging: BTreeSet<String>,
    /// The attempt that made each object.
    makers: BTreeMap<(Uuid, String), u32>,
}

/// An attempt that never ends; the process's death ends it.
struct Hanging {
    world: World,
    step: String,
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.world.inner().hanging.remove(&self.step);
    }
}

impl World {
    /// An empty one in which these things go wrong.
    pub fn new(faults: &[Fault]) -> Self {
        let mut by_step: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for fault in faults {
            by_step.entry(name(&fault.step, fault.undo)).or_default().push((fault.kind, fault.times));
        }
        Self { inner: Arc::new(Mutex::new(Inner { faults: by_step, ..Inner::default() })) }
    }

    /// What there is now of a run.
    pub fn objects(&self, run: Uuid) -> BTreeSet<String> {
        self.inner().objects.iter().filter(|(of, _)| *of == run).map(|(_, step)| step.clone()).collect()
    }

    /// Puts into it what a run has made.
    pub fn place(&self, run: Uuid, steps: impl IntoIterator<Item = String>) {
        self.inner().objects.extend(steps.into_iter().map(|step| (run, step)));
    }

    /// Whether this fault has come to pass, once at least.
    pub fn has_befallen(&self, fault: &Fault) -> bool {
        self.inner().befallen.contains(&name(&fault.step, fault.undo))
    }

    /// Whether an attempt is at work that never ends.
    pub fn hangs(&self) -> bool {
        !self.inner().hanging.is_empty()
    }

    /// The operator mends what made undos fail.
    pub fn mend(&self) {
        self.inner().faults.clear();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes wrong with the attempt, if anything; a permanent failure stays.
    fn fault(&self, step: &str, undo: bool) -> Option<FaultKind> {
        let mut inner = self.inner();
        let name = name(step, undo);
        let faults = inner.faults.get_mut(&name)?;
        let (kind, times) = faults.first_mut()?;
        let kind = *kind;
        if !kind.is_permanent() {
            *times -= 1;
            if *times == 0 {
                faults.remove(0);
            }
        }
        inner.befallen.insert(name);
        Some(kind)
    }

    fn hang(&self, step: &str) -> Hanging {
        self.inner().hanging.insert(step.to_owned());
        Hanging { world: self.clone(), step: step.to_owned() }
    }

    /// Makes the object of a step; says so when the same attempt has made it before, for it should have looked.
    fn make(&self, cx: &StepContext) -> bool {
        let mut inner = self.inner();
        let object = (cx.run, cx.step.clone());
        let maker = inner.makers.insert(object.clone(), cx.attempt);
        inner.objects.insert(object) || maker != Some(cx.attempt)
    }

    fn take_away(&self, cx: &StepContext) {
        let mut inner = self.inner();
        let object = (cx.run, cx.step.clone());
        inner.objects.remove(&object);
        inner.makers.remove(&object);
    }

    fn has(&self, cx: &StepContext) -> bool {
        self.inner().objects.contains(&(cx.run, cx.step.clone()))
    }
}

fn name(step: &str, undo: bool) -> String {
    if undo { format!("undo {step}") } else { step.to_owned() }
}

/// Stands in for a real action: same name, same output shape, same meaning of undo.
pub struct Fake {
    /// The real action's surface.
    pub spec: ActionSpec,
    /// Laid over its made-up output.
    pub output: Value,
    /// What it changes.
    pub world: World,
    /// Who watches.
    pub witness: Witness,
    /// A bug in the action, so that the harness can be put to the test.
    pub bug: Option<Bug>,
}

impl Fake {
    async fn suffer(&self, cx: &StepContext, fault: Option<FaultKind>, undo: bool) -> Result<(), StepError> {
        match fault {
            None | Some(FaultKind::Conflict) => Ok(()),
            Some(FaultKind::Fail) => Err(StepError::fail("it is not possible")),
            Some(FaultKind::FailLate) => {
                self.change(cx, undo);
                Err(StepError::fail("it is not possible any more"))
            }
            Some(FaultKind::Retry) => Err(StepError::retry("it did not work")),
            Some(FaultKind::LostReply) => {
                self.change(cx, undo);
                Err(StepError::retry("the reply was lost"))
            }
            Some(FaultKind::Wait) => Err(StepError::wait("it is not ready", Duration::from_secs(7))),
            Some(FaultKind::NoCapacity) => Err(StepError::no_capacity("there is no room", Duration::from_secs(60))),
            Some(FaultKind::Hang) => std::future::pending().await,
            Some(FaultKind::Panic) => std::panic::resume_unwind(Box::new("a bug")),
        }
    }

    /// What the action does to the world; not idempotent, so that whoever repeats it blindly is found out.
    fn change(&self, cx: &StepContext, undo: bool) {
        if undo {
            self.world.take_away(cx);
        } else if self.spec.undo != Undo::Nothing && !self.world.make(cx) {
            self.witness.accuse(format!("step {}, attempt {}, is repeated without a look", cx.step, cx.attempt));
        }
    }

    fn key(&self, cx: &StepContext) -> String {
        format!("{}/{}/{}", if self.spec.undo == Undo::Nothing { "seen" } else { "object" }, cx.run, cx.step)
    }

    fn done(&self, cx: &StepContext, fault: Option<FaultKind>) -> Done<Value> {
        let (key, value) = (self.key(cx), json!({"step": cx.step}));
        let change = match fault {
            Some(FaultKind::Conflict) => InventoryChange::update(key, u64::MAX, value),
            _ => InventoryChange::put(key, value),
        };
        let effects = Effects { inventory: vec![change], ..Effects::default() };
        let mut output = example::of(&self.spec.output, &cx.step);
        variants::patch(&mut output, &self.output);
        Done { output, effects }
    }

    async fn act(&self, cx: &StepContext) -> Result<Done<Value>, StepError> {
        let fault = self.world.fault(&cx.step, false);
        let _hanging = (fault == Some(FaultKind::Hang)).then(|| self.world.hang(&cx.step));
        // Long enough for others to be at work at the same time.
        tokio::time::sleep(Duration::from_millis(30)).await;
        self.suffer(cx, fault, false).await?;
        self.change(cx, false);
        cx.checkpoint(json!({"made": cx.step})).await?;
        Ok(self.done(cx, fault))
    }
}

impl AnyAction for Fake {
    fn run<'a>(&'a self, cx: &'a StepContext, input: &'a Value) -> BoxFuture<'a, Result<Done<Value>, StepError>> {
        Box::pin(async move {
            let _at_work = self.witness.enter(cx, false, input, &self.world.objects(cx.run));
            self.act(cx).await
        })
    }

    fn find<'a>(&'a self, cx: &'a StepContext, _: &'a Value) -> BoxFuture<'a, Result<Option<Done<Value>>, StepError>> {
        let sees = self.bug != Some(Bug::NeverLooks) && self.world.has(cx);
        Box::pin(async move { Ok(sees.then(|| self.done(cx, None))) })
    }

    fn undo<'a>(
        &'a self,
        cx: &'a StepContext,
        input: &'a Value,
        _: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<Effects, StepError>> {
        Box::pin(async move {
            let _at_work = self.witness.enter(cx, true, input, &self.world.objects(cx.run));
            let fault = self.world.fault(&cx.step, true);
            tokio::time::sleep(Duration::from_millis(30)).await;
            self.suffer(cx, fault, true).await?;
            if self.bug == Some(Bug::UndoesOnce) && !self.world.has(cx) {
                return Err(StepError::fail("there is nothing to undo"));
            }
            if self.bug != Some(Bug::UndoesNothing) {
                self.change(cx, true);
            }
            let inventory = vec![InventoryChange::delete(self.key(cx))];
            Ok(Effects { inventory, ..Effects::default() })
        })
    }

    fn limits(&self, _: &Value) -> Vec<(String, usize)> {
        vec![(format!("of {}", self.spec.name), 3)]
    }

    fn preview<'a>(&'a self, _: &'a PreviewContext, _: &'a Value) -> BoxFuture<'a, Result<Vec<Change>, StepError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}
