//! A crash after every append, and between every act and its append, comes to the same end.

use engine::{report::Status, run::Command};
use serde_json::json;

use crate::{
    semantics::DIAMOND,
    simulation::{Simulation, again, fail, load, wait},
};

/// Plays the story without a crash, then with one at every point, and compares the ends.
fn check(name: &str, new: impl Fn() -> Simulation) {
    let mut whole = new();
    let status = whole.play();
    for crash_at in 1..=whole.happened {
        let mut crashed = new();
        crashed.crash_at = Some(crash_at);
        assert_eq!(crashed.play(), status, "{name}, crash at {crash_at}: {:#?}", crashed.story());
        assert_eq!(crashed.world, whole.world, "{name}, crash at {crash_at}: {:#?}", crashed.story());
        let told = |it: &Simulation| it.emitted.iter().map(|it| (it.id, it.name.clone())).collect::<Vec<_>>();
        // The simulation loses what a crash between `finished` and its messages loses; the store loses neither.
        if crash_at < whole.happened {
            assert_eq!(told(&crashed), told(&whole), "{name}, crash at {crash_at}");
        }
    }
}

#[test]
fn crash_at_each_journal_write_resumes_to_the_same_end() {
    let diamond = load(&[DIAMOND]);
    let new = || Simulation::new(&diamond, json!({"items": ["x", "y", "z"], "with_c": true}));
    check("success", new);
    check("retries and waits", || new().with("b[y]", vec![again("x"), wait("room", 9), wait("disk", 9)]));
    for step in ["a", "b[x]", "b[z]", "c", "d"] {
        check("failure", || new().with(step, vec![fail("x")]));
        check("undo retried", || new().with("d", vec![fail("x")]).with(&format!("undo {step}"), vec![again("y")]));
    }
}

#[test]
fn cancel_and_undo_at_each_length_of_the_journal_leave_a_clean_slate() {
    let diamond = load(&[DIAMOND]);
    let new = || Simulation::new(&diamond, json!({"items": ["x", "y"], "with_c": true}));
    let mut whole = new();
    whole.play();
    for at in 1..whole.journal.len() {
        for (command, status) in [(Command::Cancel, Status::Cancelled), (Command::Undo, Status::Undone)] {
            let mut simulation = new();
            simulation.commands = vec![(at, command)];
            assert_eq!(simulation.play(), status, "{command:?} at {at}");
            assert!(simulation.world.is_empty(), "{command:?} at {at}");
            check("command", || {
                let mut simulation = new();
                simulation.commands = vec![(at, command)];
                simulation
            });
        }
    }
}
