//! Runs every playbook through every failure that a machine can think of, with fakes behind the driver's ports.
//!
//! A [`Scenario`] says what goes wrong: attempts that fail, wait, hang or panic, actions and undos that run twice,
//! commits at which the process dies, commands and redelivered messages. [`play`] plays it on the real driver with
//! paused time, [`judge`] compares its end with that of an untroubled run, and [`cases`] makes the scenarios from the
//! playbook's steps, so that a new playbook gets them for free.

pub mod cases;
pub mod example;
pub mod journal;
pub mod play;
pub mod subject;
pub mod world;

use std::{collections::BTreeSet, fmt};

use engine::{report::Status, run::Command};
pub use play::{Ending, play};
pub use subject::Subject;

/// What goes wrong in one life of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scenario {
    /// Attempts that do not go well.
    pub faults: Vec<Fault>,
    /// The process dies at these commits, counted over all its lives.
    pub crashes: Vec<Crash>,
    /// What somebody asks for once so many commits are durable.
    pub commands: Vec<(u64, Command)>,
    /// Whether every action and undo runs twice in a row.
    pub repeats: bool,
    /// Whether the message arrives again in every life.
    pub redelivers: bool,
    /// Whether an operator mends the world of a stuck run and resumes it.
    pub mends: bool,
    /// How it must end, where that is known.
    pub expected: Option<Status>,
}

/// Attempts of one step instance that do not go well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The step instance.
    pub step: String,
    /// Whether it is its undo.
    pub undo: bool,
    /// What happens.
    pub kind: FaultKind,
    /// How often; each is used up once.
    pub times: u32,
}

/// What an attempt does instead of going well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Fails for good.
    Fail,
    /// Fails, and another attempt may help.
    Retry,
    /// Does what it should, and fails all the same: the reply was lost.
    LostReply,
    /// The world is not ready.
    Wait,
    /// There is no room.
    NoCapacity,
    /// The inventory changed meanwhile.
    Conflict,
    /// Never ends.
    Hang,
    /// Panics.
    Panic,
}

/// The process dies around a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash {
    /// The commit, counted from 1 over all lives.
    pub commit: u64,
    /// Whether it was durable.
    pub durable: bool,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for Fault { step, undo, kind, times } in &self.faults {
            let what = if *undo { format!("undo of {step}") } else { step.clone() };
            parts.push(format!("{what}: {kind:?} x{times}"));
        }
        for Crash { commit, durable } in &self.crashes {
            parts.push(format!("dies {} commit {commit}", if *durable { "after" } else { "before" }));
        }
        parts.extend(self.commands.iter().map(|(commit, command)| format!("{command:?} at commit {commit}")));
        parts.extend(self.repeats.then(|| "everything twice".to_owned()));
        parts.extend(self.redelivers.then(|| "redelivered".to_owned()));
        f.write_str(if parts.is_empty() { "nothing goes wrong" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

/// Whether the ending is one that the scenario allows; `untroubled` is that of a run in which nothing goes wrong.
pub fn judge(subject: &Subject, scenario: &Scenario, ending: &Ending, untroubled: &Ending) -> Result<(), String> {
    let status = ending.status;
    if scenario.expected.is_some_and(|expected| expected != status) {
        return Err(format!("ends {status:?} instead of {:?}", scenario.expected));
    }
    if !status.is_terminal() && !status.needs_operator() {
        return Err(format!("does not end: {status:?}"));
    }
    if let Some(twice) = ending.first_repeated_message() {
        return Err(format!("message {twice} was sent twice"));
    }
    if ending.runs != 1 {
        return Err(format!("{} runs of one message", ending.runs));
    }
    match status {
        Status::Succeeded if ending.objects != untroubled.objects => {
            Err(format!("succeeds with another world: {}", difference(&untroubled.objects, &ending.objects)))
        }
        Status::Succeeded if ending.messages != untroubled.messages => Err("succeeds with other messages".to_owned()),
        Status::Undone if !ending.objects.is_empty() => Err(format!("is undone and leaves {:?}", ending.objects)),
        Status::Cancelled if subject.rolls_back() && scenario.commands.len() < 2 && !ending.objects.is_empty() => {
            Err(format!("is cancelled and leaves {:?}", ending.objects))
        }
        Status::Stuck if !scenario.faults.iter().any(|fault| fault.undo) => Err("is stuck for no reason".to_owned()),
        _ => Ok(()),
    }
}

fn difference(expected: &BTreeSet<String>, found: &BTreeSet<String>) -> String {
    let missing: Vec<_> = expected.difference(found).collect();
    let surplus: Vec<_> = found.difference(expected).collect();
    format!("missing {missing:?}, too much {surplus:?}")
}

/// The shortest part of `scenario` that still makes `fails` true.
pub fn shrink(scenario: &Scenario, fails: &dyn Fn(&Scenario) -> bool) -> Scenario {
    let mut shortest = scenario.clone();
    loop {
        let Some(shorter) = shorter(&shortest).into_iter().find(|shorter| fails(shorter)) else { return shortest };
        shortest = shorter;
    }
}

fn shorter(scenario: &Scenario) -> Vec<Scenario> {
    let mut found = Vec::new();
    let with = |change: &dyn Fn(&mut Scenario)| {
        let mut shorter = scenario.clone();
        change(&mut shorter);
        shorter
    };
    for at in 0..scenario.faults.len() {
        found.push(with(&|it| _ = it.faults.remove(at)));
        if scenario.faults[at].times > 1 {
            found.push(with(&|it| it.faults[at].times = 1));
        }
    }
    found.extend((0..scenario.crashes.len()).map(|at| with(&|it| _ = it.crashes.remove(at))));
    found.extend((0..scenario.commands.len()).map(|at| with(&|it| _ = it.commands.remove(at))));
    found.extend(scenario.repeats.then(|| with(&|it| it.repeats = false)));
    found.extend(scenario.redelivers.then(|| with(&|it| it.redelivers = false)));
    found
}
