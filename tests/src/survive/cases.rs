//! The scenarios that every playbook gets, made from its steps, and random ones from a seed.

use engine::{
    catalog::Undo,
    playbook::Policy,
    report::{Status, StepStatus},
    run::Command,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{Crash, Ending, Fault, FaultKind, Scenario, Subject, path::all_needs, play};

/// A scenario with what it is for.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows.
    pub group: &'static str,
    /// The scenario.
    pub scenario: Scenario,
}

/// Faults that the step's next attempt makes good.
const PASSING: [FaultKind; 6] = [
    FaultKind::Retry,
    FaultKind::LostReply,
    FaultKind::Wait,
    FaultKind::NoCapacity,
    FaultKind::Conflict,
    FaultKind::Hang,
];

/// Every scenario that follows from the playbook's steps; `untroubled` is its run in which nothing goes wrong.
pub fn all(subject: &Subject, untroubled: &Ending) -> Result<Vec<Case>, String> {
    let steps = steps(subject, untroubled);
    let mut cases = stops(subject, untroubled, &steps);
    if !subject.differs_in_failure {
        cases.extend(passes(untroubled, &steps));
    }
    if let Some(beginning) = Beginning::of(subject, untroubled, &steps) {
        cases.extend(rollbacks(subject, &beginning)?);
    }
    Ok(cases)
}

/// What goes by: the run succeeds as if nothing had been.
fn passes(untroubled: &Ending, steps: &[(String, Undo)]) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |group, scenario| cases.push(Case { group, scenario });
    let succeeds = || Scenario { expected: Some(Status::Succeeded), ..made() };
    let faults = twice(steps, false);
    add("every action twice", Scenario { faults, redelivers: true, ..succeeds() });
    for (step, _) in steps {
        for kind in PASSING.into_iter().chain([FaultKind::Panic]) {
            let faults = vec![fault(step, false, kind)];
            add("passing fault at each step", Scenario { faults, ..succeeds() });
        }
    }
    for crash in crashes(1..=untroubled.commits) {
        let scenario = Scenario { crashes: vec![crash], redelivers: true, ..succeeds() };
        add("crash at each journal write", scenario);
    }
    cases
}

/// What stops the run: a step that fails for good, or somebody who asks for it.
fn stops(subject: &Subject, untroubled: &Ending, steps: &[(String, Undo)]) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |group, scenario| cases.push(Case { group, scenario });
    for (step, _) in steps {
        let fails = || Scenario { expected: fails(subject, step), ..made() };
        for kind in [FaultKind::Fail, FaultKind::FailLate] {
            let failing = fault(step, false, kind);
            add("failure at each step", Scenario { faults: vec![failing.clone()], ..fails() });
            if fails().expected.is_none_or(|end| end == Status::Undone) {
                let faults = twice(steps, true).into_iter().chain([failing]).collect();
                add("failure at each step, every undo twice", Scenario { faults, ..fails() });
            }
        }
    }
    for commit in 1..=untroubled.commits {
        for command in [Command::Cancel, Command::Undo] {
            add("cancel and undo at each journal write", Scenario { commands: vec![(commit, command)], ..made() });
        }
    }
    for (step, _) in steps {
        // Who cancels does not wait for an attempt that hears nothing.
        let faults = vec![fault(step, false, FaultKind::Hang)];
        let commands = vec![(commit_of(untroubled, step), Command::Cancel)];
        add("cancel while each step hangs", Scenario { faults, commands, ..made() });
    }
    if !untroubled.sent.is_empty() {
        let expected = Some(if is_final(subject) { Status::Paused } else { by_policy(subject.policy()) });
        add("what it hands over is refused", Scenario { refuses: true, expected, ..made() });
    }
    cases
}

/// How a run begins that is taken back.
struct Beginning {
    scenario: Scenario,
    /// From this commit on it is.
    from: u64,
    /// What there is to undo then.
    undos: Vec<String>,
}

impl Beginning {
    /// Its last step fails; or somebody asks for it, once all is done or before the first thing is that cannot be taken
    /// back. None where that is the first thing it does.
    fn of(subject: &Subject, untroubled: &Ending, steps: &[(String, Undo)]) -> Option<Self> {
        let starts: Vec<_> = steps.iter().map(|(step, undo)| (step, *undo, commit_of(untroubled, step))).collect();
        let (last, ..) = starts.last()?;
        let (scenario, from) = if fails(subject, last) == Some(Status::Undone) {
            (Scenario { faults: vec![fault(last, false, FaultKind::Fail)], ..made() }, untroubled.commits)
        } else {
            let is_final = |undo| undo == Undo::Irreversible;
            let end = starts.iter().filter(|(_, undo, _)| is_final(*undo)).map(|(.., commit)| *commit).min();
            let commit = match end {
                Some(end) => starts.iter().map(|(.., commit)| *commit).filter(|commit| *commit < end).max()?,
                None => untroubled.commits,
            };
            (Scenario { commands: vec![(commit, Command::Undo)], ..made() }, commit)
        };
        let undos = starts.iter().filter(|(_, undo, commit)| *undo == Undo::Yes && *commit <= from);
        Some(Self { undos: undos.map(|(step, ..)| (*step).clone()).collect(), scenario, from })
    }
}

/// What can go wrong while a run is taken back.
fn rollbacks(subject: &Subject, beginning: &Beginning) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    let with = |more: Fault| {
        let faults = beginning.scenario.faults.iter().cloned().chain([more]).collect();
        Scenario { faults, expected: Some(Status::Undone), ..beginning.scenario.clone() }
    };
    for step in &beginning.undos {
        for (mends, expected) in [(false, Status::Stuck), (true, Status::Undone)] {
            let failing = with(fault(step, true, FaultKind::Fail));
            let scenario = Scenario { mends, bystander: true, expected: Some(expected), ..failing };
            cases.push(Case { group: "an undo fails: stuck, then mended", scenario });
        }
        for kind in PASSING.into_iter().chain([FaultKind::Panic]) {
            cases.push(Case { group: "passing fault at each undo", scenario: with(fault(step, true, kind)) });
        }
    }
    let ending = play(subject, &beginning.scenario)?;
    // Of what was before the order, other cases tell.
    let first = if beginning.scenario.commands.is_empty() { 1 } else { beginning.from + 1 };
    for crash in crashes(first..=ending.commits) {
        let scenario = Scenario { crashes: vec![crash], expected: Some(Status::Undone), ..beginning.scenario.clone() };
        cases.push(Case { group: "crash at each write of a rollback", scenario });
    }
    Ok(cases)
}

/// A scenario in which anything may go wrong, the same for the same seed.
pub fn random(subject: &Subject, untroubled: &Ending, seed: u64) -> Scenario {
    let mut random = StdRng::seed_from_u64(seed);
    let steps = steps(subject, untroubled);
    let mut scenario = Scenario {
        redelivers: random.random_bool(0.3),
        mends: random.random_bool(0.5),
        bystander: random.random_bool(0.2),
        ..Scenario::default()
    };
    for _ in 0..random.random_range(0..5) {
        let Some((step, undo)) = steps.choose(&mut random) else { break };
        let is_undo = *undo == Undo::Yes && random.random_bool(0.3);
        let kind = match random.random_range(0..12) {
            0 => FaultKind::Fail,
            1 => FaultKind::FailLate,
            2 => FaultKind::Panic,
            other => PASSING[other % PASSING.len()],
        };
        scenario.faults.push(Fault { times: random.random_range(1..4), ..fault(step, is_undo, kind) });
    }
    for _ in 0..random.random_range(0..4) {
        let crash = Crash { commit: random.random_range(1..=untroubled.commits * 2), durable: random.random() };
        scenario.crashes.push(crash);
    }
    for _ in 0..random.random_range(0..3) {
        let commands = [Command::Cancel, Command::Undo, Command::Resume];
        let command = *commands.choose(&mut random).unwrap_or(&Command::Cancel);
        scenario.commands.push((random.random_range(1..=untroubled.commits * 2), command));
    }
    scenario
}

/// The instances that did something, in the order of the playbook, with what undoing them means.
fn steps(subject: &Subject, untroubled: &Ending) -> Vec<(String, Undo)> {
    let done = untroubled.report.steps.iter().filter(|step| step.status == StepStatus::Succeeded);
    done.filter_map(|step| Some((step.step.clone(), subject.undo_of(&step.does)?))).collect()
}

fn fault(step: &str, undo: bool, kind: FaultKind) -> Fault {
    Fault { step: step.to_owned(), undo, kind, times: 1 }
}

/// Every action, or every undo, does what it should and is run again because its reply was lost.
fn twice(steps: &[(String, Undo)], undo: bool) -> Vec<Fault> {
    let steps = steps.iter().filter(|(_, kind)| !undo || *kind == Undo::Yes);
    steps.map(|(step, _)| fault(step, undo, FaultKind::LostReply)).collect()
}

/// The commit after which the step acts.
fn commit_of(untroubled: &Ending, step: &str) -> u64 {
    untroubled.started.get(step).copied().unwrap_or(1)
}

fn crashes(commits: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = Crash> {
    commits.flat_map(|commit| [false, true].map(|durable| Crash { commit, durable }))
}

/// A scenario that was made for the playbook, in which nothing goes wrong yet.
fn made() -> Scenario {
    Scenario { made: true, ..Scenario::default() }
}

fn by_policy(policy: Policy) -> Status {
    match policy {
        Policy::Rollback => Status::Undone,
        Policy::Keep => Status::Kept,
        Policy::Pause => Status::Paused,
    }
}

/// Whether something in it cannot be taken back.
pub(super) fn is_final(subject: &Subject) -> bool {
    subject.definition().playbook.commit_point.is_some() || subject.definition().is_irreversible()
}

/// How a run ends in which the step fails for good; none where that depends on who is faster.
fn fails(subject: &Subject, step: &str) -> Option<Status> {
    let definition = subject.definition();
    let id = step.split(['[', '.']).next().unwrap_or(step);
    let by_policy = by_policy(subject.policy());
    let place = |name: &str| definition.playbook.steps.iter().position(|step| step.id.value == name);
    let Some(point) = definition.playbook.commit_point.as_ref().and_then(|point| place(&point.value)) else {
        return Some(by_policy);
    };
    let at = place(id)?;
    let needs = |from: usize, to: usize| all_needs(&definition.links, from)[to];
    match (needs(at, point), needs(point, at)) {
        (true, _) => Some(Status::Paused),
        (false, true) => Some(by_policy),
        (false, false) => None,
    }
}
