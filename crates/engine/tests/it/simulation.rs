//! A run played step by step against a world that is a set of names, with crashes wherever one is asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use engine::{
    catalog::{ActionSpec, Catalog, Undo},
    event::{Event, FORMAT, Failure, Opened},
    library::{Definition, Library, World},
    report::{Emission, Status},
    run::{Attempt, AttemptEnd, Command, Effect, Entry, How, RunState},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) struct Actions(Vec<ActionSpec>);

impl Default for Actions {
    fn default() -> Self {
        let spec = |name, undo| ActionSpec { name, undo, input: json!({"type": "object"}), output: json!({}) };
        Self(vec![spec("make", Undo::Yes), spec("look", Undo::Nothing), spec("burn", Undo::Irreversible)])
    }
}

impl Catalog for Actions {
    fn action(&self, name: &str) -> Option<&ActionSpec> {
        self.0.iter().find(|spec| spec.name == name)
    }

    fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|spec| spec.name).collect()
    }
}

/// The first of `texts`, linked to the others.
pub(crate) fn load(texts: &[&str]) -> Arc<Definition> {
    let files: Vec<_> = texts.iter().enumerate().map(|(at, text)| (format!("{at}.yaml"), (*text).to_owned())).collect();
    let world = World { catalog: &Actions::default(), messages: &|_, _| Some(json!(true)), conditions: &[] };
    let library = Library::load(&files, &world).unwrap_or_else(|problems| panic!("{problems}"));
    let first = texts[0].lines().find_map(|line| line.strip_prefix("playbook: ")).expect("a playbook has a name");
    library.get(first).expect("the library holds what it was given").clone()
}

/// What an action does when its turn comes; by default it is done.
pub(crate) type Script = BTreeMap<String, Vec<AttemptEnd>>;

pub(crate) struct Simulation {
    definition: Arc<Definition>,
    pub(crate) journal: Vec<Event>,
    pub(crate) state: RunState,
    pub(crate) now: Timestamp,
    /// What there is: a name per instance that was made and not undone.
    pub(crate) world: BTreeSet<String>,
    /// Everything that was done to the world, in order.
    pub(crate) log: Vec<String>,
    pub(crate) emitted: Vec<Emission>,
    /// Ends to give by `step` and `undo step`, first come first.
    pub(crate) script: Script,
    /// Asked when the journal has so many entries.
    pub(crate) commands: Vec<(usize, Command)>,
    /// The process dies when this many things have happened.
    pub(crate) crash_at: Option<usize>,
    pub(crate) happened: usize,
}

/// The process died.
struct Crashed;

impl Simulation {
    pub(crate) fn new(definition: &Arc<Definition>, input: Value) -> Self {
        let at = Timestamp::UNIX_EPOCH;
        let opened = Opened {
            format: FORMAT,
            run: Uuid::from_u128(7),
            flow: Uuid::from_u128(8),
            cause: "/test/1".to_owned(),
            playbook: definition.playbook.name.value.clone(),
            version: definition.playbook.version,
            pins: definition.pins.clone(),
            subject: None,
            input,
            locks: Vec::new(),
            on_failure: None,
            plan: None,
            own_plan: None,
            trace: None,
            at,
        };
        Self {
            definition: definition.clone(),
            journal: vec![Event::Opened(Box::new(opened.clone()))],
            state: RunState::open(opened, definition.clone()).expect("a run opens"),
            now: at,
            world: BTreeSet::new(),
            log: Vec::new(),
            emitted: Vec::new(),
            script: Script::new(),
            commands: Vec::new(),
            crash_at: None,
            happened: 0,
        }
    }

    pub(crate) fn with(mut self, step: &str, ends: Vec<AttemptEnd>) -> Self {
        self.script.insert(step.to_owned(), ends);
        self
    }

    /// Plays until nothing is left to do, and says where the run stands.
    pub(crate) fn play(&mut self) -> Status {
        for _ in 0..40_000 {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => return self.state.status(),
                Err(Crashed) => self.recover(),
            }
        }
        panic!("the run does not end: {:#?}", self.state.report());
    }

    /// The process starts again, later, and knows only the journal.
    pub(crate) fn recover(&mut self) {
        // What is written is what is read: the journal survives as JSON.
        let rows: Vec<Value> =
            self.journal.iter().map(|event| serde_json::to_value(event).expect("an event is JSON")).collect();
        let events: Vec<Event> =
            rows.into_iter().map(|row| serde_json::from_value(row).expect("a row is an event")).collect();
        assert_eq!(events, self.journal);
        self.now += Duration::from_secs(1);
        self.state = RunState::replay(self.definition.clone(), &events).expect("a journal replays");
    }

    /// Performs everything that should be going on; false when there is nothing.
    fn turn(&mut self) -> Result<bool, Crashed> {
        let length = self.journal.len();
        if let Some(at) = self.commands.iter().position(|(when, _)| *when <= length) {
            let (_, command) = self.commands.remove(at);
            if self.state.accepts(command).is_ok() {
                self.append(vec![command.event("test", self.now)])?;
            }
            return Ok(true);
        }
        let next = self.state.next(self.now);
        let is_idle = next.effects.is_empty();
        for effect in next.effects {
            self.perform(effect)?;
        }
        match next.wake {
            Some(wake) if is_idle => self.now = wake,
            _ => {}
        }
        Ok(!is_idle || next.wake.is_some())
    }

    fn perform(&mut self, effect: Effect) -> Result<(), Crashed> {
        match effect {
            Effect::Record(events) => self.append(events),
            Effect::Finish { outcome, emissions, unsent } => {
                assert!(unsent.is_empty(), "{unsent:?}");
                // Committed together, so a crash loses both or neither.
                self.append(vec![Event::Finished { outcome, at: self.now }])?;
                self.emitted.extend(emissions);
                Ok(())
            }
            Effect::Run(attempt) => self.attempt(&attempt, false),
            Effect::Undo(attempt) => self.attempt(&attempt, true),
        }
    }

    fn attempt(&mut self, attempt: &Attempt, undo: bool) -> Result<(), Crashed> {
        let started = if undo { attempt.undo_started(self.now) } else { attempt.started(self.now) };
        match attempt.how {
            How::Fresh => self.append(vec![started])?,
            How::Again => self.state.note(&started).expect("the attempt was asked for"),
            How::Resumed | How::Lost => {}
        }
        let end = self.act(attempt, undo);
        self.happen()?;
        self.played(attempt, undo);
        let Some(entry) = self.state.settle(&attempt.step, end, self.now) else { return Ok(()) };
        match entry {
            Entry::Append(event) => self.append(vec![event]),
            Entry::Note(event) => {
                self.state.note(&event).expect("what settles an attempt is legal");
                Ok(())
            }
        }
    }

    /// What the world does; its trace stays even when the process dies right after.
    fn act(&mut self, attempt: &Attempt, undo: bool) -> AttemptEnd {
        let Attempt { step, how, .. } = attempt;
        if undo {
            let scripted = self.scripted(&format!("undo {step}"));
            if scripted.is_none() {
                self.log.push(format!("undo {step}"));
                self.world.remove(step);
            }
            return scripted.unwrap_or(AttemptEnd::Done(Value::Null));
        }
        let output = json!({"name": step});
        if *how != How::Fresh && self.world.contains(step) {
            return AttemptEnd::Done(output);
        }
        if *how == How::Lost {
            return AttemptEnd::Lost;
        }
        match self.scripted(step) {
            Some(AttemptEnd::Done(value)) => {
                self.world.insert(step.clone());
                AttemptEnd::Done(value)
            }
            Some(end) => end,
            None => {
                self.log.push(step.clone());
                if attempt.action != "look" {
                    self.world.insert(step.clone());
                }
                AttemptEnd::Done(output)
            }
        }
    }

    fn scripted(&self, what: &str) -> Option<AttemptEnd> {
        self.script.get(what)?.first().cloned()
    }

    /// The next attempt gets the next end; one that a crash cut off gets the same again.
    fn played(&mut self, attempt: &Attempt, undo: bool) {
        let what = if undo { format!("undo {}", attempt.step) } else { attempt.step.clone() };
        if let Some(ends) = self.script.get_mut(&what).filter(|ends| !ends.is_empty()) {
            ends.remove(0);
        }
    }

    fn append(&mut self, events: Vec<Event>) -> Result<(), Crashed> {
        for event in &events {
            self.state.apply(event).unwrap_or_else(|error| panic!("{error}: {event:?}"));
        }
        self.journal.extend(events);
        self.happen()
    }

    fn happen(&mut self) -> Result<(), Crashed> {
        self.happened += 1;
        if self.crash_at == Some(self.happened) { Err(Crashed) } else { Ok(()) }
    }

    /// The journal in short, one word per entry.
    pub(crate) fn story(&self) -> Vec<String> {
        self.journal.iter().map(short).collect()
    }
}

fn short(event: &Event) -> String {
    match event {
        Event::Opened(_) => "open".to_owned(),
        Event::Expanded { step, instances, .. } => format!("{step} x{}", instances.len()),
        Event::Skipped { step, .. } => format!("{step} skipped"),
        Event::Started { step, attempt, .. } => format!("{step} started {attempt}"),
        Event::Checkpointed { step, .. } => format!("{step} checkpoint"),
        Event::Waiting { step, reason, .. } => format!("{step} waits: {reason}"),
        Event::Succeeded { step, .. } => format!("{step} ok"),
        Event::Failed { step, retry_at: Some(_), .. } => format!("{step} failed, again"),
        Event::Failed { step, error, .. } => format!("{step} failed: {error}"),
        Event::UndoStarted { step, attempt, .. } => format!("{step} undo {attempt}"),
        Event::UndoSucceeded { step, .. } => format!("{step} undone"),
        Event::UndoFailed { step, retry_at: Some(_), .. } => format!("{step} undo failed, again"),
        Event::UndoFailed { step, error, .. } => format!("{step} undo failed: {error}"),
        Event::Halted { error, .. } => format!("halted: {error}"),
        Event::CancelRequested { .. } => "cancel".to_owned(),
        Event::UndoRequested { .. } => "undo".to_owned(),
        Event::Resumed { .. } => "resume".to_owned(),
        Event::Finished { outcome, .. } => format!("{outcome:?}").to_lowercase(),
    }
}

pub(crate) fn fail(message: &str) -> AttemptEnd {
    AttemptEnd::Fail(Failure::new(message))
}

pub(crate) fn again(message: &str) -> AttemptEnd {
    AttemptEnd::Retry(Failure::new(message))
}

pub(crate) fn wait(reason: &str, seconds: u64) -> AttemptEnd {
    AttemptEnd::Wait { reason: reason.to_owned(), after: Duration::from_secs(seconds), yields: false }
}
