//! Each rule of the engine's semantics as a story: a playbook, what its actions do, and the journal that comes of it.

use engine::{
    event::Event,
    report::Status,
    run::{AttemptEnd, Command, Effect, MAX_EVENTS, outline, outline_foreseeing},
};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::simulation::{Script, Simulation, again, fail, load, wait};

/// A diamond with a fan-out: `b` and `c` need `a`, `d` needs both.
pub(crate) const DIAMOND: &str = "
playbook: diamond
version: 1
steps:
  - { id: a, action: make }
  - { id: b, action: make, for_each: \"${input.items}\", key: \"${item}\", parallel: 2, with: { a: \"${steps.a.name}\", i: \"${item}\" } }
  - { id: c, action: make, needs: [a], when: \"input.with_c\" }
  - { id: d, action: make, needs: [c], with: { names: \"${steps.b.map(b, b.name)}\" } }
emit:
  - { handoff: ready, with: { d: \"${steps.d.name}\", b: \"${steps.b}\" } }
  - { handoff: broken, after: failure, with: { step: \"${failure.step}\", why: \"${failure.message}\" } }
";

fn input() -> Value {
    json!({"items": ["y", "x"], "with_c": true})
}

fn check(playbook: &str, script: Script, status: Status, story: &str) -> Simulation {
    let mut simulation = Simulation::new(&load(&[playbook]), input());
    simulation.script = script;
    let ended = simulation.play();
    let told = simulation.story().join(" | ");
    assert_eq!(told, story.split_whitespace().collect::<Vec<_>>().join(" "));
    assert_eq!(ended, status);
    simulation
}

fn script(ends: &[(&str, Vec<AttemptEnd>)]) -> Script {
    ends.iter().map(|(step, ends)| ((*step).to_owned(), ends.clone())).collect()
}

#[test]
fn steps_follow_their_needs_and_instances_their_keys() {
    let simulation = check(
        DIAMOND,
        Script::new(),
        Status::Succeeded,
        "open | a x1 | a started 1 | a ok | b x2 | c x1 | b[x] started 1 | b[x] ok | b[y] started 1 | b[y] ok
         | c started 1 | c ok | d x1 | d started 1 | d ok | succeeded",
    );
    assert_eq!(simulation.emitted.len(), 1);
    assert_eq!(simulation.emitted[0].body, json!({"d": "d", "b": [{"name": "b[x]"}, {"name": "b[y]"}]}));
}

#[test]
fn a_false_condition_skips_and_dependents_still_run() {
    let mut simulation = Simulation::new(&load(&[DIAMOND]), json!({"items": [], "with_c": false}));
    assert_eq!(simulation.play(), Status::Succeeded);
    assert_eq!(simulation.log, ["a", "d"]);
    assert!(simulation.story().contains(&"c skipped".to_owned()));
}

#[test]
fn the_first_permanent_failure_is_rolled_back_in_reverse_edge_order() {
    let simulation = check(
        DIAMOND,
        script(&[("c", vec![fail("no room")])]),
        Status::Undone,
        "open | a x1 | a started 1 | a ok | b x2 | c x1 | b[x] started 1 | b[x] ok | b[y] started 1 | b[y] ok
         | c started 1 | c failed: no room | b[x] undo 1 | b[x] undone | b[y] undo 1 | b[y] undone
         | c undo 1 | c undone | a undo 1 | a undone | undone",
    );
    assert!(simulation.world.is_empty());
    assert_eq!(simulation.emitted[0].body, json!({"step": "c", "why": "no room"}));
}

#[test]
fn a_retry_uses_an_attempt_and_a_wait_does_not() {
    let playbook = "
playbook: p
version: 1
steps:
  - { id: a, action: make, retry: { attempts: 2, backoff: 1s..1s }, deadline: 1m }
";
    check(
        playbook,
        script(&[("a", vec![wait("lock", 5), wait("lock", 5), wait("room", 5), again("x"), wait("room", 5)])]),
        Status::Succeeded,
        "open | a x1 | a started 1 | a waits: lock | a waits: room | a failed, again | a started 2 | a waits: room
         | a ok | succeeded",
    );
    check(
        playbook,
        script(&[("a", vec![again("x"), again("y")])]),
        Status::Undone,
        "open | a x1 | a started 1 | a failed, again | a started 2 | a failed: y | a undo 1 | a undone | undone",
    );
    let late = check(
        playbook,
        script(&[("a", vec![wait("room", 50), wait("room", 50), wait("room", 50)])]),
        Status::Undone,
        "open | a x1 | a started 1 | a waits: room | a failed: gave up after 1m: room | a undo 1 | a undone | undone",
    );
    assert_eq!(late.now.as_second(), 60, "the last look is at the deadline");
}

#[test]
fn policies_keep_and_pause_leave_what_is_there() {
    let keep = DIAMOND.replace("version: 1", "version: 1\non_failure: keep");
    let mut simulation = Simulation::new(&load(&[&keep]), input()).with("c", vec![fail("x")]);
    assert_eq!(simulation.play(), Status::Kept);
    assert_eq!(simulation.world.len(), 3);
    let pause = DIAMOND.replace("version: 1", "version: 1\non_failure: pause");
    let mut simulation = Simulation::new(&load(&[&pause]), input()).with("c", vec![fail("x")]);
    assert_eq!(simulation.play(), Status::Paused);
    simulation.commands = vec![(0, Command::Resume)];
    assert_eq!(simulation.play(), Status::Succeeded);
    assert!(simulation.story().contains(&"c started 2".to_owned()));
    let mut given_up = Simulation::new(&load(&[&pause]), input()).with("c", vec![fail("x")]);
    given_up.play();
    given_up.commands = vec![(0, Command::Cancel)];
    assert_eq!(given_up.play(), Status::Cancelled);
    assert_eq!(given_up.world.len(), 3, "cancelling a paused run leaves what is there");
}

#[test]
fn the_input_may_ask_for_a_policy_and_a_run_keeps_what_it_asked_for() {
    let asked =
        DIAMOND.replace("version: 1", "version: 1\non_failure: \"${has(input.policy) ? input.policy : 'rollback'}\"");
    let definition = load(&[&asked]);
    for (policy, status) in [("rollback", Status::Undone), ("keep", Status::Kept), ("pause", Status::Paused)] {
        let input = json!({"items": ["x"], "with_c": true, "policy": policy});
        let mut simulation = Simulation::new(&definition, input).with("c", vec![fail("x")]);
        assert_eq!(simulation.play(), status, "{policy}");
        simulation.recover();
        assert_eq!(simulation.play(), status, "{policy}, read again");
    }
    let mut silent = Simulation::new(&definition, input()).with("c", vec![fail("x")]);
    assert_eq!(silent.play(), Status::Undone, "no policy asked for");
    let refused = definition.playbook.on_failure.policy(&json!({"policy": "explode"}), &json!({})).unwrap_err();
    assert_eq!(refused, "its failure policy is not one of rollback, keep, pause");
}

#[test]
fn a_run_that_has_not_begun_is_cancelled_at_once_whatever_its_policy() {
    for policy in ["rollback", "keep", "pause"] {
        let playbook = DIAMOND.replace("version: 1", &format!("version: 1\non_failure: {policy}"));
        let mut simulation = Simulation::new(&load(&[&playbook]), input());
        simulation.commands = vec![(1, Command::Cancel)];
        assert_eq!(simulation.play(), Status::Cancelled, "{policy}");
        assert!(simulation.log.is_empty(), "{policy}");
        let told = &simulation.emitted[0];
        assert_eq!((told.name.as_str(), &told.body), ("broken", &json!({"why": "cancelled by test"})), "no empty step");
    }
}

#[test]
fn a_conflict_uses_no_attempt_and_ends_at_the_deadline() {
    let playbook = "
playbook: p
version: 1
steps:
  - { id: a, action: make, retry: { attempts: 1 }, deadline: 1m }
";
    let some = script(&[("a", vec![AttemptEnd::Conflict, AttemptEnd::Conflict])]);
    check(playbook, some, Status::Succeeded, "open | a x1 | a started 1 | a ok | succeeded");
    let ever = script(&[("a", vec![AttemptEnd::Conflict; 2_000])]);
    check(
        playbook,
        ever,
        Status::Undone,
        "open | a x1 | a started 1 | a failed: gave up after 1m: the inventory changed meanwhile
         | a undo 1 | a undone | undone",
    );
}

#[test]
fn an_attempt_ends_with_its_steps_deadline_and_a_last_one_gets_time_to_look() {
    let playbook = "
playbook: p
version: 1
on_failure: keep
steps:
  - { id: a, action: look, retry: { attempts: 9, backoff: 1s..1s }, timeout: 4m, deadline: 5m }
";
    let mut simulation = Simulation::new(&load(&[playbook]), json!({}));
    let at = |simulation: &mut Simulation, now: i64| {
        simulation.now = Timestamp::from_second(now).unwrap();
        loop {
            match simulation.state.next(simulation.now).effects.remove(0) {
                Effect::Record(events) => events.iter().for_each(|event| simulation.state.apply(event).unwrap()),
                Effect::Run(attempt) => {
                    simulation.state.apply(&attempt.started(simulation.now)).unwrap();
                    return attempt.timeout.as_secs();
                }
                other => panic!("{other:?}"),
            }
        }
    };
    let times_out = |simulation: &mut Simulation, now: i64| {
        let now = Timestamp::from_second(now).unwrap();
        let entry = simulation.state.settle("a", AttemptEnd::TimedOut, now).unwrap();
        simulation.state.apply(entry.event()).unwrap();
        entry.event().clone()
    };
    assert_eq!(at(&mut simulation, 0), 240);
    assert!(matches!(times_out(&mut simulation, 240), Event::Failed { retry_at: Some(_), .. }));
    assert_eq!(at(&mut simulation, 241), 59, "what is left until the deadline");
    let Event::Failed { error, retry_at: None, .. } = times_out(&mut simulation, 300) else { panic!("it is over") };
    assert_eq!(error.message, "gave up after 5m: the last attempt was still at it");

    let mut late = Simulation::new(&load(&[playbook]), json!({}));
    at(&mut late, 0);
    times_out(&mut late, 240);
    assert_eq!(at(&mut late, 299), 30, "enough for a look");
}

#[test]
fn a_percentage_of_the_instances_is_at_work_at_once() {
    let playbook = |parallel: &str| {
        format!(
            "
playbook: p
version: 1
steps:
  - {{ id: b, action: make, for_each: \"${{input.items}}\", key: \"${{item}}\", parallel: {parallel} }}
"
        )
    };
    let items: Vec<_> = (0..10).map(|n| format!("n{n}")).collect();
    for (parallel, at_once) in [("\"20%\"", 2), ("\"5%\"", 1), ("\"100%\"", 10), ("3", 3)] {
        let mut simulation = Simulation::new(&load(&[&playbook(parallel)]), json!({"items": items}));
        let expanded = simulation.state.next(simulation.now).effects;
        let Some(Effect::Record(events)) = expanded.first() else { panic!("{expanded:?}") };
        events.iter().for_each(|event| simulation.state.apply(event).unwrap());
        assert_eq!(simulation.state.next(simulation.now).effects.len(), at_once, "{parallel}");
    }
}

#[test]
fn a_run_stops_at_its_cap_of_entries_and_still_takes_back_what_it_did() {
    let playbook = "
playbook: p
version: 1
steps:
  - { id: a, action: make }
  - { id: b, action: make, needs: [a], retry: { attempts: 1000, backoff: 1s..1s }, deadline: 1000h }
";
    let waits: Vec<_> = (0..9_000).map(|n| wait(&format!("reason {n}"), 1)).collect();
    let mut simulation = Simulation::new(&load(&[playbook]), input()).with("b", waits);
    assert_eq!(simulation.play(), Status::Undone);
    assert!(simulation.world.is_empty());
    assert!(simulation.journal.len() as u64 <= MAX_EVENTS, "{}", simulation.journal.len());
    let failure = simulation.state.report().failure.unwrap();
    assert_eq!(failure.error.message, "the run has 8000 journal entries, more than it may");
}

#[test]
fn a_value_above_the_cap_fails_the_step_and_says_so() {
    let playbook = "
playbook: p
version: 1
steps:
  - { id: a, action: make }
";
    let large = AttemptEnd::Done(json!("x".repeat(61 * 1024)));
    let mut simulation = Simulation::new(&load(&[playbook]), input()).with("a", vec![large]);
    assert_eq!(simulation.play(), Status::Undone);
    let failure = simulation.state.report().failure.unwrap().error;
    assert_eq!(failure.message, "the output of `make` is larger than 59392 bytes");
    assert!(failure.hint.unwrap().contains("reference"));
}

#[test]
fn an_undo_that_fails_leaves_the_run_stuck_while_other_branches_go_on() {
    let script =
        script(&[("d", vec![fail("x")]), ("undo c", vec![fail("locked")]), ("undo b[x]", vec![again("busy")])]);
    let mut simulation = check(
        DIAMOND,
        script,
        Status::Stuck,
        "open | a x1 | a started 1 | a ok | b x2 | c x1 | b[x] started 1 | b[x] ok | b[y] started 1 | b[y] ok
         | c started 1 | c ok | d x1 | d started 1 | d failed: x | d undo 1 | d undone
         | b[x] undo 1 | b[x] undo failed, again | b[y] undo 1 | b[y] undone | c undo 1 | c undo failed: locked
         | b[x] undo 2 | b[x] undone",
    );
    assert_eq!(simulation.world.iter().collect::<Vec<_>>(), ["a", "c"]);
    simulation.commands = vec![(0, Command::Resume)];
    assert_eq!(simulation.play(), Status::Undone);
    assert!(simulation.world.is_empty());
}

#[test]
fn past_the_commit_point_nothing_is_taken_back() {
    let playbook = "
playbook: p
version: 1
commit_point: burn
steps:
  - { id: a, action: make }
  - { id: burn, action: burn, needs: [a] }
  - { id: z, action: make, needs: [burn] }
";
    let mut simulation = Simulation::new(&load(&[playbook]), input()).with("z", vec![fail("x")]);
    assert_eq!(simulation.play(), Status::Paused);
    simulation.commands = vec![(0, Command::Undo), (0, Command::Resume)];
    assert_eq!(simulation.play(), Status::Succeeded, "the undo was refused, the resume was not");
    let mut early = Simulation::new(&load(&[playbook]), input()).with("a", vec![fail("x")]);
    assert_eq!(early.play(), Status::Undone);
}

#[test]
fn a_succeeded_run_can_be_undone_and_tells_both() {
    let mut simulation = Simulation::new(&load(&[DIAMOND]), input());
    assert_eq!(simulation.play(), Status::Succeeded);
    simulation.commands = vec![(0, Command::Undo), (0, Command::Undo)];
    assert_eq!(simulation.play(), Status::Undone);
    assert!(simulation.world.is_empty());
    assert_eq!(simulation.log[5..], ["undo d", "undo b[x]", "undo b[y]", "undo c", "undo a"]);
    assert_eq!(simulation.emitted.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["ready", "broken"]);
}

#[test]
fn a_called_playbook_runs_its_steps_per_item_one_after_another() {
    let outer = "
playbook: outer
version: 1
steps:
  - { id: roll, call: inner, for_each: \"${input.items}\", key: \"${item}\", parallel: 1, with: { node: \"${item}\" } }
  - { id: last, action: make, with: { rolled: \"${steps.roll}\" } }
";
    let inner = "
playbook: inner
version: 1
steps:
  - { id: drain, action: make, with: { node: \"${input.node}\" } }
  - { id: up, action: make, needs: [drain] }
output: { done: \"${steps.up.name}\" }
";
    let mut simulation = Simulation::new(&load(&[outer, inner]), input());
    assert_eq!(simulation.play(), Status::Succeeded);
    assert_eq!(simulation.log, ["roll[x].drain", "roll[x].up", "roll[y].drain", "roll[y].up", "last"]);
    let mut failed = Simulation::new(&load(&[outer, inner]), input()).with("roll[y].up", vec![fail("x")]);
    assert_eq!(failed.play(), Status::Undone);
    assert!(failed.world.is_empty());
    assert_eq!(
        failed.log[3..],
        ["undo roll[x].up", "undo roll[x].drain", "undo roll[y].up", "undo roll[y].drain"].map(String::from)[..]
    );
}

#[test]
fn what_cannot_be_evaluated_fails_before_anything_is_touched() {
    let playbook = DIAMOND.replace("${steps.a.name}", "${input.missing}");
    let mut simulation = Simulation::new(&load(&[&playbook]), input());
    assert_eq!(simulation.play(), Status::Undone);
    assert_eq!(simulation.log, ["a", "undo a"]);
    let failure = simulation.state.report().failure.unwrap();
    assert_eq!(failure.error.message, "no such field in `input.missing`");
}

#[test]
fn large_fan_outs_are_split_over_entries_below_the_cap() {
    let items: Vec<_> = (0..300).map(|n| json!({"k": format!("{n:03}"), "pad": "x".repeat(400)})).collect();
    let playbook = "
playbook: p
version: 1
steps:
  - { id: b, action: make, for_each: \"${input.items}\", key: \"${item.k}\" }
";
    let mut simulation = Simulation::new(&load(&[playbook]), json!({"items": items}));
    assert_eq!(simulation.play(), Status::Succeeded);
    assert_eq!(simulation.log.len(), 300);
    let largest = simulation.journal[1..].iter().map(|event| serde_json::to_vec(event).unwrap().len()).max().unwrap();
    assert!((50_000..60 * 1024).contains(&largest), "{largest}");
}

#[test]
fn an_outline_knows_what_the_input_says_and_leaves_the_rest_symbolic() {
    let outer = "
playbook: outer
version: 1
steps:
  - { id: a, action: make, with: { n: \"${size(input.items)}\" } }
  - { id: b, action: make, for_each: \"${input.items}\", key: \"${item}\", with: { i: \"${item}\", a: \"x-${steps.a.name}\" } }
  - { id: c, action: make, for_each: \"${steps.b}\", key: \"${item.name}\", with: { i: \"${item}\", s: \"${size(item)}\" } }
  - { id: d, action: make, when: \"input.with_c == false\" }
  - { id: e, action: make, when: \"steps.a.ok\" }
  - { id: f, call: inner, with: { node: \"${steps.a}\", plain: \"${input.with_c}\" } }
";
    let inner = "
playbook: inner
version: 1
steps:
  - { id: up, action: make, with: { node: \"${input.node}\", name: \"${input.node.name}\", plain: \"${input.plain}\" } }
";
    let steps = outline(&load(&[outer, inner]), &json!({}), &input()).unwrap();
    let told: Vec<_> = steps.iter().map(|step| format!("{} {}", step.step, step.input)).collect();
    assert_eq!(
        told,
        [
            r#"a {"n":2}"#,
            r#"b[x] {"a":"x-${steps.a.name}","i":"x"}"#,
            r#"b[y] {"a":"x-${steps.a.name}","i":"y"}"#,
            r#"c[*] {"i":"${item}","s":"${size(item)}"}"#,
            r#"e {}"#,
            r#"f.up {"name":"${input.node.name}","node":"${steps.a}","plain":true}"#,
        ]
    );
    assert_eq!(steps[4].when.as_deref(), Some("steps.a.ok"));
}

#[test]
fn an_outline_uses_what_steps_say_of_their_outputs_before_they_run() {
    let text = "
playbook: outer
version: 1
steps:
  - { id: a, action: make }
  - { id: b, action: make, when: \"steps.a.way == 'up'\", with: { to: \"${steps.a.to}\", later: \"${steps.a.later}\" } }
  - { id: c, action: make, when: \"steps.a.way == 'down'\" }
  - { id: d, action: make, for_each: \"${steps.a.names}\", key: \"${item}\", with: { i: \"${item}\", b: \"${steps.b}\" } }
";
    let foreseen = [("a".to_owned(), json!({ "way": "up", "to": 3, "names": ["x"] }))].into();
    let steps = outline_foreseeing(&load(&[text]), &json!({}), &json!({}), &foreseen).unwrap();
    let told: Vec<_> = steps.iter().map(|step| format!("{} {}", step.step, step.input)).collect();
    assert_eq!(told, ["a {}", r#"b {"later":"${steps.a.later}","to":3}"#, r#"d[x] {"b":"${steps.b}","i":"x"}"#]);
    assert!(steps.iter().all(|step| step.when.is_none()));
}
