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

use super::{Fault, FaultKind, example};

/// What there is; it survives the process.
#[derive(Clone, Default)]
pub struct World {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    objects: BTreeSet<String>,
    /// Attempts that will not go well, by step instance, `undo ` before it for its undo.
    faults: BTreeMap<String, Vec<(FaultKind, u32)>>,
    repeats: bool,
    acts: u64,
}

impl World {
    /// An empty one in which these things go wrong.
    pub fn new(faults: &[Fault], repeats: bool) -> Self {
        let mut by_step: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for fault in faults {
            by_step.entry(name(&fault.step, fault.undo)).or_default().push((fault.kind, fault.times));
        }
        Self { inner: Arc::new(Mutex::new(Inner { faults: by_step, repeats, ..Inner::default() })) }
    }

    /// What there is now.
    pub fn objects(&self) -> BTreeSet<String> {
        self.inner().objects.clone()
    }

    /// How often something was done to it.
    pub fn acts(&self) -> u64 {
        self.inner().acts
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
        let faults = inner.faults.get_mut(&name(step, undo))?;
        let (kind, times) = faults.first_mut()?;
        let kind = *kind;
        if kind != FaultKind::Fail {
            *times -= 1;
            if *times == 0 {
                faults.remove(0);
            }
        }
        Some(kind)
    }

    fn change(&self, step: &str, make: bool) {
        let mut inner = self.inner();
        for _ in 0..if inner.repeats { 2 } else { 1 } {
            inner.acts += 1;
            if make {
                inner.objects.insert(step.to_owned());
            } else {
                inner.objects.remove(step);
            }
        }
    }
}

fn name(step: &str, undo: bool) -> String {
    if undo { format!("undo {step}") } else { step.to_owned() }
}

/// Stands in for a real action: same name, same output shape, same meaning of undo.
pub struct Fake {
    /// The real action's surface.
    pub spec: ActionSpec,
    /// What it changes.
    pub world: World,
}

impl Fake {
    async fn suffer(&self, cx: &StepContext, fault: Option<FaultKind>, undo: bool) -> Result<(), StepError> {
        match fault {
            None | Some(FaultKind::Conflict) => Ok(()),
            Some(FaultKind::Fail) => Err(StepError::fail("it is not possible")),
            Some(FaultKind::Retry) => Err(StepError::retry("it did not work")),
            Some(FaultKind::LostReply) => {
                self.world.change(&cx.step, !undo && self.spec.undo != Undo::Nothing);
                Err(StepError::retry("the reply was lost"))
            }
            Some(FaultKind::Wait) => Err(StepError::wait("it is not ready", Duration::from_secs(7))),
            Some(FaultKind::NoCapacity) => Err(StepError::no_capacity("there is no room", Duration::from_secs(60))),
            Some(FaultKind::Hang) => std::future::pending().await,
            Some(FaultKind::Panic) => std::panic::resume_unwind(Box::new("a bug")),
        }
    }

    fn done(&self, cx: &StepContext, fault: Option<FaultKind>) -> Done<Value> {
        let key = format!("object/{}", cx.step);
        let value = json!({"step": cx.step});
        let change = match fault {
            Some(FaultKind::Conflict) => InventoryChange::update(key, u64::MAX, value),
            _ => InventoryChange::put(key, value),
        };
        let effects = Effects { inventory: vec![change], ..Effects::default() };
        Done { output: example::of(&self.spec.output, &cx.step), effects }
    }
}

impl AnyAction for Fake {
    fn run<'a>(&'a self, cx: &'a StepContext, _: &'a Value) -> BoxFuture<'a, Result<Done<Value>, StepError>> {
        Box::pin(async move {
            let fault = self.world.fault(&cx.step, false);
            // Long enough for others to be at work at the same time.
            tokio::time::sleep(Duration::from_millis(30)).await;
            self.suffer(cx, fault, false).await?;
            if self.spec.undo != Undo::Nothing {
                self.world.change(&cx.step, true);
            }
            cx.checkpoint(json!({"made": cx.step})).await?;
            Ok(self.done(cx, fault))
        })
    }

    fn find<'a>(&'a self, cx: &'a StepContext, _: &'a Value) -> BoxFuture<'a, Result<Option<Done<Value>>, StepError>> {
        Box::pin(async move { Ok(self.world.objects().contains(&cx.step).then(|| self.done(cx, None))) })
    }

    fn undo<'a>(
        &'a self,
        cx: &'a StepContext,
        _: &'a Value,
        _: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<Effects, StepError>> {
        Box::pin(async move {
            let fault = self.world.fault(&cx.step, true);
            tokio::time::sleep(Duration::from_millis(30)).await;
            self.suffer(cx, fault, true).await?;
            self.world.change(&cx.step, false);
            let change = InventoryChange::delete(format!("object/{}", cx.step));
            Ok(Effects { inventory: vec![change], ..Effects::default() })
        })
    }

    fn limits(&self, _: &Value) -> Vec<(String, usize)> {
        vec![(format!("of {}", self.spec.name), 3)]
    }

    fn preview<'a>(&'a self, _: &'a PreviewContext, _: &'a Value) -> BoxFuture<'a, Result<Vec<Change>, StepError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}
