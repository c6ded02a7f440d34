//! The only decision: what should be going on in a run now.
//!
//! The answer is level-triggered: it names everything that should be going on, also what already is. A driver starts
//! what it does not have in hand, so a fresh driver after a crash needs no other answer than one that never stopped.

mod emit;
mod expand;

pub(super) use self::expand::instances;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::Value;

use super::{
    MAX_EVENTS, MAX_VALUE, RunState, STOP_EVENTS, path,
    settle::deadline,
    state::{Instance, Progress, Scope, StepState},
    values::Values,
};
use crate::{
    catalog::Undo,
    event::{Event, Failure, Outcome},
    library::{Contract, Link, Work},
    playbook::{Parallel, Policy, Step},
    report::Emission,
};

/// An attempt that begins at its step's deadline still gets so long: there is always a last look.
const LAST_LOOK: Duration = Duration::from_secs(30);

/// What should be going on now.
#[derive(Clone, Debug, Default)]
pub struct Next {
    /// To perform, in any order.
    pub effects: Vec<Effect>,
    /// When to ask again, if nothing happens before.
    pub wake: Option<Timestamp>,
}

/// Something to perform.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Append these; they change nothing in the world.
    Record(Vec<Event>),
    /// Run an attempt.
    Run(Attempt),
    /// Undo what an instance did, or may have done.
    Undo(Attempt),
    /// Append `finished`, together with these messages.
    Finish {
        /// How it ended.
        outcome: Outcome,
        /// What it tells others.
        emissions: Vec<Emission>,
        /// Messages that could not be made; only after a failure, where nothing can be failed any more.
        unsent: Vec<Failure>,
    },
}

/// An attempt of a step instance, or of its undo.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The step instance.
    pub step: String,
    /// The action.
    pub action: String,
    /// From 1; undo attempts have numbers of their own.
    pub attempt: u32,
    /// Its input.
    pub input: Arc<Value>,
    /// Its output, when it is to be undone and had one.
    pub output: Option<Arc<Value>>,
    /// The value that it last made durable.
    pub checkpoint: Option<Arc<Value>>,
    /// How long it may take.
    pub timeout: Duration,
    /// What was before.
    pub how: How,
}

/// What was before an attempt, and so what to do first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Nothing: append its `started`, then do it.
    Fresh,
    /// It waited: take its `started` without appending, look at the world for what it did, then do it.
    Again,
    /// It was started and its end is unknown: look at the world for what it did, then do it. Not if it is in hand.
    Resumed,
    /// As before, but the run stops: only look.
    Lost,
}

impl Attempt {
    /// The entry that makes it known before it touches the world.
    pub fn started(&self, at: Timestamp) -> Event {
        let input = (self.attempt == 1 && self.how == How::Fresh).then(|| Value::clone(&self.input));
        Event::Started { step: self.step.clone(), attempt: self.attempt, input, at }
    }

    /// The same, for an undo.
    pub fn undo_started(&self, at: Timestamp) -> Event {
        Event::UndoStarted { step: self.step.clone(), attempt: self.attempt, at }
    }
}

impl RunState {
    /// What should be going on at `now`.
    pub fn next(&self, now: Timestamp) -> Next {
        let mut decide = Decide { state: self, now, next: Next::default() };
        if self.outcome.is_none() {
            decide.run();
        }
        decide.next
    }
}

struct Decide<'s> {
    state: &'s RunState,
    now: Timestamp,
    next: Next,
}

impl Decide<'_> {
    fn run(&mut self) {
        if !self.state.is_stopping() {
            if self.state.root.is_complete() {
                self.finish(Outcome::Succeeded);
            } else if self.state.events >= STOP_EVENTS {
                let error = Failure::new(format!("the run has {STOP_EVENTS} journal entries, more than it may"));
                self.record(vec![Event::Halted { error, at: self.now }]);
            } else {
                self.forward(&self.state.root, "");
            }
            return;
        }
        self.quiesce(&self.state.root, "");
        if !self.next.effects.is_empty() {
            return;
        }
        let cancelled = self.state.cancelled && !self.state.undo_requested;
        match self.state.policy() {
            Policy::Pause if self.state.given_up => self.finish(Outcome::Cancelled),
            Policy::Pause => {}
            Policy::Keep => self.finish(if cancelled { Outcome::Cancelled } else { Outcome::Kept }),
            Policy::Rollback if is_cleared(&self.state.root) => {
                self.finish(if cancelled { Outcome::Cancelled } else { Outcome::Undone });
            }
            Policy::Rollback => {
                self.backward(&self.state.root, "");
            }
        }
    }

    /// Steps whose needs are done go on.
    fn forward(&mut self, scope: &Scope, prefix: &str) {
        for (step, link, state) in scope.parts() {
            let path = format!("{prefix}{}", step.id.value);
            match state {
                StepState::Pending(_) if link.needs.iter().all(|need| scope.steps[*need].is_complete()) => {
                    let events = self.expand(scope, step, path);
                    self.record(events);
                }
                StepState::Expanded(instances) => {
                    let mut slots = slots(step, instances.len());
                    for instance in instances {
                        if slots == 0 {
                            break;
                        }
                        slots -= usize::from(instance.progress != Progress::Succeeded);
                        self.advance(scope, (step, link), instance, &path);
                    }
                }
                StepState::Pending(_) | StepState::Skipped | StepState::Broken(_) => {}
            }
        }
    }

    fn advance(&mut self, scope: &Scope, (step, link): (&Step, &Link), instance: &Instance, path: &str) {
        let path = path::instance(path, instance.key.as_deref());
        match (&instance.progress, &link.work) {
            (Progress::Pending, work) => {
                let values = Values::new(scope, &self.state.about).with_item(&instance.item, instance.key.as_deref());
                match input(&values, step, work) {
                    Err(error) => self.refuse(path, error),
                    Ok(input) => match work {
                        Work::Call(_) => {
                            self.record(vec![Event::Started {
                                step: path,
                                attempt: 1,
                                input: Some(input),
                                at: self.now,
                            }]);
                        }
                        Work::Action(contract) => {
                            let instance = Instance { input: Some(Arc::new(input)), ..Instance::default() };
                            self.start(contract, step, (&instance, 1, path), How::Fresh);
                        }
                    },
                }
            }
            (Progress::Running { .. }, Work::Call(_)) => self.advance_call(instance, path),
            (Progress::Running { .. }, Work::Action(contract)) => {
                self.start(contract, step, (instance, instance.attempt, path), How::Resumed);
            }
            (Progress::Waiting { until, .. }, Work::Action(contract)) if self.is_due(*until) => {
                self.start(contract, step, (instance, instance.attempt, path), How::Again);
            }
            (Progress::Retrying { until }, Work::Action(contract)) if self.is_due(*until) => {
                self.start(contract, step, (instance, instance.attempt + 1, path), How::Fresh);
            }
            _ => {}
        }
    }

    fn advance_call(&mut self, instance: &Instance, path: String) {
        let Some(called) = &instance.called else { return };
        if !called.is_complete() {
            return self.forward(called, &format!("{path}."));
        }
        let output = called.definition.playbook.output.as_ref();
        match output.map_or(Ok(Value::Null), |output| Values::new(called, &self.state.about).resolve(output)) {
            Ok(output) if size(&output) <= MAX_VALUE => {
                self.record(vec![Event::Succeeded { step: path, attempt: 1, output, at: self.now }]);
            }
            Ok(_) => self.fail_call(path, too_large("the call's output")),
            Err(error) => self.fail_call(path, Failure::new(error.to_string())),
        }
    }

    fn fail_call(&mut self, step: String, error: Failure) {
        self.record(vec![Event::Failed { step, attempt: 1, error, retry_at: None, at: self.now }]);
    }

    /// Running attempts end before the policy; after a crash they are only looked for.
    fn quiesce(&mut self, scope: &Scope, prefix: &str) {
        for (step, link, state) in scope.parts() {
            for instance in state.instances() {
                let path = path::instance(&format!("{prefix}{}", step.id.value), instance.key.as_deref());
                match (&instance.progress, &link.work, &instance.called) {
                    (Progress::Running { .. }, Work::Action(contract), _) => {
                        self.start(contract, step, (instance, instance.attempt, path), How::Lost);
                    }
                    (_, Work::Call(_), Some(called)) => self.quiesce(called, &format!("{path}.")),
                    _ => {}
                }
            }
        }
    }

    /// Steps that nothing depends on any more are undone. Whether something goes on: where an undo has failed for good,
    /// nothing does any more, and others take its place.
    fn backward(&mut self, scope: &Scope, prefix: &str) -> bool {
        if self.state.events >= MAX_EVENTS {
            return false;
        }
        let mut goes_on = false;
        let cleared = |at: &usize| is_step_cleared(&scope.definition.links[*at], &scope.steps[*at]);
        for (step, link, state) in scope.parts() {
            if !link.dependents.iter().all(cleared) {
                continue;
            }
            let path = format!("{prefix}{}", step.id.value);
            let mut slots = slots(step, state.instances().count());
            for instance in state.instances().filter(|instance| !is_instance_cleared(link, instance)) {
                if slots == 0 {
                    break;
                }
                let is_at_it = self.take_back((step, link), instance, &path);
                slots -= usize::from(is_at_it);
                goes_on |= is_at_it;
            }
        }
        goes_on
    }

    fn take_back(&mut self, (step, link): (&Step, &Link), instance: &Instance, path: &str) -> bool {
        let path = path::instance(path, instance.key.as_deref());
        let contract = match (&link.work, &instance.called) {
            (Work::Action(contract), _) => contract,
            (Work::Call(_), Some(called)) => return self.backward(called, &format!("{path}.")),
            (Work::Call(_), None) => return false,
        };
        let (attempt, how) = match &instance.progress {
            Progress::Undoing => (instance.undo_attempt, How::Resumed),
            Progress::UndoWaiting { until } if self.is_due(*until) => (instance.undo_attempt, How::Again),
            Progress::UndoRetrying { until } if self.is_due(*until) => (instance.undo_attempt + 1, How::Fresh),
            Progress::UndoWaiting { .. } | Progress::UndoRetrying { .. } => return true,
            Progress::UndoFailed => return false,
            _ => (1, How::Fresh),
        };
        let attempt = self.attempt(contract, step, (instance, attempt, path), how);
        self.next.effects.push(Effect::Undo(attempt));
        true
    }

    fn start(&mut self, contract: &Contract, step: &Step, at: (&Instance, u32, String), how: How) {
        let deadline = deadline(at.0, step);
        let mut attempt = self.attempt(contract, step, at, how);
        if let Some(left) = deadline.map(|deadline| deadline.duration_since(self.now)) {
            attempt.timeout = attempt.timeout.min(Duration::try_from(left).unwrap_or_default().max(LAST_LOOK));
        }
        self.next.effects.push(Effect::Run(attempt));
    }

    fn attempt(&self, contract: &Contract, step: &Step, at: (&Instance, u32, String), how: How) -> Attempt {
        let (instance, attempt, path) = at;
        Attempt {
            step: path,
            action: contract.name.clone(),
            attempt,
            input: instance.input.clone().unwrap_or_default(),
            output: instance.output.clone(),
            checkpoint: instance.checkpoint.clone(),
            timeout: step.timeout,
            how,
        }
    }

    fn is_due(&mut self, until: Timestamp) -> bool {
        if until > self.now {
            self.next.wake = Some(self.next.wake.map_or(until, |wake| wake.min(until)));
        }
        until <= self.now
    }

    fn record(&mut self, events: Vec<Event>) {
        self.next.effects.push(Effect::Record(events));
    }

    /// The step never touches the world.
    fn refuse(&mut self, step: String, error: Failure) {
        self.record(vec![Event::Failed { step, attempt: 0, error, retry_at: None, at: self.now }]);
    }
}

/// The resolved input, if it fits the action or playbook.
fn input(values: &Values<'_>, step: &Step, work: &Work) -> Result<Value, Failure> {
    let input = values.resolve(&step.with).map_err(|error| Failure::new(error.to_string()))?;
    if size(&input) > MAX_VALUE {
        return Err(too_large("the input"));
    }
    let refused = match work {
        Work::Action(contract) => contract.refuses(&input),
        Work::Call(definition) => definition.refuses(&input),
    };
    refused.map_or(Ok(input), |reason| Err(Failure::new(reason)))
}

fn slots(step: &Step, total: usize) -> usize {
    step.fan_out.as_ref().map_or(Parallel::Unlimited, |fan_out| fan_out.parallel).of(total)
}

/// Size of a value's JSON, in bytes.
pub(super) fn size(value: &Value) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |json| json.len())
}

pub(super) fn too_large(what: &str) -> Failure {
    Failure {
        message: format!("{what} is larger than {MAX_VALUE} bytes"),
        hint: Some("pass a reference instead of the value".to_owned()),
    }
}

fn is_cleared(scope: &Scope) -> bool {
    scope.parts().all(|(_, link, state)| is_step_cleared(link, state))
}

fn is_step_cleared(link: &Link, state: &StepState) -> bool {
    state.instances().all(|instance| is_instance_cleared(link, instance))
}

/// Whether nothing of it is left to be undone.
fn is_instance_cleared(link: &Link, instance: &Instance) -> bool {
    match (&link.work, &instance.called) {
        (Work::Action(contract), _) => {
            !instance.is_started() || contract.undo != Undo::Yes || instance.progress == Progress::Undone
        }
        (Work::Call(_), Some(called)) => is_cleared(called),
        (Work::Call(_), None) => true,
    }
}
