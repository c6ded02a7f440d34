//! The bounded part of `cargo survive`: every playbook through every failure, with fakes behind the driver's ports.

use std::collections::BTreeSet;

use tests::survive::{Subject, deeds, machine, plans, recorded, trial};

/// Random cases for each playbook; `cargo survive` has more.
const RANDOM: u64 = 5;
/// Every so many steps and commits are put to the test; `cargo survive -- --deeds` takes all.
const EVERY: usize = 12;
/// Runs go on from every so many entries of recorded journals.
const EVERY_ENTRY: usize = 3;

/// With the same seed each time, so that a change is judged by what it changes; `SURVIVE_SEED` takes another, and
/// `cargo survive` another each time.
fn seed() -> u64 {
    std::env::var("SURVIVE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// The playbooks that ship.
fn shipped() -> BTreeSet<String> {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../playbooks")).unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    files.filter_map(|name| Some(name.strip_suffix(".yaml")?.to_owned())).collect()
}

#[test]
fn every_playbook_survives_every_failure() {
    let seed = seed();
    println!("SURVIVE_SEED={seed}");
    let subjects = Subject::every().unwrap();
    assert_eq!(trial::unreached(&subjects).unwrap(), BTreeSet::new(), "every step is put to the test");
    let mut told = Vec::new();
    let mut cases = 0;
    for subject in &subjects {
        let tried = trial::of(subject, seed..seed + RANDOM).unwrap();
        println!("{}: {} cases, {:.1} s", tried.title, tried.cases(), tried.took.as_secs_f64());
        cases += tried.cases();
        let failures = tried.failures.iter();
        told.extend(failures.map(|it| format!("{} ({}): {}\n    {}", tried.title, it.group, it.reason, it.story)));
    }
    println!("{cases} cases");
    assert!(told.is_empty(), "SURVIVE_SEED={seed}: {} of {cases} cases:\n{}", told.len(), told.join("\n"));
}

/// Every file of `playbooks/`, with inputs made from its schema; `deeds` plans and runs them with the real actions.
#[test]
fn every_shipped_playbook_is_planned_and_its_plan_tells_of_every_step_that_runs() {
    let subjects = Subject::shipped().unwrap();
    let planned: BTreeSet<_> = subjects.iter().map(|subject| subject.playbook.clone()).collect();
    assert_eq!(planned, shipped());
    let wrong: Vec<_> = subjects.iter().flat_map(|subject| plans::wrong(subject).unwrap()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn runs_survive_whatever_happens_in_whatever_order() {
    let seed = seed();
    println!("SURVIVE_SEED={seed}");
    machine::play_all(seed, 100, None).unwrap_or_else(|story| panic!("SURVIVE_SEED={seed}: {story}"));
}

#[test]
fn the_real_actions_leave_nothing_behind_that_was_taken_back() {
    let seed = seed();
    println!("SURVIVE_SEED={seed}");
    let (mut told, mut played, mut runs) = (Vec::new(), BTreeSet::new(), 0);
    let life = deeds::live(deeds::Options { every: EVERY, seed, playbook: String::new() }, &mut |tried| {
        println!("{}: {} runs, {:.1} s", tried.playbook, tried.runs, tried.took.as_secs_f64());
        told.extend(tried.failures.iter().map(|failure| format!("{}: {failure}", tried.playbook)));
        played.extend(tried.called.iter().cloned().chain([tried.playbook.clone()]));
        runs += tried.runs;
    });
    println!("{runs} runs");
    assert!(told.is_empty(), "SURVIVE_SEED={seed}: {}", told.join("\n"));
    life.unwrap_or_else(|error| panic!("SURVIVE_SEED={seed}: {error:#}"));
    assert_eq!(played, shipped(), "every playbook is played with its real actions");
}

#[test]
fn every_shipped_playbook_has_recorded_journals() {
    let subjects = Subject::shipped().unwrap();
    assert_eq!(recorded::forgotten(&recorded::folder(), &subjects).unwrap(), BTreeSet::new());
}

#[test]
fn recorded_journals_of_every_version_still_replay_and_hold_every_kind_of_entry() {
    let subjects = Subject::shipped().unwrap();
    let specs: Vec<_> = subjects.into_iter().flat_map(|subject| subject.specs).collect();
    let mut kinds = BTreeSet::new();
    for file in std::fs::read_dir(recorded::folder()).unwrap() {
        let replayed = recorded::replay(&file.unwrap().path(), &specs);
        kinds.extend(replayed.unwrap_or_else(|error| panic!("{error:#}")));
    }
    assert_eq!(kinds, BTreeSet::from(recorded::KINDS));
}

#[test]
fn runs_go_on_from_entries_of_recorded_journals() {
    let seed = seed();
    println!("SURVIVE_SEED={seed}");
    let (mut count, first) = (0, 1 + usize::try_from(seed).unwrap() % EVERY_ENTRY);
    for subject in Subject::shipped().unwrap() {
        let gone_on = recorded::go_on(&recorded::folder(), &subject, (first, EVERY_ENTRY));
        count += gone_on.unwrap_or_else(|error| panic!("SURVIVE_SEED={seed}: {error:#}"));
    }
    println!("{count} beginnings");
    assert!(count > 0);
}
