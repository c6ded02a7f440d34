//! The steps of a run before it runs: what can be known of them from the input alone.

use std::sync::Arc;

use serde_json::Value;

use super::{next::instances, path, state::Scope, values::Values};
use crate::{
    event::{Failure, Item},
    expression::Expression,
    library::{Definition, Work},
    plan::PlannedStep,
    playbook::Step,
};

/// The steps that a run of `definition` with `input` would take, without their changes; values that only earlier
/// steps will know stay `"${…}"`. An error names the step.
pub fn outline(
    definition: &Arc<Definition>,
    about: &Value,
    input: &Value,
) -> Result<Vec<PlannedStep>, (String, Failure)> {
    let mut outline = Outline { about, steps: Vec::new() };
    outline.scope(&Scope::new(definition.clone(), Arc::new(input.clone())), "")?;
    Ok(outline.steps)
}

struct Outline<'o> {
    about: &'o Value,
    steps: Vec<PlannedStep>,
}

impl Outline<'_> {
    fn scope(&mut self, scope: &Scope, prefix: &str) -> Result<(), (String, Failure)> {
        for (step, link, _) in scope.parts() {
            let path = format!("{prefix}{}", step.id.value);
            self.step(scope, step, &link.work, &path).map_err(|(at, error)| (at.unwrap_or(path), error))?;
        }
        Ok(())
    }

    fn step(&mut self, scope: &Scope, step: &Step, work: &Work, path: &str) -> Result<(), (Option<String>, Failure)> {
        let own = |error: Failure| (None, error);
        let known = Known { values: Values::new(scope, self.about), is_open: is_symbolic(&scope.input) };
        let when = match &step.when {
            None => None,
            Some(when) => match known.value(&when.value).map_err(own)? {
                Some(Value::Bool(false)) => return Ok(()),
                Some(_) => None,
                None => Some(when.value.source().to_owned()),
            },
        };
        let items = match &step.fan_out {
            None => vec![Item { key: None, item: Value::Null }],
            Some(fan_out) if known.value(&fan_out.each.value).map_err(own)?.is_some_and(|each| each.is_array()) => {
                instances(&known.values, fan_out).map_err(own)?
            }
            Some(_) => vec![Item { key: Some("*".to_owned()), item: Value::String("${item}".to_owned()) }],
        };
        for Item { key, item } in items {
            let values = Values::new(scope, self.about).with_item(&item, key.as_deref());
            let known = Known { values, is_open: known.is_open || is_symbolic(&item) };
            let symbolic = |hole: &Expression| Value::String(format!("${{{}}}", hole.source()));
            let input =
                step.with.fill(&mut |hole| Ok(known.value(hole)?.unwrap_or_else(|| symbolic(hole)))).map_err(own)?;
            let path = path::instance(path, key.as_deref());
            match work {
                Work::Action(contract) => {
                    let action = contract.name.clone();
                    self.steps.push(PlannedStep { step: path, action, input, when: when.clone(), changes: Vec::new() });
                }
                Work::Call(definition) => {
                    let called = Scope::new(definition.clone(), Arc::new(input));
                    self.scope(&called, &format!("{path}.")).map_err(|(at, error)| (Some(at), error))?;
                }
            }
        }
        Ok(())
    }
}

/// What can be evaluated before any step has run.
struct Known<'k> {
    values: Values<'k>,
    /// Whether the input or item has parts that are known only later.
    is_open: bool,
}

impl Known<'_> {
    /// The value, if it is known; an error only where it will be one.
    fn value(&self, expression: &Expression) -> Result<Option<Value>, Failure> {
        if expression.mentions("steps") {
            return Ok(None);
        }
        // A selection gives a later part as it is; a computation over one would be wrong.
        let selects = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '.');
        match self.values.evaluate(expression) {
            Ok(value) if !self.is_open || expression.source().chars().all(selects) => Ok(Some(value)),
            Err(error) if !self.is_open => Err(Failure::new(error.to_string())),
            Ok(_) | Err(_) => Ok(None),
        }
    }
}

fn is_symbolic(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("${"),
        Value::Array(items) => items.iter().any(is_symbolic),
        Value::Object(fields) => fields.values().any(is_symbolic),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
