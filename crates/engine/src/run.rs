//! The state of a run: the fold of its journal, and the only transition table there is.
//!
//! [`RunState::apply`] takes an entry, [`RunState::next`] says what should be going on now, and
//! [`RunState::settle`] turns the end of an attempt into the entry to append. A driver needs no more:
//! recovery after a crash is the same loop after [`RunState::replay`].

mod next;
mod outline;
mod path;
mod settle;
mod state;
mod values;
mod view;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use self::state::{Instance, Scope};
pub use self::{
    next::{Attempt, Effect, How, Next},
    outline::{outline, outline_foreseeing},
    settle::{AttemptEnd, Entry},
    view::{Command, Refusal},
};
use crate::{
    event::{Event, FORMAT, Failure, Opened, Outcome},
    library::Definition,
    playbook::Policy,
    report::{RunFailure, Status},
};

/// Past so many entries a run stops of itself; undoing it has the rest up to [`MAX_EVENTS`].
pub const STOP_EVENTS: u64 = 8_000;
/// No run has more entries.
pub const MAX_EVENTS: u64 = 10_000;
/// Largest input, output, item or checkpoint, in bytes of JSON; an entry around it stays below the store's 60 KiB.
pub const MAX_VALUE: usize = 58 * 1024;
/// Most instances of one step.
pub const MAX_INSTANCES: usize = 1_000;

/// What the journal of a run adds up to.
#[derive(Clone, Debug)]
pub struct RunState {
    opened: Arc<Opened>,
    /// What expressions see as `run`.
    about: Arc<Value>,
    root: Scope,
    events: u64,
    failure: Option<RunFailure>,
    cancelled: bool,
    /// Who cancelled it, and what it waited for then.
    cancelled_why: Option<String>,
    undo_requested: bool,
    /// Cancelled while paused, or before it began: it ends as it is.
    given_up: bool,
    on_failure: Policy,
    outcome: Option<(Outcome, Timestamp)>,
    /// It ended otherwise than well before, and has told so.
    told_failure: bool,
}

/// A journal entry that cannot follow those before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {index} cannot follow those before it: {why}")]
pub struct IllegalEvent {
    /// Its place in the journal, from 0.
    pub index: u64,
    /// Why.
    pub why: String,
}

impl RunState {
    /// The state after the first entry.
    pub fn open(opened: Opened, definition: Arc<Definition>) -> Result<Self, IllegalEvent> {
        if opened.format > FORMAT {
            let why = format!("format {} is newer than this program's {FORMAT}", opened.format);
            return Err(IllegalEvent { index: 0, why });
        }
        let about = opened.about();
        let asked = || definition.playbook.on_failure.policy(&opened.input, &about);
        let on_failure = opened.on_failure.map_or_else(asked, Ok).map_err(|why| IllegalEvent { index: 0, why })?;
        Ok(Self {
            root: Scope::new(definition, Arc::new(opened.input.clone())),
            opened: Arc::new(opened),
            about: Arc::new(about),
            events: 1,
            failure: None,
            cancelled: false,
            cancelled_why: None,
            undo_requested: false,
            given_up: false,
            on_failure,
            outcome: None,
            told_failure: false,
        })
    }

    /// The state after all of `events`.
    pub fn replay(definition: Arc<Definition>, events: &[Event]) -> Result<Self, IllegalEvent> {
        let Some((Event::Opened(opened), rest)) = events.split_first() else {
            return Err(IllegalEvent { index: 0, why: "a journal begins with `opened`".to_owned() });
        };
        let mut state = Self::open((**opened).clone(), definition)?;
        for event in rest {
            state.apply(event)?;
        }
        Ok(state)
    }

    /// Takes the next entry of the journal.
    pub fn apply(&mut self, event: &Event) -> Result<(), IllegalEvent> {
        self.note(event)?;
        self.events += 1;
        Ok(())
    }

    /// Takes what is not worth an entry: another look after a wait, and a wait whose reason has not changed.
    pub fn note(&mut self, event: &Event) -> Result<(), IllegalEvent> {
        self.transition(event).map_err(|why| IllegalEvent { index: self.events, why })
    }

    /// The first entry.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// The playbook it goes by.
    pub fn definition(&self) -> &Arc<Definition> {
        &self.root.definition
    }

    /// How many entries its journal has.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Whether running attempts should be told to stop.
    pub fn interrupts(&self) -> bool {
        self.cancelled || self.undo_requested
    }

    /// Whether nothing new starts any more: it failed, was cancelled, or is to be undone.
    pub fn is_stopping(&self) -> bool {
        self.failure.is_some() || self.cancelled || self.undo_requested
    }

    /// The attempt that an instance is at; 0 before the first.
    pub fn attempt_of(&self, step: &str) -> u32 {
        self.root.instance(step).map_or(0, |(_, instance)| instance.attempt)
    }

    /// What happens once it stops and nothing runs any more.
    fn policy(&self) -> Policy {
        if self.is_past_commit_point() {
            Policy::Pause
        } else if self.undo_requested {
            Policy::Rollback
        } else {
            self.on_failure
        }
    }

    fn is_past_commit_point(&self) -> bool {
        let point = self.root.definition.playbook.commit_point.as_ref();
        let steps = self.root.definition.playbook.steps.iter().zip(&self.root.steps);
        let passed = steps.filter(|(step, _)| point.is_some_and(|point| point.value == step.id.value));
        passed.flat_map(|(_, state)| state.instances()).any(Instance::is_started) || self.root.has_irreversible()
    }

    fn transition(&mut self, event: &Event) -> Result<(), String> {
        if let (Some(_), false) = (self.outcome, matches!(event, Event::UndoRequested { .. })) {
            return Err("the run has ended".to_owned());
        }
        match event {
            Event::Opened(_) => return Err("it is open already".to_owned()),
            Event::Expanded { step, instances, more, .. } => {
                self.root.step_mut(step)?.expand(instances.iter().map(Instance::new), *more)?;
            }
            Event::Skipped { step, .. } => self.root.step_mut(step)?.skip()?,
            Event::Failed { step, attempt: 0, error, .. } => {
                self.fail(Some(step), error);
                return self.root.refuse(step, error);
            }
            Event::Halted { error, .. } => self.fail(None, error),
            Event::CancelRequested { by, .. } => {
                self.cancelled_why = Some(self.cancelled_by(by));
                self.given_up = self.status() == Status::Paused || !self.is_begun();
                self.cancelled = true;
            }
            Event::UndoRequested { .. } => {
                self.undo_requested = true;
                self.outcome = None;
            }
            Event::Resumed { at, .. } => match self.policy() {
                Policy::Rollback => self.root.undo_again(*at),
                Policy::Keep | Policy::Pause => {
                    (self.failure, self.cancelled) = (None, false);
                    self.root.go_on(*at);
                }
            },
            Event::Finished { outcome, at } => {
                self.outcome = Some((*outcome, *at));
                self.told_failure |= *outcome != Outcome::Succeeded;
            }
            Event::Started { step, .. }
            | Event::Checkpointed { step, .. }
            | Event::Waiting { step, .. }
            | Event::Succeeded { step, .. }
            | Event::Failed { step, .. }
            | Event::UndoStarted { step, .. }
            | Event::UndoSucceeded { step, .. }
            | Event::UndoFailed { step, .. } => {
                if let Event::Failed { error, retry_at: None, .. } = event {
                    self.fail(Some(step), error);
                }
                let (instance, work) = self.root.instance_mut(step)?;
                instance.transition(event, work)?;
            }
        }
        Ok(())
    }

    fn fail(&mut self, step: Option<&String>, error: &Failure) {
        // What stopped the run first decides; failures of attempts that were still running then only end them.
        if !self.is_stopping() {
            self.failure = Some(RunFailure { step: step.cloned(), error: error.clone() });
        }
    }
}
