//! The harness itself is put to the test: a contractor that is broken on purpose does not survive it.

use tests::survive::sabotage::Part;

/// Every bug of its own kind is found.
fn finds(part: Part) {
    let findings = part.findings().unwrap();
    assert!(!findings.is_empty());
    let missed: Vec<_> = findings.iter().filter(|(_, found)| found.is_none()).collect();
    assert!(missed.is_empty(), "bugs that nothing finds: {missed:?}");
}

#[test]
fn trials_find_what_is_wrong_with_a_driver_or_an_action() {
    finds(Part::Trials);
}

#[test]
fn the_state_machine_finds_what_is_wrong_with_a_driver() {
    finds(Part::StateMachine);
}

#[test]
fn the_real_actions_against_the_lab_show_which_of_them_is_wrong() {
    finds(Part::Deeds);
}

#[test]
fn strangers_find_a_contractor_that_destroys_by_number() {
    finds(Part::Fencing);
}

#[test]
fn kills_find_a_contractor_that_forgets() {
    finds(Part::Rounds);
}
