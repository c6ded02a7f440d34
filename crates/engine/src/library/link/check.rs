//! What a linked playbook is checked for: inputs, references along their paths, and what cannot be taken back.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Linker;
use crate::{
    expression::{Expression, Names},
    library::{Definition, Link, MessageKind, Work},
    playbook::{After, Emit, FanOut, OnFailure, Step},
    report::EmissionKind,
    schema::{Field, Shape},
    template::Template,
    yaml::{Place, similar},
};

pub(super) fn check(linker: &mut Linker<'_, '_>, definition: &Definition) {
    let outputs = outputs(definition);
    let shapes = Shapes {
        input: definition.input.as_ref().map_or(Shape::ANY, Shape::of),
        run: json!({"type": "object", "properties": {"id": {}, "flow": {}, "subject": {}, "cause": {}}}),
        failure: json!({"type": "object", "properties": {"step": {}, "message": {}, "outcome": {}}}),
        outputs: &outputs,
    };
    let mut checker = Checker { linker, definition, shapes: &shapes };
    checker.trigger();
    if let OnFailure::Asked(asked) = &definition.playbook.on_failure {
        checker.template(asked, &shapes.names(false));
    }
    for (_, lock) in &definition.playbook.locks {
        checker.template(lock, &shapes.names(false));
    }
    for (step, link) in definition.playbook.steps.iter().zip(&definition.links) {
        checker.step(step, link);
    }
    if let Some(output) = &definition.playbook.output {
        checker.template(output, &shapes.names(true));
    }
    for emit in &definition.playbook.emits {
        checker.emit(emit);
    }
    checker.commit_point();
}

/// What is known of the values that a playbook's expressions mention.
struct Shapes<'s> {
    input: Shape<'s>,
    run: Value,
    failure: Value,
    outputs: &'s BTreeMap<String, Value>,
}

impl Shapes<'_> {
    fn names(&self, with_steps: bool) -> Names<'_> {
        let variables = [("input", self.input), ("run", Shape::of(&self.run))];
        Names {
            variables: variables.map(|(name, shape)| (name.to_owned(), shape)).into(),
            steps: with_steps
                .then(|| self.outputs.iter().map(|(id, schema)| (id.clone(), Shape::of(schema))).collect()),
        }
    }
}

struct Checker<'c, 'w, 'p> {
    linker: &'c mut Linker<'w, 'p>,
    definition: &'c Definition,
    shapes: &'c Shapes<'c>,
}

impl<'c> Checker<'c, '_, '_> {
    fn trigger(&mut self) {
        let Some(when) = self.definition.playbook.trigger.as_ref().and_then(|trigger| trigger.when.as_ref()) else {
            return;
        };
        // Without a schema any name may be a field of the message.
        let Some((fields, _)) = self.shapes.input.fields() else { return };
        let mut names = self.shapes.names(false);
        names.variables.remove("run");
        for field in fields {
            names.variables.insert(field.to_owned(), Shape::ANY);
        }
        self.expression(&when.value, when.place, &names);
    }

    fn step(&mut self, step: &'c Step, link: &Link) {
        let mut names = self.shapes.names(true);
        if let Some(when) = &step.when {
            self.expression(&when.value, when.place, &names);
        }
        if let Some(fan_out) = &step.fan_out {
            self.fan_out(fan_out, &mut names);
        }
        self.template(&step.with, &names);
        match &link.work {
            Work::Action(contract) => {
                self.fields(&step.with, step.with_place, Shape::of(&contract.input));
                if let Template::Literal(value) = &step.with
                    && let Some(reason) = contract.refuses(value)
                {
                    self.problem(step.with_place, format!("action `{}`: {reason}", contract.name), None);
                }
            }
            Work::Call(called) => {
                self.fields(&step.with, step.with_place, called.input.as_ref().map_or(Shape::ANY, Shape::of));
                if !called.playbook.emits.is_empty() {
                    let message =
                        format!("playbook `{}` emits messages, so it cannot be called", called.playbook.name.value);
                    self.problem(step.id.place, message, None);
                }
            }
        }
    }

    fn emit(&mut self, emit: &'c Emit) {
        let mut names = self.shapes.names(true);
        if emit.after == After::Failure {
            names.variables.insert("failure".to_owned(), Shape::of(&self.shapes.failure));
        }
        if let Some(when) = &emit.when {
            self.expression(&when.value, when.place, &names);
        }
        if let Some(fan_out) = &emit.fan_out {
            self.fan_out(fan_out, &mut names);
        }
        self.template(&emit.with, &names);
        let kind = match emit.kind {
            EmissionKind::Handoff => MessageKind::Handoff,
            EmissionKind::Event => MessageKind::Event,
        };
        match (self.linker.world.messages)(kind, &emit.name) {
            Some(schema) => self.fields(&emit.with, emit.place, Shape::of(&schema)),
            None => {
                let message = format!("there is no {kind:?} type `{}`", emit.name).to_lowercase();
                self.problem(emit.place, message, None);
            }
        }
    }

    fn fan_out(&mut self, fan_out: &'c FanOut, names: &mut Names<'c>) {
        self.expression(&fan_out.each.value, fan_out.each.place, names);
        let item = fan_out.each.value.shape(names).items();
        names.variables.insert("item".to_owned(), item);
        self.template(&fan_out.key, names);
        names.variables.insert("key".to_owned(), Shape::ANY);
    }

    /// Unknown and missing fields of what is written as a mapping.
    fn fields(&mut self, with: &Template, place: Place, shape: Shape<'_>) {
        let (Some(written), Some((known, required))) = (with.fields(), shape.fields()) else { return };
        for name in &written {
            if shape.is_closed() && !known.contains(name) {
                self.problem(place, format!("there is no field `{name}` here"), similar(name, known.iter().copied()));
            }
        }
        for name in required {
            if !written.contains(&name) {
                self.problem(place, format!("the required field `{name}` is missing"), None);
            }
        }
        if let Template::Map(parts) = with {
            for (name, part) in parts {
                if let Field::Known(shape) = shape.field(name) {
                    self.part(name, part, place, shape);
                }
            }
        }
    }

    /// A part of a mapping: what it holds is known as far as it is written out.
    fn part(&mut self, name: &str, part: &Template, place: Place, shape: Shape<'_>) {
        match part {
            Template::Literal(value) => {
                if let Some(reason) = shape.refuses(value) {
                    self.problem(place, format!("field `{name}`: {reason}"), None);
                }
            }
            Template::Map(_) => self.fields(part, place, shape),
            Template::List(items) => items.iter().for_each(|item| self.part(name, item, place, shape.items())),
            Template::Hole(..) | Template::Text(..) => {}
        }
    }

    fn template(&mut self, template: &Template, names: &Names<'_>) {
        for (hole, place) in template.holes() {
            self.expression(hole, place, names);
        }
    }

    fn expression(&mut self, expression: &Expression, place: Place, names: &Names<'_>) {
        for bad in expression.check(names) {
            let last = bad.path.rsplit('.').next().unwrap_or(&bad.path);
            let meant = similar(last, bad.candidates.iter().map(String::as_str));
            self.problem(place, format!("there is no `{}`", bad.path), meant);
        }
    }

    /// Everything that cannot be taken back comes with or after the commit point.
    fn commit_point(&mut self) {
        let Definition { playbook, links, .. } = self.definition;
        let first = links.iter().position(Link::is_irreversible);
        let Some(point) = &playbook.commit_point else {
            // One that is only called follows the policy and commit point of its caller.
            if let (true, Some(first), Some(_)) = (playbook.on_failure.may_roll_back(), first, &playbook.trigger) {
                let id = &playbook.steps[first].id;
                let message = format!("step `{}` cannot be taken back: name the `commit_point`", id.value);
                self.problem(id.place, message, None);
            }
            return;
        };
        let Some(at) = playbook.steps.iter().position(|step| step.id.value == point.value) else {
            let meant = similar(&point.value, playbook.steps.iter().map(|step| step.id.value.as_str()));
            self.problem(point.place, format!("there is no step `{}`", point.value), meant);
            return;
        };
        let mut after = vec![false; links.len()];
        let mut next = vec![at];
        while let Some(at) = next.pop() {
            after[at] = true;
            next.extend(links[at].dependents.iter().filter(|dependent| !after[**dependent]));
        }
        for (at, link) in links.iter().enumerate() {
            if link.is_irreversible() && !after[at] {
                let id = &playbook.steps[at].id;
                let message = format!(
                    "step `{}` cannot be taken back and does not need commit point `{}`",
                    id.value, point.value
                );
                self.problem(id.place, message, None);
            }
        }
    }

    fn problem(&mut self, place: Place, message: String, suggestion: Option<String>) {
        self.linker.problem(&self.definition.playbook.file, place, message, suggestion);
    }
}

/// Schemas of what `steps.<id>` is.
fn outputs(definition: &Definition) -> BTreeMap<String, Value> {
    let steps = definition.playbook.steps.iter().zip(&definition.links);
    steps
        .map(|(step, link)| {
            let one = match &link.work {
                Work::Action(contract) => contract.output.clone(),
                Work::Call(called) => called_output(called),
            };
            (step.id.value.clone(), if step.fan_out.is_some() { list_of(one) } else { one })
        })
        .collect()
}

fn called_output(called: &Definition) -> Value {
    match called.playbook.output.as_ref().map(Template::fields) {
        Some(Some(fields)) => {
            let properties: serde_json::Map<_, _> =
                fields.into_iter().map(|name| (name.to_owned(), json!({}))).collect();
            json!({"type": "object", "properties": properties})
        }
        Some(None) => json!({}),
        None => json!({"type": "null"}),
    }
}

fn list_of(schema: Value) -> Value {
    // References such as `#/$defs/Node` point into the document's root.
    let defs = schema.get("$defs").cloned().unwrap_or_else(|| json!({}));
    json!({"type": "array", "items": schema, "$defs": defs})
}
