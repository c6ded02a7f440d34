//! Random playbooks, random ends, random commands, random crashes: whatever happens, the run ends and is consistent.

use std::fmt::Write;

use engine::{
    report::{Status, StepStatus},
    run::{AttemptEnd, Command},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::simulation::{Simulation, again, fail, load, wait};

#[derive(Clone, Debug)]
struct Step {
    action: &'static str,
    needs: Vec<usize>,
    fan_out: usize,
    parallel: usize,
    when: bool,
}

fn step(at: usize) -> impl Strategy<Value = Step> {
    let needs = prop::collection::btree_set(0..at.max(1), 0..3);
    (needs, prop::sample::select(vec!["make", "make", "look"]), 0_usize..4, 1_usize..3, prop::bool::weighted(0.9))
        .prop_map(move |(needs, action, fan_out, parallel, when)| Step {
            action,
            needs: needs.into_iter().filter(|need| *need < at).collect(),
            fan_out,
            parallel,
            when,
        })
}

fn playbook(steps: &[Step], policy: &str) -> String {
    let mut text = format!("playbook: p\nversion: 1\non_failure: {policy}\nsteps:\n");
    for (at, step) in steps.iter().enumerate() {
        let needs: Vec<_> = step.needs.iter().map(|need| format!("s{need}")).collect();
        write!(
            text,
            "  - {{ id: s{at}, action: {}, needs: [{}], when: \"{}\"",
            step.action,
            needs.join(", "),
            step.when
        )
        .expect("a string takes everything");
        if step.fan_out > 0 {
            let items: Vec<_> = (0..step.fan_out).map(|item| format!("'{item}'")).collect();
            write!(text, ", for_each: \"[{}]\", key: \"${{item}}\", parallel: {}", items.join(","), step.parallel)
                .expect("a string takes everything");
        }
        text.push_str(" }\n");
    }
    text
}

fn end() -> impl Strategy<Value = AttemptEnd> {
    prop_oneof![
        6 => Just(AttemptEnd::Done(Value::Null)),
        2 => Just(again("again")),
        1 => Just(fail("fail")),
        2 => (1_u64..600).prop_map(|seconds| wait("room", seconds)),
        1 => Just(AttemptEnd::Conflict),
        1 => Just(AttemptEnd::TimedOut),
    ]
}

/// Steps, policy, ends of attempts, commands and crashes with the moment at which they come.
type Story = (Vec<Step>, &'static str, Vec<AttemptEnd>, Vec<(usize, Command)>, Vec<usize>);

fn story() -> impl Strategy<Value = Story> {
    let steps = (1_usize..6).prop_flat_map(|count| (0..count).map(step).collect::<Vec<_>>());
    let command = prop::sample::select(vec![Command::Cancel, Command::Undo, Command::Resume]);
    (
        steps,
        prop::sample::select(vec!["rollback", "keep", "pause"]),
        prop::collection::vec(end(), 0..30),
        prop::collection::vec((1_usize..40, command), 0..3),
        prop::collection::vec(1_usize..60, 0..4),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_run_ends_consistently((steps, policy, ends, commands, crashes) in story()) {
        let definition = load(&[&playbook(&steps, policy)]);
        let mut simulation = Simulation::new(&definition, json!({}));
        simulation.commands = commands;
        // Ends are dealt to the instances in turn, forward and undo alike.
        for (at, end) in ends.into_iter().enumerate() {
            let step = at % steps.len();
            let item = (at / steps.len()) % 4;
            let path = if steps[step].fan_out > 0 { format!("s{step}[{item}]") } else { format!("s{step}") };
            let what = if at % 5 == 4 { format!("undo {path}") } else { path };
            // A scripted end of an undo says nothing of the world, so it may only fail.
            let end = if at % 5 == 4 && matches!(end, AttemptEnd::Done(_)) { again("again") } else { end };
            simulation.script.entry(what).or_default().push(end);
        }
        let mut status = None;
        for crash in crashes {
            simulation.crash_at = Some(simulation.happened + crash);
            status = Some(simulation.play());
        }
        let status = status.unwrap_or_else(|| simulation.play());
        let report = simulation.state.report();
        prop_assert!(status.is_terminal() || status.needs_operator(), "{:#?}", report);
        match status {
            Status::Undone => prop_assert!(left(&simulation).is_empty(), "{:?}", simulation.story()),
            Status::Cancelled if policy == "rollback" => prop_assert!(left(&simulation).is_empty(), "{:?}", simulation.story()),
            Status::Succeeded => prop_assert!(
                report.steps.iter().all(|step| matches!(step.status, StepStatus::Succeeded | StepStatus::Skipped))
            ),
            Status::Stuck => prop_assert!(report.steps.iter().any(|step| step.status == StepStatus::UndoFailed)),
            _ => {}
        }
        // A fresh process finds the same, and has nothing left to do but to look for attempts whose end it does not know.
        simulation.commands.clear();
        simulation.recover();
        prop_assert_eq!(status, simulation.play());
        prop_assert_eq!(report.failure, simulation.state.report().failure);
    }
}

/// What `make` left in the world; `look` leaves nothing that would have to be undone.
fn left(simulation: &Simulation) -> Vec<String> {
    let makes = simulation.state.definition().playbook.steps.iter().filter(|step| step.does.name() == "make");
    let makes: Vec<_> = makes.map(|step| step.id.value.clone()).collect();
    let is_make = |name: &&String| makes.iter().any(|id| name.split('[').next() == Some(id));
    simulation.world.iter().filter(is_make).cloned().collect()
}
