//! Runs every playbook through every failure that a machine can think of, with fakes behind the driver's ports.
//!
//! A [`Scenario`] says what goes wrong: attempts that fail, wait, hang or panic, actions and undos that run twice,
//! commits at which the process dies, commands and redelivered messages. [`play`] plays it on the real driver with
//! paused time, [`judge`] compares its end with that of an untroubled run, and [`cases`] makes the scenarios from the
//! playbook's steps, so that a new playbook gets them for free.
//!
//! What this proves is about engine, driver and playbooks: the [`witness`] sees that they keep their promises to the
//! actions, and the world that they leave nothing behind. That the actions keep theirs is for [`deeds`] to prove, which
//! runs the real ones against the simulators, and that the whole does, for [`rounds`] with processes that are killed.

pub mod cases;
pub mod deeds;
pub mod example;
pub mod fencing;
pub mod gate;
pub mod journal;
mod judge;
pub mod machine;
mod path;
pub mod plans;
pub mod play;
pub mod recorded;
pub mod rounds;
pub mod sabotage;
pub mod soak;
pub mod subject;
pub mod trial;
pub mod variants;
pub mod witness;
pub mod world;

use std::fmt;

use engine::{report::Status, run::Command};
pub use judge::judge;
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
    /// Whether the message arrives again in every life.
    pub redelivers: bool,
    /// Whether an operator mends the world of a stuck run and resumes it.
    pub mends: bool,
    /// Whether another run is started with it, and one more once it needs an operator; both must go well.
    pub bystander: bool,
    /// Whether the messages that it hands over when it succeeds are refused.
    pub refuses: bool,
    /// How it must end, where that is known.
    pub expected: Option<Status>,
    /// Whether all of it is known to come to pass: it was made for this playbook, and not by chance.
    pub made: bool,
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
    /// Does what it should, and fails for good all the same.
    FailLate,
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

impl FaultKind {
    /// Whether no further attempt makes it good.
    pub fn is_permanent(self) -> bool {
        matches!(self, Self::Fail | Self::FailLate)
    }
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
        parts.extend(self.redelivers.then(|| "redelivered".to_owned()));
        parts.extend(self.mends.then(|| "mended once stuck".to_owned()));
        parts.extend(self.bystander.then(|| "another run beside it".to_owned()));
        parts.extend(self.refuses.then(|| "what it hands over is refused".to_owned()));
        f.write_str(if parts.is_empty() { "nothing goes wrong" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
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
    found.extend(scenario.redelivers.then(|| with(&|it| it.redelivers = false)));
    found.extend(scenario.mends.then(|| with(&|it| it.mends = false)));
    found.extend(scenario.bystander.then(|| with(&|it| it.bystander = false)));
    found.extend(scenario.refuses.then(|| with(&|it| it.refuses = false)));
    found
}
