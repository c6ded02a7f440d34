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
    add("every action twice", Scenario { repeats: true, redelivers: true, expected: succeeded, ..quiet() });
    let steps = steps(subject, untroubled);
    for (step, _) in &steps {
        let failed = fails(subject, step);
        for repeats in [false, true] {
            let group = if repeats { "failure at each step, every undo twice" } else { "failure at each step" };
            let expected = failed;
            add(group, Scenario { faults: vec![fault(step, false, FaultKind::Fail)], repeats, expected, ..quiet() });
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
            let scenario = Scenario { faults, mends, expected, ..Scenario::default() };
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
        repeats: random.random_bool(0.2),
        redelivers: random.random_bool(0.3),
        mends: random.random_bool(0.5),
        ..Scenario::default()
    };
    for _ in 0..random.random_range(0..5) {
        let Some((step, undo)) = steps.choose(&mut random) else { break };
        let is_undo = *undo == Undo::Yes && random.random_bool(0.3);
        let kind = match random.random_range(0..12) {
            0 | 1 => FaultKind::Fail,
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
