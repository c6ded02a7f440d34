//! A playbook as its file says it: read strictly, durations and expressions parsed, nothing looked up yet.

mod on_failure;
mod read;
pub mod schedule;

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::schedule::Schedule;
pub use self::{on_failure::OnFailure, read::schema};
use crate::{
    event::LockMode,
    expression::Expression,
    template::Template,
    yaml::{Place, Problems},
};

/// How long an attempt may take when its step does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How long a step may wait and retry when it does not say: nothing waits forever.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(2 * 60 * 60);

/// A playbook.
#[derive(Clone, Debug)]
pub struct Playbook {
    /// Its file, as it was named.
    pub file: String,
    /// Its text.
    pub text: String,
    /// Its name.
    pub name: Placed<String>,
    /// Its version; grows with every change of meaning.
    pub version: u32,
    /// What it does, for people.
    pub description: Option<String>,
    /// What starts it; without one it can only be called.
    pub trigger: Option<Trigger>,
    /// JSON Schema of its input, where the trigger does not say.
    pub input: Option<Value>,
    /// Locks to hold before the first step.
    pub locks: Vec<(LockMode, Template)>,
    /// Whether it goes before runs that wait, and ends paused ones that hold what it needs.
    pub preempts: bool,
    /// What happens when a step fails for good.
    pub on_failure: OnFailure,
    /// Once this step has started the policy is `pause`.
    pub commit_point: Option<Placed<String>>,
    /// Its steps, in the order of the file.
    pub steps: Vec<Step>,
    /// What a caller's `steps.<id>` is.
    pub output: Option<Template>,
    /// What it emits at its end.
    pub emits: Vec<Emit>,
}

/// A value with its place in the file.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub place: Place,
}

/// What starts a playbook: any of the messages named.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// Where it stands.
    pub place: Place,
    /// A request of this type.
    pub request: Option<String>,
    /// A handoff of this type.
    pub handoff: Option<String>,
    /// A schedule.
    pub cron: Option<Schedule>,
    /// A condition that the contractor watches, by name.
    pub condition: Option<String>,
    /// How long the condition must hold.
    pub hold: Duration,
    /// How long after a firing it does not fire again.
    pub cool_down: Duration,
    /// Over the message's top-level fields (and `input`, all of it).
    pub when: Option<Placed<Expression>>,
}

impl Trigger {
    /// Whether the playbook wants this message. A field that the message leaves out makes the condition false.
    pub fn accepts(&self, body: &Value) -> Result<bool, crate::expression::EvaluationError> {
        let Some(when) = &self.when else { return Ok(true) };
        match when.value.evaluate(&|name| if name == "input" { Some(body) } else { body.get(name) }) {
            Ok(value) => Ok(value == Value::Bool(true)),
            Err(error) if error.is_absence() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What happens when a step fails for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Take back everything that was started, in reverse order.
    #[default]
    Rollback,
    /// Leave everything and end.
    Keep,
    /// Leave everything and wait for an operator.
    Pause,
}

impl Policy {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::Keep => "keep",
            Self::Pause => "pause",
        }
    }
}

/// A step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its id, unique in its playbook.
    pub id: Placed<String>,
    /// The action or playbook it names.
    pub does: Does,
    /// Steps that must be done or skipped before, besides those that it refers to.
    pub needs: Vec<Placed<String>>,
    /// Evaluated once, when its needs are done; false skips it.
    pub when: Option<Placed<Expression>>,
    /// Makes one instance per item of a list.
    pub fan_out: Option<FanOut>,
    /// The input.
    pub with: Template,
    /// Where the input stands.
    pub with_place: Place,
    /// What happens after an attempt that failed and may be repeated.
    pub retry: Retry,
    /// How long an attempt may take.
    pub timeout: Duration,
    /// How long it may wait and retry, over all attempts.
    pub deadline: Duration,
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum Does {
    /// Runs an action.
    Action(Placed<String>),
    /// Runs the steps of another playbook.
    Call(Placed<String>),
}

impl Does {
    /// The action's or playbook's name.
    pub fn name(&self) -> &str {
        let (Self::Action(name) | Self::Call(name)) = self;
        &name.value
    }
}

/// One instance per item of a list.
#[derive(Clone, Debug)]
pub struct FanOut {
    /// The list.
    pub each: Placed<Expression>,
    /// The stable name of an instance.
    pub key: Template,
    /// How many at once.
    pub parallel: Parallel,
}

/// How many instances of a step may be at work at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parallel {
    /// All.
    Unlimited,
    /// So many.
    Count(usize),
    /// So many in a hundred, at least one.
    Percent(usize),
}

impl Parallel {
    /// How many of `total`.
    pub fn of(self, total: usize) -> usize {
        match self {
            Self::Unlimited => total,
            Self::Count(count) => count,
            Self::Percent(percent) => (total * percent / 100).max(1),
        }
    }
}

/// Attempts and the time between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How many attempts in all, at least one.
    pub attempts: u32,
    /// The upper bound of the first pause; it doubles with every attempt.
    pub first: Duration,
    /// The upper bound of all pauses.
    pub cap: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 3, first: Duration::from_secs(1), cap: Duration::from_secs(30) }
    }
}

/// A message to emit.
#[derive(Clone, Debug)]
pub struct Emit {
    /// Where it stands.
    pub place: Place,
    /// Handoff or event.
    pub kind: crate::report::EmissionKind,
    /// Its type.
    pub name: String,
    /// Which end of the run it belongs to.
    pub after: After,
    /// Evaluated at the end; false leaves it out.
    pub when: Option<Placed<Expression>>,
    /// One message per item.
    pub fan_out: Option<FanOut>,
    /// Its body.
    pub with: Template,
}

/// Which end of a run a message belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum After {
    /// It succeeded.
    #[default]
    Success,
    /// It was undone, kept after a failure, or cancelled; `failure` has `step` and `message`.
    Failure,
}

impl Playbook {
    /// Reads a playbook's text.
    pub fn parse(file: &str, text: &str) -> Result<Self, Problems> {
        read::parse(file, text)
    }
}
