//! What the driver promises to actions, watched while they are called.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use contractor::action::StepContext;
use engine::{
    catalog::Undo,
    library::{Definition, Work},
};
use serde_json::Value;

use super::{
    journal::MemoryJournal,
    path::{Level, is_below, levels, split},
};

/// Notes every promise that is broken.
#[derive(Clone)]
pub struct Witness {
    definition: Arc<Definition>,
    journal: MemoryJournal,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// Instances with an attempt at work.
    at_work: BTreeSet<String>,
    /// The input of each instance's first attempt.
    inputs: BTreeMap<String, Value>,
    broken: Vec<String>,
}

/// An attempt at work; it ends when this is dropped, by the process's death too.
pub struct AtWork {
    witness: Witness,
    step: String,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.witness.seen().at_work.remove(&self.step);
    }
}

impl Witness {
    /// Watches a run of `definition` that is recorded in `journal`.
    pub fn new(definition: Arc<Definition>, journal: MemoryJournal) -> Self {
        Self { definition, journal, seen: Arc::default() }
    }

    /// Every promise that was broken.
    pub fn broken(&self) -> Vec<String> {
        self.seen().broken.clone()
    }

    /// Notes a broken promise.
    pub fn accuse(&self, what: String) {
        self.seen().broken.push(what);
    }

    /// An attempt (or undo) is about to touch the world, in which these `objects` are.
    pub fn enter(&self, cx: &StepContext, undo: bool, input: &Value, objects: &BTreeSet<String>) -> AtWork {
        let mut broken = self.journal.look(cx.run, |events| self.check(cx, undo, objects, events));
        let mut seen = self.seen();
        if !seen.at_work.insert(cx.step.clone()) {
            broken.push(format!("{} while another attempt is at work", told(cx, undo)));
        }
        if seen.inputs.entry(cx.step.clone()).or_insert_with(|| input.clone()) != input {
            broken.push(format!("{} with another input than before", told(cx, undo)));
        }
        seen.broken.extend(broken);
        drop(seen);
        AtWork { witness: self.clone(), step: cx.step.clone() }
    }

    /// What the journal says against it.
    fn check(&self, cx: &StepContext, undo: bool, objects: &BTreeSet<String>, events: &[Value]) -> Vec<String> {
        let mut broken = Vec::new();
        if !is_started(events, cx, undo) {
            broken.push(format!("{} acts before that is durable", told(cx, undo)));
        }
        if is_finished(events) {
            broken.push(format!("{} acts after the run's end", told(cx, undo)));
        }
        if let Some(Level { prefix, definition, at }) = levels(&self.definition, &cx.step).pop() {
            let link = &definition.links[at];
            let path = |place: &usize| format!("{prefix}{}", definition.playbook.steps[*place].id.value);
            if undo {
                let left = link
                    .dependents
                    .iter()
                    .filter(|place| is_left(&definition.links[**place].work, &path(place), objects));
                broken.extend(left.map(|place| format!("{} before what needs it, {}", told(cx, undo), path(place))));
            } else {
                let undone = link.needs.iter().filter(|place| !is_done(events, &path(place)));
                broken.extend(undone.map(|place| format!("{} before what it needs, {}", told(cx, undo), path(place))));
            }
        }
        broken
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn told(cx: &StepContext, undo: bool) -> String {
    format!("{} {}, attempt {},", if undo { "the undo of" } else { "step" }, cx.step, cx.attempt)
}

/// Whether the last attempt of which the journal says that it was started is this one.
fn is_started(events: &[Value], cx: &StepContext, undo: bool) -> bool {
    let of_step = |event: &&Value| {
        event["step"] == cx.step.as_str() && (event["event"] == "started" || event["event"] == "undo_started")
    };
    let last = events.iter().rev().find(of_step);
    last.is_some_and(|last| (last["event"] == "undo_started") == undo && last["attempt"] == cx.attempt)
}

fn is_finished(events: &[Value]) -> bool {
    events.last().is_some_and(|last| last["event"] == "finished")
}

/// Whether a step is skipped, or every instance of it has succeeded.
fn is_done(events: &[Value], path: &str) -> bool {
    let of = |kind: &'static str| events.iter().filter(move |event| event["event"] == kind);
    let mut expanded = of("expanded").filter(|event| event["step"] == path).peekable();
    let has_instances = expanded.peek().is_some();
    let instances = expanded.flat_map(|event| event["instances"].as_array().into_iter().flatten());
    let mut instances = instances.map(|instance| match instance["key"].as_str() {
        Some(key) => format!("{path}[{key}]"),
        None => path.to_owned(),
    });
    let is_skipped = of("skipped").any(|event| event["step"] == path);
    is_skipped || has_instances && instances.all(|path| of("succeeded").any(|event| event["step"] == path.as_str()))
}

/// Whether something is left in the world of a step that can be undone.
fn is_left(work: &Work, path: &str, objects: &BTreeSet<String>) -> bool {
    let is_taken_back = |contract: &engine::library::Contract| contract.undo == Undo::Yes;
    let is_below = |object: &&String| is_below(object, path);
    match work {
        Work::Action(contract) => is_taken_back(contract) && objects.iter().any(|object| is_below(&object)),
        Work::Call(definition) => definition.playbook.steps.iter().zip(&definition.links).any(|(step, link)| {
            let of_step = |object: &String| {
                let (_, last) = split(object);
                last == step.id.value
            };
            let below: BTreeSet<_> = objects.iter().filter(|it| is_below(it) && of_step(it)).cloned().collect();
            matches!(&link.work, Work::Action(contract) if is_taken_back(contract)) && !below.is_empty()
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_step_is_done_when_every_instance_is() {
        let expanded = json!({"event": "expanded", "step": "b", "instances": [{"key": "x"}, {"key": "y"}]});
        let succeeded = |step: &str| json!({"event": "succeeded", "step": step});
        let mut events = vec![expanded, succeeded("b[x]")];
        assert!(!is_done(&events, "b") && !is_done(&events, "c"));
        events.push(succeeded("b[y]"));
        assert!(is_done(&events, "b"));
    }
}
