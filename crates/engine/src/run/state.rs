//! Where each step instance stands, and which entry may follow which.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::path::segments;
use crate::{
    catalog::Undo,
    event::{Event, Failure, Item},
    library::{Definition, Link, Work},
    playbook::Step,
};

/// The steps of one playbook at work: the run's own, or one that it calls.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    pub(super) definition: Arc<Definition>,
    pub(super) input: Arc<Value>,
    /// Beside each step of the playbook, where it stands.
    pub(super) steps: Vec<StepState>,
}

/// Where a step stands.
#[derive(Clone, Debug)]
pub(super) enum StepState {
    /// Its instances are not known, or not all of them.
    Pending(Vec<Instance>),
    /// `when` was false.
    Skipped,
    /// `when` or `for_each` had no value.
    Broken(Failure),
    /// Its instances are known.
    Expanded(Vec<Instance>),
}

/// One instance of a step.
#[derive(Clone, Debug, Default)]
pub(super) struct Instance {
    pub(super) key: Option<String>,
    pub(super) item: Arc<Value>,
    pub(super) progress: Progress,
    /// Attempts started so far.
    pub(super) attempt: u32,
    /// Undo attempts started so far.
    pub(super) undo_attempt: u32,
    /// Attempts (or undo attempts) before the present effort: a resumed step gets its attempts again.
    pub(super) base: u32,
    /// When the present effort began; its deadline counts from here.
    pub(super) since: Option<Timestamp>,
    pub(super) input: Option<Arc<Value>>,
    pub(super) output: Option<Arc<Value>>,
    pub(super) checkpoint: Option<Arc<Value>>,
    /// What it waits for, or why it failed last.
    pub(super) reason: Option<Failure>,
    pub(super) started_at: Option<Timestamp>,
    pub(super) ended_at: Option<Timestamp>,
    /// The steps of the playbook that it calls.
    pub(super) called: Option<Box<Scope>>,
}

/// How far an instance is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Progress {
    #[default]
    Pending,
    /// An attempt is started and its end unknown; `look` when it only looks again after a wait.
    Running {
        look: bool,
    },
    Waiting {
        until: Timestamp,
        yields: bool,
    },
    Retrying {
        until: Timestamp,
    },
    Succeeded,
    Failed,
    Undoing,
    UndoWaiting {
        until: Timestamp,
    },
    UndoRetrying {
        until: Timestamp,
    },
    Undone,
    UndoFailed,
}

impl Scope {
    pub(super) fn new(definition: Arc<Definition>, input: Arc<Value>) -> Self {
        let steps = definition.links.iter().map(|_| StepState::Pending(Vec::new())).collect();
        Self { definition, input, steps }
    }

    /// Its steps with what they mean and where they stand.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&Step, &Link, &StepState)> {
        let steps = self.definition.playbook.steps.iter();
        steps.zip(&self.definition.links).zip(&self.steps).map(|((step, link), state)| (step, link, state))
    }

    pub(super) fn step_mut(&mut self, path: &str) -> Result<&mut StepState, String> {
        let (scope, at, _) = self.locate(path)?;
        Ok(&mut scope.steps[at])
    }

    pub(super) fn instance_mut(&mut self, path: &str) -> Result<(&mut Instance, Work), String> {
        let (scope, at, key) = self.locate(path)?;
        let work = scope.definition.links[at].work.clone();
        let instance = scope.steps[at].instance_mut(key).ok_or_else(|| format!("there is no instance `{path}`"))?;
        Ok((instance, work))
    }

    /// The scope and place of the step that `path` ends at, with the key there.
    fn locate<'p>(&mut self, path: &'p str) -> Result<(&mut Self, usize, Option<&'p str>), String> {
        let mut scope = self;
        let mut segments = segments(path).peekable();
        while let Some((id, key)) = segments.next() {
            let place = scope.definition.playbook.steps.iter().position(|step| step.id.value == id);
            let at = place.ok_or_else(|| format!("there is no step `{path}`"))?;
            if segments.peek().is_none() {
                return Ok((scope, at, key));
            }
            let called = scope.steps[at].instance_mut(key).and_then(|instance| instance.called.as_deref_mut());
            scope = called.ok_or_else(|| format!("`{path}` is inside a call that is not open"))?;
        }
        Err("a step has a name".to_owned())
    }

    /// A step or instance whose input could not be made: it never touched the world.
    pub(super) fn refuse(&mut self, path: &str, error: &Failure) -> Result<(), String> {
        let (scope, at, key) = self.locate(path)?;
        match &mut scope.steps[at] {
            state @ StepState::Pending(_) => *state = StepState::Broken(error.clone()),
            state => match state.instance_mut(key) {
                Some(instance) if instance.progress == Progress::Pending => {
                    (instance.progress, instance.reason) = (Progress::Failed, Some(error.clone()));
                }
                _ => return Err(format!("`{path}` has been started")),
            },
        }
        Ok(())
    }

    /// The instance at `path`, with the step it is of.
    pub(super) fn instance(&self, path: &str) -> Option<(&Step, &Instance)> {
        let mut scope = self;
        let mut segments = segments(path).peekable();
        loop {
            let (id, key) = segments.next()?;
            let (step, _, state) = scope.parts().find(|(step, ..)| step.id.value == id)?;
            let instance = state.instances().find(|instance| instance.key.as_deref() == key)?;
            if segments.peek().is_none() {
                return Some((step, instance));
            }
            scope = instance.called.as_deref()?;
        }
    }

    /// After a pause: what failed gets its attempts and its deadline again.
    pub(super) fn go_on(&mut self, at: Timestamp) {
        for step in &mut self.steps {
            if let StepState::Broken(_) = step {
                *step = StepState::Pending(Vec::new());
            }
            for instance in step.instances_mut() {
                instance.go_on(at);
                if let Some(called) = &mut instance.called {
                    called.go_on(at);
                }
            }
        }
    }

    /// After it was stuck: undos that failed get their attempts and their deadline again.
    pub(super) fn undo_again(&mut self, at: Timestamp) {
        for instance in self.steps.iter_mut().flat_map(StepState::instances_mut) {
            if instance.progress == Progress::UndoFailed {
                instance.progress = Progress::UndoRetrying { until: at };
                (instance.base, instance.since) = (instance.undo_attempt, Some(at));
            }
            if let Some(called) = &mut instance.called {
                called.undo_again(at);
            }
        }
    }

    /// Whether every step is done or skipped.
    pub(super) fn is_complete(&self) -> bool {
        self.steps.iter().all(StepState::is_complete)
    }

    /// Whether something has been started that cannot be taken back.
    pub(super) fn has_irreversible(&self) -> bool {
        self.parts().any(|(_, link, state)| {
            state.instances().any(|instance| match (&link.work, &instance.called) {
                (Work::Action(contract), _) => contract.undo == Undo::Irreversible && instance.is_started(),
                (Work::Call(_), Some(called)) => called.has_irreversible(),
                (Work::Call(_), None) => false,
            })
        })
    }
}

impl StepState {
    pub(super) fn instances(&self) -> impl Iterator<Item = &Instance> {
        match self {
            Self::Expanded(instances) => instances.iter(),
            Self::Pending(_) | Self::Skipped | Self::Broken(_) => [].iter(),
        }
    }

    fn instances_mut(&mut self) -> impl Iterator<Item = &mut Instance> {
        match self {
            Self::Expanded(instances) => instances.iter_mut(),
            Self::Pending(_) | Self::Skipped | Self::Broken(_) => [].iter_mut(),
        }
    }

    fn instance_mut(&mut self, key: Option<&str>) -> Option<&mut Instance> {
        self.instances_mut().find(|instance| instance.key.as_deref() == key)
    }

    pub(super) fn is_complete(&self) -> bool {
        match self {
            Self::Skipped => true,
            Self::Expanded(instances) => instances.iter().all(|instance| instance.progress == Progress::Succeeded),
            Self::Pending(_) | Self::Broken(_) => false,
        }
    }

    pub(super) fn expand(&mut self, new: impl Iterator<Item = Instance>, more: bool) -> Result<(), String> {
        let Self::Pending(instances) = self else { return Err("its instances are known".to_owned()) };
        instances.extend(new);
        if !more {
            *self = Self::Expanded(std::mem::take(instances));
        }
        Ok(())
    }

    pub(super) fn skip(&mut self) -> Result<(), String> {
        let Self::Pending(_) = self else { return Err("its instances are known".to_owned()) };
        *self = Self::Skipped;
        Ok(())
    }
}

impl Instance {
    pub(super) fn new(item: &Item) -> Self {
        Self { key: item.key.clone(), item: Arc::new(item.item.clone()), ..Self::default() }
    }

    /// Whether it may have touched the world.
    pub(super) fn is_started(&self) -> bool {
        self.input.is_some()
    }

    /// The transition table: what each entry makes of an instance, and after what it may come.
    pub(super) fn transition(&mut self, event: &Event, work: Work) -> Result<(), String> {
        use Progress::{
            Failed, Pending, Retrying, Running, Succeeded, UndoFailed, UndoRetrying, UndoWaiting, Undoing, Undone,
            Waiting,
        };
        self.progress = match (event, &self.progress) {
            (Event::Started { attempt, input, at, .. }, Pending | Retrying { .. }) if *attempt == self.attempt + 1 => {
                self.start(*attempt, input.as_ref(), *at, work);
                Running { look: false }
            }
            (Event::Started { attempt, .. }, Waiting { .. }) if *attempt == self.attempt => Running { look: true },
            (Event::Checkpointed { attempt, value, .. }, now @ (Running { .. } | Waiting { .. } | Undoing))
                if *attempt == self.attempt =>
            {
                self.checkpoint = Some(Arc::new(value.clone()));
                now.clone()
            }
            (Event::Waiting { attempt, reason, until, yields, .. }, Running { .. } | Waiting { .. })
                if *attempt == self.attempt =>
            {
                self.reason = Some(Failure::new(reason));
                Waiting { until: *until, yields: *yields }
            }
            (Event::Succeeded { attempt, output, at, .. }, Running { .. } | Waiting { .. })
                if *attempt == self.attempt =>
            {
                self.output = Some(Arc::new(output.clone()));
                (self.reason, self.ended_at) = (None, Some(*at));
                Succeeded
            }
            (Event::Failed { attempt, error, retry_at, at, .. }, Running { .. } | Waiting { .. })
                if *attempt == self.attempt =>
            {
                (self.reason, self.ended_at) = (Some(error.clone()), Some(*at));
                retry_at.map_or(Failed, |until| Retrying { until })
            }
            (
                Event::UndoStarted { attempt, at, .. },
                Succeeded | Failed | Waiting { .. } | Retrying { .. } | Running { .. },
            ) if *attempt == 1 => {
                (self.undo_attempt, self.base, self.since) = (1, 0, Some(*at));
                Undoing
            }
            (Event::UndoStarted { attempt, .. }, UndoRetrying { .. }) if *attempt == self.undo_attempt + 1 => {
                self.undo_attempt = *attempt;
                Undoing
            }
            (Event::UndoStarted { attempt, .. }, UndoWaiting { .. }) if *attempt == self.undo_attempt => Undoing,
            (Event::Waiting { attempt, reason, until, .. }, Undoing | UndoWaiting { .. })
                if *attempt == self.undo_attempt =>
            {
                self.reason = Some(Failure::new(reason));
                UndoWaiting { until: *until }
            }
            (Event::UndoSucceeded { attempt, at, .. }, Undoing | UndoWaiting { .. })
                if *attempt == self.undo_attempt =>
            {
                (self.reason, self.ended_at) = (None, Some(*at));
                Undone
            }
            (Event::UndoFailed { attempt, error, retry_at, at, .. }, Undoing | UndoWaiting { .. })
                if *attempt == self.undo_attempt =>
            {
                (self.reason, self.ended_at) = (Some(error.clone()), Some(*at));
                retry_at.map_or(UndoFailed, |until| UndoRetrying { until })
            }
            (_, now) => return Err(format!("the step is {now:?} at attempt {}", self.attempt)),
        };
        Ok(())
    }

    fn go_on(&mut self, at: Timestamp) {
        if self.progress == Progress::Failed {
            self.progress = match (&self.called, self.is_started()) {
                (Some(_), _) => Progress::Running { look: false },
                (None, true) => Progress::Retrying { until: at },
                (None, false) => Progress::Pending,
            };
        }
        if self.is_started() {
            (self.base, self.since) = (self.attempt, Some(at));
        }
    }

    fn start(&mut self, attempt: u32, input: Option<&Value>, at: Timestamp, work: Work) {
        self.attempt = attempt;
        self.started_at.get_or_insert(at);
        self.since.get_or_insert(at);
        (self.reason, self.ended_at) = (None, None);
        if let Some(input) = input {
            self.input = Some(Arc::new(input.clone()));
        }
        if let (Work::Call(definition), Some(input)) = (work, &self.input) {
            self.called = Some(Box::new(Scope::new(definition, input.clone())));
        }
    }
}
