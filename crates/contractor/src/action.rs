//! An action: typed code that does one thing to the world, with its undo.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use engine::catalog::{ActionSpec, Catalog, Undo};
pub use engine::{event::Failure, plan::Change};
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use store::{InventoryChange, ReadError, Reader, SecretPut, Versioned};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// One thing that a playbook step can do.
///
/// Ids, names and addresses were reserved by an earlier step, so running an action again finds the same object:
/// "already there, and ours" and "already gone" are success. [`find`](Self::find) looks at the world after a crash;
/// the driver calls it before [`run`](Self::run) when an attempt was started but its end is unknown.
pub trait Action: Send + Sync + 'static {
    /// Dotted name as playbooks write it.
    const NAME: &'static str;
    /// What undoing means.
    const UNDO: Undo;
    /// The step's `with`; also its JSON Schema. Unknown fields must be refused (`#[serde(deny_unknown_fields)]`).
    type Input: DeserializeOwned + JsonSchema + Send + Sync;
    /// What later steps may refer to. Never a secret: a reference and a generation instead.
    type Output: Serialize + DeserializeOwned + JsonSchema + Send + Sync;

    /// Does it. May run twice.
    fn run(
        &self,
        cx: &StepContext,
        input: &Self::Input,
    ) -> impl Future<Output = Result<Done<Self::Output>, StepError>> + Send;

    /// Looks at the world for what an interrupted attempt has already done; `None` means "run it".
    fn find(
        &self,
        _cx: &StepContext,
        _input: &Self::Input,
    ) -> impl Future<Output = Result<Option<Done<Self::Output>>, StepError>> + Send {
        async { Ok(None) }
    }

    /// Takes it back. May run twice, and copes with nothing done (`output` is `None` when the attempt never reported).
    fn undo(
        &self,
        _cx: &StepContext,
        _input: &Self::Input,
        _output: Option<&Self::Output>,
    ) -> impl Future<Output = Result<Effects, StepError>> + Send {
        async { Ok(Effects::default()) }
    }

    /// Semaphores of this process to hold while `run` or `undo` is at work, by name, with their number of permits, for
    /// example `("host/pve1", 4)`; shown as a wait when there is none left.
    fn limits(&self, _input: &Self::Input) -> Vec<(String, usize)> {
        Vec::new()
    }

    /// What it would change, without changing it. `input` holds `"${…}"` where a value is known only later.
    fn preview(
        &self,
        _cx: &PreviewContext,
        _input: &Value,
    ) -> impl Future<Output = Result<Vec<Change>, StepError>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Its output, as far as that is known before it acts: then a plan shows which way later steps go and what with.
    /// Fields that are known only later are left out. Given only for an input without `"${…}"`.
    fn foresee(
        &self,
        _cx: &PreviewContext,
        _input: &Self::Input,
    ) -> impl Future<Output = Result<Option<Value>, StepError>> + Send {
        async { Ok(None) }
    }
}

/// An action's success: its output and what commits together with it.
#[derive(Clone, Debug)]
pub struct Done<T> {
    /// The step's output.
    pub output: T,
    /// What commits in the same transaction as the step's result.
    pub effects: Effects,
}

impl<T> Done<T> {
    /// A success that changes nothing in the store besides the journal.
    pub fn new(output: T) -> Self {
        Self { output, effects: Effects::default() }
    }

    /// The same success with effects to commit.
    pub fn with_effects(output: T, effects: Effects) -> Self {
        Self { output, effects }
    }
}

/// What commits with a step's result, in one transaction: inventory, sealed secrets, outgoing messages.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// Inventory changes with preconditions; a failed one is a conflict: the step runs again, no attempt used.
    pub inventory: Vec<InventoryChange>,
    /// Secrets to seal and keep.
    pub secrets: Vec<SecretPut>,
    /// Events to publish besides those that the driver publishes for every step. Never needed for correctness.
    pub events: Vec<DomainEvent>,
    /// Let go when the commit is made, or when it is given up.
    pub until_then: Kept,
}

/// Whatever an action has to hold until its effects are committed: it is dropped then.
#[derive(Clone, Default)]
pub struct Kept(Option<Arc<dyn Any + Send + Sync>>);

impl Kept {
    /// Holds `thing`.
    pub fn new(thing: impl Any + Send + Sync) -> Self {
        Self(Some(Arc::new(thing)))
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept").field(&self.0.is_some()).finish()
    }
}

/// An event that an action tells, for example `vm.created`; becomes `cortex.event.<from>.<cluster>.<kind>`.
#[derive(Clone, Debug)]
pub struct DomainEvent {
    /// Event type with dots as separators of words and no version, for example `vm_created`.
    pub kind: &'static str,
    /// The cluster it is about.
    pub cluster: Option<String>,
    /// Its body. Never a secret.
    pub body: Value,
}

/// Why an attempt did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StepError {
    /// Not an attempt: the world is not ready. Shown with its reason until the step's deadline.
    #[error("waiting: {reason}")]
    Wait {
        /// What is waited for, for an operator: `etcd has 1 of 3 members`.
        reason: String,
        /// When to look again.
        after: Duration,
    },
    /// Not an attempt, and not soon: there is no room. Like `Wait`, but when all that a run does is wait like this, it
    /// gives up its locks meanwhile, so that a repair or a decommission can come in between.
    #[error("waiting: {reason}")]
    NoCapacity {
        /// What is waited for, for an operator: `no host with 16 GiB of free memory`.
        reason: String,
        /// When to look again.
        after: Duration,
    },
    /// Failed, and trying again may help.
    #[error("{0}")]
    Retry(Failure),
    /// Failed for good.
    #[error("{0}")]
    Fail(Failure),
}

impl StepError {
    /// The world is not ready; look again after `after`.
    pub fn wait(reason: impl Into<String>, after: Duration) -> Self {
        Self::Wait { reason: reason.into(), after }
    }

    /// There is no room; look again after `after`.
    pub fn no_capacity(reason: impl Into<String>, after: Duration) -> Self {
        Self::NoCapacity { reason: reason.into(), after }
    }

    /// Failed; trying again may help.
    pub fn retry(message: impl Into<String>) -> Self {
        Self::Retry(Failure::new(message))
    }

    /// Failed for good.
    pub fn fail(message: impl Into<String>) -> Self {
        Self::Fail(Failure::new(message))
    }

    /// The same error with a sentence that tells the operator what to do.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        let with = |failure: Failure, hint: String| Failure { hint: Some(hint), ..failure };
        match self {
            Self::Retry(failure) => Self::Retry(with(failure, hint.into())),
            Self::Fail(failure) => Self::Fail(with(failure, hint.into())),
            wait @ (Self::Wait { .. } | Self::NoCapacity { .. }) => wait,
        }
    }
}

/// What a running attempt knows and may use.
#[derive(Clone)]
pub struct StepContext {
    /// The run.
    pub run: Uuid,
    /// The flow (correlation id) that the run belongs to.
    pub flow: Uuid,
    /// The step instance, `apply[cp-01]`.
    pub step: String,
    /// From 1.
    pub attempt: u32,
    /// Cancelled when the flow is cancelled or the daemon stops; a long wait must listen to it.
    pub cancelled: CancellationToken,
    /// Consistent reads of inventory and secrets.
    pub store: Reader,
    /// The value last given to [`checkpoint`](Self::checkpoint) for this step instance, over all attempts.
    pub last_checkpoint: Option<Value>,
    /// How the driver takes checkpoints and progress.
    pub sink: Arc<dyn StepSink>,
}

impl StepContext {
    /// Makes `value` durable at once, for example the UPID of a task just started; returns after the fsync.
    pub async fn checkpoint(&self, value: Value) -> Result<(), StepError> {
        self.sink.checkpoint(value).await
    }

    /// Tells whoever watches what is happening; not durable.
    pub fn progress(&self, text: impl Into<String>) {
        self.sink.progress(text.into());
    }

    /// The same id for the same run, step and purpose, however often it is asked.
    pub fn unique_id(&self, purpose: &str) -> Uuid {
        Uuid::new_v5(&self.run, format!("{}\u{1f}{purpose}", self.step).as_bytes())
    }
}

/// The driver's side of [`StepContext`].
pub trait StepSink: Send + Sync {
    /// Appends the checkpoint to the journal and waits for the fsync.
    fn checkpoint(&self, value: Value) -> BoxFuture<'_, Result<(), StepError>>;
    /// Hands progress to whoever watches.
    fn progress(&self, text: String);
}

/// What a preview may use.
#[derive(Clone)]
pub struct PreviewContext {
    /// The flow being planned; reservations made while planning carry it.
    pub flow: Uuid,
    /// Consistent reads of inventory and secrets.
    pub store: Reader,
    /// Where [`read`](Self::read) notes what the plan depends on.
    pub revisions: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl PreviewContext {
    /// Reads an inventory value and notes its revision in the plan: when it changes, an approval of the plan is void.
    pub fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Versioned<T>>, ReadError> {
        let found = self.store.get::<T>(key)?;
        let revision = found.as_ref().map_or(0, |found| found.revision);
        self.revisions.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), revision);
        Ok(found)
    }
}

/// The actions of one contractor.
#[derive(Default, Clone)]
pub struct Actions {
    by_name: BTreeMap<&'static str, (ActionSpec, Arc<dyn AnyAction>)>,
}

impl Actions {
    /// The registry with `action` added.
    #[must_use]
    pub fn with<A: Action>(self, action: A) -> Self {
        let spec = ActionSpec {
            name: A::NAME,
            undo: A::UNDO,
            input: schemars::schema_for!(A::Input).to_value(),
            output: schemars::schema_for!(A::Output).to_value(),
        };
        self.with_any(spec, Arc::new(Erased(action)))
    }

    /// The registry with an action whose types are erased already, for stand-ins.
    #[must_use]
    pub fn with_any(mut self, spec: ActionSpec, action: Arc<dyn AnyAction>) -> Self {
        self.by_name.insert(spec.name, (spec, action));
        self
    }

    /// The runnable action called `name`.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn AnyAction>> {
        self.by_name.get(name).map(|(_, action)| action)
    }
}

impl Catalog for Actions {
    fn action(&self, name: &str) -> Option<&ActionSpec> {
        self.by_name.get(name).map(|(spec, _)| spec)
    }

    fn names(&self) -> Vec<&'static str> {
        self.by_name.keys().copied().collect()
    }
}

/// An action with its types erased: JSON in, JSON out. What the driver calls.
pub trait AnyAction: Send + Sync {
    /// See [`Action::run`].
    fn run<'a>(&'a self, cx: &'a StepContext, input: &'a Value) -> BoxFuture<'a, Result<Done<Value>, StepError>>;
    /// See [`Action::find`].
    fn find<'a>(
        &'a self,
        cx: &'a StepContext,
        input: &'a Value,
    ) -> BoxFuture<'a, Result<Option<Done<Value>>, StepError>>;
    /// See [`Action::undo`].
    fn undo<'a>(
        &'a self,
        cx: &'a StepContext,
        input: &'a Value,
        output: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<Effects, StepError>>;
    /// See [`Action::limits`].
    fn limits(&self, input: &Value) -> Vec<(String, usize)>;
    /// See [`Action::preview`].
    fn preview<'a>(&'a self, cx: &'a PreviewContext, input: &'a Value)
    -> BoxFuture<'a, Result<Vec<Change>, StepError>>;
    /// See [`Action::foresee`].
    fn foresee<'a>(
        &'a self,
        _cx: &'a PreviewContext,
        _input: &'a Value,
    ) -> BoxFuture<'a, Result<Option<Value>, StepError>> {
        Box::pin(async { Ok(None) })
    }
}

struct Erased<A>(A);

impl<A: Action> AnyAction for Erased<A> {
    fn run<'a>(&'a self, cx: &'a StepContext, input: &'a Value) -> BoxFuture<'a, Result<Done<Value>, StepError>> {
        Box::pin(async move {
            let input: A::Input = typed(input, "input")?;
            erase(self.0.run(cx, &input).await?)
        })
    }

    fn find<'a>(
        &'a self,
        cx: &'a StepContext,
        input: &'a Value,
    ) -> BoxFuture<'a, Result<Option<Done<Value>>, StepError>> {
        Box::pin(async move {
            let input: A::Input = typed(input, "input")?;
            self.0.find(cx, &input).await?.map(erase).transpose()
        })
    }

    fn undo<'a>(
        &'a self,
        cx: &'a StepContext,
        input: &'a Value,
        output: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<Effects, StepError>> {
        Box::pin(async move {
            let input: A::Input = typed(input, "input")?;
            let output: Option<A::Output> = output.map(|value| typed(value, "output")).transpose()?;
            self.0.undo(cx, &input, output.as_ref()).await
        })
    }

    fn limits(&self, input: &Value) -> Vec<(String, usize)> {
        typed(input, "input").map(|input: A::Input| self.0.limits(&input)).unwrap_or_default()
    }

    fn preview<'a>(
        &'a self,
        cx: &'a PreviewContext,
        input: &'a Value,
    ) -> BoxFuture<'a, Result<Vec<Change>, StepError>> {
        Box::pin(self.0.preview(cx, input))
    }

    fn foresee<'a>(
        &'a self,
        cx: &'a PreviewContext,
        input: &'a Value,
    ) -> BoxFuture<'a, Result<Option<Value>, StepError>> {
        Box::pin(async move {
            let input: A::Input = typed(input, "input")?;
            self.0.foresee(cx, &input).await
        })
    }
}

fn typed<T: DeserializeOwned>(value: &Value, what: &str) -> Result<T, StepError> {
    T::deserialize(value).map_err(|error| StepError::fail(format!("the step's {what} has another shape: {error}")))
}

fn erase<T: Serialize>(done: Done<T>) -> Result<Done<Value>, StepError> {
    let output = serde_json::to_value(&done.output)
        .map_err(|error| StepError::fail(format!("the step's output is not JSON: {error}")))?;
    Ok(Done { output, effects: done.effects })
}
