//! The scenarios that every playbook gets, made from its steps, and random ones from a seed.

use engine::{
    catalog::Undo,
    playbook::Policy,
    report::{Status, StepStatus},
    run::Command,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{Crash, Ending, Fault, FaultKind, Scenario, Subject, play};

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
    let mut cases = Vec::new();
    let mut add = |group, scenario| cases.push(Case { group, scenario });
    let succeeded = Some(Status::Succeeded);
    let quiet = Scenario::default;
    let steps = steps(subject, untroubled);
    let repeated = Scenario { faults: twice(&steps, false), redelivers: true, expected: succeeded, ..quiet() };
    add("every action twice", repeated);
    for (step, _) in &steps {
        let failed = fails(subject, step);
        for kind in [FaultKind::Fail, FaultKind::FailLate] {
            let faults = vec![fault(step, false, kind)];
            add("failure at each step", Scenario { faults, expected: failed, ..quiet() });
            let mut faults = self::twice(&steps, true);
            faults.push(fault(step, false, kind));
            add("failure at each step, every undo twice", Scenario { faults, expected: failed, ..quiet() });
        }
        for kind in PASSING.into_iter().chain([FaultKind::Panic]) {
            let faults = vec![fault(step, false, kind)];
            add("passing fault at each step", Scenario { faults, expected: succeeded, ..quiet() });
        }
    }
    for (commit, durable) in commits(untroubled) {
        let crashes = vec![Crash { commit, durable }];
        let scenario = Scenario { crashes, expected: succeeded, redelivers: true, ..quiet() };
        add("crash at each journal write", scenario);
    }
    for commit in 1..=untroubled.commits {
        for command in [Command::Cancel, Command::Undo] {
            add("cancel and undo at each journal write", Scenario { commands: vec![(commit, command)], ..quiet() });
        }
    }
    for (step, _) in &steps {
        // Who cancels does not wait for an attempt that hears nothing.
        let faults = vec![fault(step, false, FaultKind::Hang)];
        let commands = vec![(commit_of(untroubled, step), Command::Cancel)];
        add("cancel while each step hangs", Scenario { faults, commands, ..quiet() });
    }
    if let Some((last, _)) = steps.last().filter(|(last, _)| fails(subject, last) == Some(Status::Undone)) {
        cases.extend(rollbacks(subject, &steps, last)?);
    }
    Ok(cases)
}

/// What can go wrong while the failure of `last` is rolled back.
fn rollbacks(subject: &Subject, steps: &[(String, Undo)], last: &str) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    let failing = Scenario { faults: vec![fault(last, false, FaultKind::Fail)], ..Scenario::default() };
    let undone = Some(Status::Undone);
    for (step, _) in steps.iter().filter(|(_, undo)| *undo == Undo::Yes) {
        for (mends, expected) in [(false, Some(Status::Stuck)), (true, undone)] {
            let faults = vec![failing.faults[0].clone(), fault(step, true, FaultKind::Fail)];
            let scenario = Scenario { faults, mends, bystander: true, expected, ..Scenario::default() };
            cases.push(Case { group: "an undo fails: stuck, then mended", scenario });
        }
        for kind in PASSING.into_iter().chain([FaultKind::Panic]) {
            let faults = vec![failing.faults[0].clone(), fault(step, true, kind)];
            let scenario = Scenario { faults, expected: undone, ..Scenario::default() };
            cases.push(Case { group: "passing fault at each undo", scenario });
        }
    }
    let ending = play(subject, &failing)?;
    for (commit, durable) in commits(&ending) {
        let crashes = vec![Crash { commit, durable }];
        let scenario = Scenario { crashes, expected: undone, ..failing.clone() };
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

/// The entry that says that the step is about to act.
fn commit_of(untroubled: &Ending, step: &str) -> u64 {
    let is_start = |event: &serde_json::Value| event["event"] == "started" && event["step"] == step;
    untroubled.journal.iter().position(is_start).map_or(1, |at| at as u64 + 1)
}

fn commits(ending: &Ending) -> impl Iterator<Item = (u64, bool)> {
    (1..=ending.commits).flat_map(|commit| [(commit, false), (commit, true)])
}

/// How a run ends in which the step fails for good; none where that depends on who is faster.
fn fails(subject: &Subject, step: &str) -> Option<Status> {
    let definition = subject.definition();
    let id = step.split(['[', '.']).next().unwrap_or(step);
    let by_policy = match subject.policy() {
        Policy::Rollback => Status::Undone,
        Policy::Keep => Status::Kept,
        Policy::Pause => Status::Paused,
    };
    let place = |name: &str| definition.playbook.steps.iter().position(|step| step.id.value == name);
    let Some(point) = definition.playbook.commit_point.as_ref().and_then(|point| place(&point.value)) else {
        return Some(by_policy);
    };
    let at = place(id)?;
    let needs = |from: usize, to: usize| {
        let (mut seen, mut next) = (vec![false; definition.links.len()], vec![from]);
        while let Some(step) = next.pop() {
            seen[step] = true;
            next.extend(definition.links[step].needs.iter().filter(|need| !seen[**need]));
        }
        seen[to]
    };
    match (needs(at, point), needs(point, at)) {
        (true, _) => Some(Status::Paused),
        (false, true) => Some(by_policy),
        (false, false) => None,
    }
}
