//! The bounded part of `cargo survive`: every playbook through every failure, with fakes behind the driver's ports.

use std::collections::BTreeSet;

use tests::survive::{
    Subject, deeds, machine, plans, recorded,
    sabotage::{self, Bug},
    trial,
};

/// Random cases for each playbook; `cargo survive` has more.
const RANDOM: u64 = 5;
/// Every so many steps and commits are put to the test; `cargo survive -- --deeds` takes all.
const EVERY: usize = 12;

#[test]
fn every_playbook_survives_every_failure() {
    let subjects = Subject::every().unwrap();
    assert_eq!(trial::unreached(&subjects).unwrap(), BTreeSet::new(), "every step is put to the test");
    let mut told = Vec::new();
    let mut cases = 0;
    for subject in &subjects {
        let tried = trial::of(subject, 0..RANDOM).unwrap();
        cases += tried.cases();
        let failures = tried.failures.iter();
        told.extend(failures.map(|it| format!("{} ({}): {}\n    {}", tried.title, it.group, it.reason, it.story)));
    }
    assert!(told.is_empty(), "{} of {cases} cases:\n{}", told.len(), told.join("\n"));
}

/// Every file of `playbooks/`, with inputs made from its schema; `deeds` plans and runs them with the real actions.
#[test]
fn every_shipped_playbook_is_planned_and_its_plan_tells_of_every_step_that_runs() {
    let subjects = Subject::shipped().unwrap();
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../playbooks")).unwrap();
    let files: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    let shipped: BTreeSet<&str> = files.iter().filter_map(|name| name.strip_suffix(".yaml")).collect();
    let planned: BTreeSet<&str> = subjects.iter().map(|subject| &*subject.playbook).collect();
    assert_eq!(planned, shipped);
    let wrong: Vec<_> = subjects.iter().flat_map(|subject| plans::wrong(subject).unwrap()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn runs_survive_whatever_happens_in_whatever_order() {
    machine::play_all(1, 100).unwrap_or_else(|story| panic!("{story}"));
}

#[test]
fn a_contractor_with_a_bug_does_not_survive() {
    let missed: Vec<_> = Bug::ALL.into_iter().filter(|bug| sabotage::found(*bug).unwrap().is_none()).collect();
    assert_eq!(missed, [], "bugs that no case finds");
}

#[test]
fn the_real_actions_leave_nothing_behind_that_was_taken_back() {
    let mut told = Vec::new();
    let life = deeds::live(deeds::Options { every: EVERY, seed: 1 }, &mut |tried| {
        told.extend(tried.failures.iter().map(|failure| format!("{}: {failure}", tried.playbook)));
    });
    assert!(told.is_empty(), "{}", told.join("\n"));
    life.unwrap();
}

#[test]
fn every_shipped_playbook_has_recorded_journals() {
    let subjects = Subject::shipped().unwrap();
    assert_eq!(recorded::forgotten(&recorded::folder(), &subjects).unwrap(), BTreeSet::new());
}

#[test]
fn recorded_journals_of_every_version_still_replay() {
    let subjects = Subject::shipped().unwrap();
    let specs: Vec<_> = subjects.into_iter().flat_map(|subject| subject.specs).collect();
    for file in std::fs::read_dir(recorded::folder()).unwrap() {
        recorded::replay(&file.unwrap().path(), &specs).unwrap_or_else(|error| panic!("{error:#}"));
    }
}
