//! Every case of every subject, on all processors, and what came of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use engine::report::{Status, StepStatus};

use super::{
    Ending, Scenario, Subject,
    cases::{self, Case},
    judge, play, shrink,
};

/// What was tried with one subject.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The playbook, and what is special about its input.
    pub title: String,
    /// Step instances that succeed when nothing goes wrong.
    pub steps: usize,
    /// Number of cases by what they show.
    pub groups: BTreeMap<&'static str, usize>,
    /// Cases that ended as they must not.
    pub failures: Vec<Failure>,
    /// How long it took.
    pub took: Duration,
}

/// A case that ended as it must not.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What it should have shown.
    pub group: &'static str,
    /// What is wrong.
    pub reason: String,
    /// The shortest story with that fault.
    pub story: String,
}

impl Tried {
    /// How many cases.
    pub fn cases(&self) -> usize {
        self.groups.values().sum()
    }
}

/// Tries every case that follows from the subject's steps, and a random one for each seed.
///
/// # Errors
/// If the subject does not even succeed when nothing goes wrong: then its cases would show nothing.
pub fn of(subject: &Subject, seeds: std::ops::Range<u64>) -> Result<Tried, String> {
    let began = Instant::now();
    let untroubled = untroubled(subject)?;
    let mut all = cases::all(subject, &untroubled)?;
    all.extend(seeds.map(|seed| Case { group: "random", scenario: cases::random(subject, &untroubled, seed) }));
    let mut groups = BTreeMap::new();
    for case in &all {
        *groups.entry(case.group).or_insert(0) += 1;
    }
    let failures = on_all_processors(&all, &|case| try_one(subject, case, &untroubled));
    let is_done = |status| status == StepStatus::Succeeded;
    let steps = untroubled.report.steps.iter().filter(|step| is_done(step.status)).count();
    Ok(Tried { title: subject.title(), steps, groups, failures, took: began.elapsed() })
}

/// The run in which nothing goes wrong.
///
/// # Errors
/// If it does not succeed.
pub fn untroubled(subject: &Subject) -> Result<Ending, String> {
    let ending = play(subject, &Scenario::default())?;
    if let Some(lost) = ending.handed.iter().find(|id| !ending.sent.contains(id)) {
        return Err(format!("{}: message {lost} is lost", subject.title()));
    }
    match (ending.status, ending.broken.first()) {
        (Status::Succeeded, None) => Ok(ending),
        (Status::Succeeded, Some(broken)) => Err(format!("{}: {broken}", subject.title())),
        (status, _) => {
            let title = subject.title();
            let why = ending.report.failure.map(|failure| failure.error.message).unwrap_or_default();
            Err(format!("{title} ends {status:?} although nothing goes wrong: {why}"))
        }
    }
}

/// Steps of shipped playbooks that no subject reaches: nothing is known of them.
///
/// # Errors
/// If a subject does not succeed when nothing goes wrong.
pub fn unreached(subjects: &[Subject]) -> Result<BTreeSet<String>, String> {
    let (mut all, mut reached) = (BTreeSet::new(), BTreeSet::new());
    for subject in subjects {
        let of = |id: &str| format!("{}: {id}", subject.playbook);
        all.extend(subject.definition().playbook.steps.iter().map(|step| of(&step.id.value)));
        for event in untroubled(subject)?.journal.iter().filter(|event| event["event"] == "succeeded") {
            let step = event["step"].as_str().unwrap_or_default();
            reached.insert(of(step.split(['[', '.']).next().unwrap_or(step)));
        }
    }
    Ok(all.difference(&reached).cloned().collect())
}

fn try_one(subject: &Subject, case: &Case, untroubled: &Ending) -> Option<Failure> {
    let check = |scenario: &Scenario| {
        let ending = play(subject, scenario)?;
        judge(subject, scenario, &ending, untroubled)
    };
    let reason = check(&case.scenario).err()?;
    // A made case is as short as it gets; what is expected of it is not expected of its parts.
    let shortest = shrink(&case.scenario, &|scenario| !case.scenario.made && check(scenario).is_err());
    let reason = check(&shortest).err().unwrap_or(reason);
    Some(Failure { group: case.group, reason, story: shortest.to_string() })
}

/// What `work` finds, in the order of the cases.
fn on_all_processors<F: Send>(cases: &[Case], work: &(dyn Fn(&Case) -> Option<F> + Sync)) -> Vec<F> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut found = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(at) else { return found };
            found.extend(work(case).map(|failure| (at, failure)));
        }
    };
    let mut found = thread::scope(|scope| {
        let workers = thread::available_parallelism().map_or(1, NonZero::get);
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a case does not panic")).collect::<Vec<_>>()
    });
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, failure)| failure).collect()
}
