//! Looks up every name that playbooks mention, and finds what cannot work before it runs.

mod check;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;

use super::{Contract, Definition, Link, MessageKind, Work, World};
use crate::{
    event::Pin,
    hash,
    playbook::{Does, Playbook, Step},
    yaml::{Place, Problem, similar},
};

/// Links `playbooks` to each other and to the actions; what cannot be linked is left out, and why is in `problems`.
pub(super) fn link(
    playbooks: Vec<Playbook>,
    world: &World<'_>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Arc<Definition>> {
    let mut unlinked: BTreeMap<String, Playbook> = BTreeMap::new();
    for playbook in playbooks {
        if let Some(other) = unlinked.get(&playbook.name.value) {
            let message = format!("playbook `{}` is also in {}", playbook.name.value, other.file);
            problems.push(Problem { file: playbook.file, place: playbook.name.place, message, suggestion: None });
            continue;
        }
        unlinked.insert(playbook.name.value.clone(), playbook);
    }
    let names = unlinked.keys().cloned().collect();
    let mut linker = Linker { names, world, problems, contracts: BTreeMap::new(), linked: BTreeMap::new() };
    // Called playbooks first; what is left when nothing more can be linked calls itself in a circle.
    while let Some(ready) = linker.ready(&unlinked) {
        let Some(playbook) = unlinked.remove(&ready) else { break };
        linker.link(playbook);
    }
    for playbook in unlinked.into_values() {
        linker.problem(&playbook.file, playbook.name.place, "it calls itself, directly or through others", None);
    }
    linker.linked
}

struct Linker<'w, 'p> {
    names: BTreeSet<String>,
    world: &'w World<'w>,
    problems: &'p mut Vec<Problem>,
    contracts: BTreeMap<String, Arc<Contract>>,
    linked: BTreeMap<String, Arc<Definition>>,
}

impl Linker<'_, '_> {
    fn ready(&self, unlinked: &BTreeMap<String, Playbook>) -> Option<String> {
        let waits_for = |step: &Step| matches!(&step.does, Does::Call(name) if unlinked.contains_key(&name.value));
        let ready = unlinked.values().find(|playbook| !playbook.steps.iter().any(waits_for))?;
        Some(ready.name.value.clone())
    }

    fn link(&mut self, playbook: Playbook) {
        let before = self.problems.len();
        let places = self.places(&playbook);
        let mut links: Vec<Link> = Vec::new();
        for step in &playbook.steps {
            let work = self.work(&playbook.file, step);
            links.push(Link { work, needs: self.needs(&playbook.file, step, &places), dependents: Vec::new() });
        }
        for (at, needs) in links.iter().map(|link| link.needs.clone()).enumerate().collect::<Vec<_>>() {
            for need in needs {
                links[need].dependents.push(at);
            }
        }
        if let Some(step) = circular(&links).map(|at| &playbook.steps[at]) {
            let message = format!("step `{}` needs itself, directly or through others", step.id.value);
            self.problem(&playbook.file, step.id.place, message, None);
            return;
        }
        let input = self.input(&playbook);
        let pins = pins(&playbook, &links);
        let definition = Definition { playbook, links, pins, input };
        if self.problems.len() == before {
            check::check(self, &definition);
        }
        self.linked.insert(definition.playbook.name.value.clone(), Arc::new(definition));
    }

    fn places(&mut self, playbook: &Playbook) -> BTreeMap<String, usize> {
        let mut places = BTreeMap::new();
        for (at, step) in playbook.steps.iter().enumerate() {
            if places.insert(step.id.value.clone(), at).is_some() {
                let message = format!("there is a step `{}` before this one", step.id.value);
                self.problem(&playbook.file, step.id.place, message, None);
            }
        }
        places
    }

    fn work(&mut self, file: &str, step: &Step) -> Work {
        match &step.does {
            Does::Action(name) => {
                if let Some(contract) = self.contracts.get(&name.value) {
                    return Work::Action(contract.clone());
                }
                let contract = self.world.catalog.action(&name.value).map(Contract::of).unwrap_or_else(|| {
                    let message = format!("there is no action `{}`", name.value);
                    self.problem(file, name.place, message, similar(&name.value, self.world.catalog.names()));
                    Contract::unknown(&name.value)
                });
                let contract = Arc::new(contract);
                self.contracts.insert(name.value.clone(), contract.clone());
                Work::Action(contract)
            }
            Does::Call(name) => match self.linked.get(&name.value) {
                Some(definition) => Work::Call(definition.clone()),
                None => {
                    // One that exists has problems of its own, which are reported.
                    if !self.names.contains(&name.value) {
                        let message = format!("there is no playbook `{}`", name.value);
                        let meant = similar(&name.value, self.names.iter().map(String::as_str));
                        self.problem(file, name.place, message, meant);
                    }
                    Work::Action(Arc::new(Contract::unknown(&name.value)))
                }
            },
        }
    }

    fn needs(&mut self, file: &str, step: &Step, places: &BTreeMap<String, usize>) -> Vec<usize> {
        let mut needs = BTreeSet::new();
        for need in &step.needs {
            match places.get(&need.value) {
                Some(at) => drop(needs.insert(*at)),
                None => {
                    let message = format!("there is no step `{}`", need.value);
                    let meant = similar(&need.value, places.keys().map(String::as_str));
                    self.problem(file, need.place, message, meant);
                }
            }
        }
        // A reference to an unknown step is reported by the check of references, with its whole path.
        needs.extend(mentioned(step).iter().filter_map(|name| places.get(name)));
        needs.into_iter().collect()
    }

    /// The schema of the playbook's input: its own, else that of the message that starts it.
    fn input(&mut self, playbook: &Playbook) -> Option<Value> {
        let mut of_message = None;
        if let Some(trigger) = &playbook.trigger {
            for (kind, name) in [(MessageKind::Request, &trigger.request), (MessageKind::Handoff, &trigger.handoff)] {
                let Some(name) = name else { continue };
                match (self.world.messages)(kind, name) {
                    Some(schema) => of_message = of_message.or(Some(schema)),
                    None => {
                        let message = format!("there is no {kind:?} type `{name}`").to_lowercase();
                        self.problem(&playbook.file, trigger.place, message, None);
                    }
                }
            }
        }
        self.condition(playbook);
        playbook.input.clone().or(of_message)
    }

    /// One that nobody watches would never start anything.
    fn condition(&mut self, playbook: &Playbook) {
        let Some(trigger) = &playbook.trigger else { return };
        let watched = self.world.conditions;
        if let Some(named) = trigger.condition.as_deref().filter(|named| !watched.contains(named)) {
            let meant = similar(named, watched.iter().copied());
            self.problem(&playbook.file, trigger.place, format!("nobody watches a condition `{named}`"), meant);
        }
    }

    fn problem(&mut self, file: &str, place: Place, message: impl Into<String>, suggestion: Option<String>) {
        self.problems.push(Problem { file: file.to_owned(), place, message: message.into(), suggestion });
    }
}

fn mentioned(step: &Step) -> BTreeSet<String> {
    let mut names = step.with.steps();
    names.extend(step.when.iter().flat_map(|when| when.value.steps()));
    if let Some(fan_out) = &step.fan_out {
        names.extend(fan_out.each.value.steps());
        names.extend(fan_out.key.steps());
    }
    names
}

fn pins(playbook: &Playbook, links: &[Link]) -> Vec<Pin> {
    let own = Pin { playbook: playbook.name.value.clone(), hash: hash::of_text(&playbook.text) };
    let mut called = BTreeMap::new();
    for link in links {
        if let Work::Call(definition) = &link.work {
            called.extend(definition.pins.iter().map(|pin| (pin.playbook.clone(), pin.clone())));
        }
    }
    std::iter::once(own).chain(called.into_values()).collect()
}

/// A step that is part of a circle, if there is one.
fn circular(links: &[Link]) -> Option<usize> {
    let mut open: Vec<usize> = links.iter().map(|link| link.needs.len()).collect();
    let mut ready: Vec<usize> = (0..links.len()).filter(|at| open[*at] == 0).collect();
    while let Some(at) = ready.pop() {
        for dependent in &links[at].dependents {
            open[*dependent] -= 1;
            if open[*dependent] == 0 {
                ready.push(*dependent);
            }
        }
    }
    open.iter().position(|count| *count > 0)
}
