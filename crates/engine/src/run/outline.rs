//! The steps of a run before it runs: what can be known of them from the input alone.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::{
    next::instances,
    path,
    state::{Instance, Progress, Scope, StepState},
    values::Values,
};
use crate::{
    event::{Failure, Item},
    expression::Expression,
    library::{Definition, Work},
    plan::{PlannedStep, is_symbolic},
    playbook::Step,
};

/// The steps that a run of `definition` with `input` would take, without their changes; values that only earlier
/// steps will know stay `"${…}"`. An error names the step.
pub fn outline(
    definition: &Arc<Definition>,
    about: &Value,
    input: &Value,
) -> Result<Vec<PlannedStep>, (String, Failure)> {
    outline_foreseeing(definition, about, input, &BTreeMap::new())
}

/// The same where the outputs of some steps are known before they run: `foreseen` holds them by step instance. A field
/// that a foreseen output leaves out is one that will be known only later.
pub fn outline_foreseeing(
    definition: &Arc<Definition>,
    about: &Value,
    input: &Value,
    foreseen: &BTreeMap<String, Value>,
) -> Result<Vec<PlannedStep>, (String, Failure)> {
    let mut outline = Outline { about, foreseen, steps: Vec::new() };
    outline.scope(Scope::new(definition.clone(), Arc::new(input.clone())), "")?;
    Ok(outline.steps)
}

struct Outline<'o> {
    about: &'o Value,
    foreseen: &'o BTreeMap<String, Value>,
    steps: Vec<PlannedStep>,
}

impl Outline<'_> {
    fn scope(&mut self, mut scope: Scope, prefix: &str) -> Result<(), (String, Failure)> {
        let definition = scope.definition.clone();
        for (step, state) in definition.playbook.steps.iter().zip(&mut scope.steps) {
            if let Some(output) = self.foreseen.get(&format!("{prefix}{}", step.id.value)) {
                let output = Some(Arc::new(output.clone()));
                let done = Instance { progress: Progress::Succeeded, output, ..Instance::default() };
                *state = StepState::Expanded(vec![done]);
            }
        }
        let scope = &scope;
        for (step, link, _) in scope.parts() {
            let path = format!("{prefix}{}", step.id.value);
            self.step(scope, step, &link.work, &path).map_err(|(at, error)| (at.unwrap_or(path), error))?;
        }
        Ok(())
    }

    fn step(&mut self, scope: &Scope, step: &Step, work: &Work, path: &str) -> Result<(), (Option<String>, Failure)> {
        let own = |error: Failure| (None, error);
        let known = Known { scope, values: Values::new(scope, self.about), is_open: is_symbolic(&scope.input) };
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
            let known = Known { scope, values, is_open: known.is_open || is_symbolic(&item) };
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
                    self.scope(called, &format!("{path}.")).map_err(|(at, error)| (Some(at), error))?;
                }
            }
        }
        Ok(())
    }
}

/// What can be evaluated before any step has run.
struct Known<'k> {
    scope: &'k Scope,
    values: Values<'k>,
    /// Whether the input or item has parts that are known only later.
    is_open: bool,
}

impl Known<'_> {
    /// The value, if it is known; an error only where it will be one.
    fn value(&self, expression: &Expression) -> Result<Option<Value>, Failure> {
        if expression.mentions("steps") {
            return Ok(if self.is_foreseen(expression) { self.values.evaluate(expression).ok() } else { None });
        }
        // A selection gives a later part as it is; a computation over one would be wrong.
        let selects = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '.');
        match self.values.evaluate(expression) {
            Ok(value) if !self.is_open || expression.source().chars().all(selects) => Ok(Some(value)),
            Err(error) if !self.is_open => Err(Failure::new(error.to_string())),
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// Whether the outputs of all steps that the expression names are known.
    fn is_foreseen(&self, expression: &Expression) -> bool {
        let named = expression.steps();
        let known =
            |step: &Step, state: &StepState| matches!(state, StepState::Expanded(_)) && named.contains(&step.id.value);
        let foreseen = self.scope.parts().filter(|(step, _, state)| known(step, state)).count();
        !self.is_open && !named.is_empty() && foreseen == named.len()
    }
}
