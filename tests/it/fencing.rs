//! The bounded part of `cargo survive -- --fencing`: strangers take over ids, names and tags of our machines, and not one
//! VM of theirs is touched.

use tests::survive::fencing;

/// Random histories; `cargo survive -- --fencing 1000` plays more.
const HISTORIES: u64 = 40;

#[test]
fn no_vm_of_a_stranger_is_touched_whatever_it_takes_over() {
    let tried = fencing::play(0..HISTORIES).unwrap();
    if let Some(failing) = &tried.failure {
        panic!("seed {}: {}\n    {}", failing.seed, failing.complaints.join("\n    "), failing.story);
    }
    let refused = tried.reasons.get("was not touched").copied().unwrap_or_default();
    // Some two deeds of a history have an effect: the others come when there is nothing to do them to.
    assert!(tried.deeds > 50 && refused > 10, "strangers were in our way: {tried:?}");
}
