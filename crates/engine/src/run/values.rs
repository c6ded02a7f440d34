//! What expressions see: `input`, `run`, `steps`, `item`, `key`, `failure`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::state::{Progress, Scope, StepState};
use crate::{
    expression::{EvaluationError, Expression},
    template::Template,
};

/// The variables of one evaluation.
#[derive(Clone)]
pub(super) struct Values<'v> {
    scope: &'v Scope,
    about: &'v Value,
    item: Option<&'v Value>,
    key: Option<Value>,
    failure: Option<&'v Value>,
}

impl<'v> Values<'v> {
    pub(super) fn new(scope: &'v Scope, about: &'v Value) -> Self {
        Self { scope, about, item: None, key: None, failure: None }
    }

    pub(super) fn with_item(self, item: &'v Value, key: Option<&str>) -> Self {
        Self { item: Some(item), key: key.map(Value::from), ..self }
    }

    /// The same for one item of a list whose keys are being made.
    pub(super) fn for_item<'i>(&'i self, item: &'i Value) -> Values<'i> {
        Values { item: Some(item), ..self.clone() }
    }

    pub(super) fn with_failure(self, failure: Option<&'v Value>) -> Self {
        Self { failure, ..self }
    }

    pub(super) fn evaluate(&self, expression: &Expression) -> Result<Value, EvaluationError> {
        let steps = self.outputs(&expression.steps());
        expression.evaluate(&|name| self.lookup(name, &steps))
    }

    pub(super) fn resolve(&self, template: &Template) -> Result<Value, EvaluationError> {
        let steps = self.outputs(&template.steps());
        template.resolve(&|name| self.lookup(name, &steps))
    }

    fn lookup<'s>(&'s self, name: &str, steps: &'s Value) -> Option<&'s Value> {
        match name {
            "input" => Some(&self.scope.input),
            "run" => Some(self.about),
            "steps" => Some(steps),
            "item" => self.item,
            "key" => self.key.as_ref(),
            "failure" => self.failure,
            _ => None,
        }
    }

    /// Outputs of the steps called `names`; one that has none (skipped, not done) is null.
    fn outputs(&self, names: &BTreeSet<String>) -> Value {
        let mut outputs = Map::new();
        for (step, _, state) in self.scope.parts() {
            if names.contains(&step.id.value) {
                outputs.insert(step.id.value.clone(), output(state, step.fan_out.is_some()));
            }
        }
        Value::Object(outputs)
    }
}

/// A step's output; that of a fan-out is the list in key order.
fn output(state: &StepState, is_list: bool) -> Value {
    let done = |progress: &Progress| *progress == Progress::Succeeded;
    let mut outputs = state.instances().map(|instance| match &instance.output {
        Some(output) if done(&instance.progress) => Value::clone(output),
        _ => Value::Null,
    });
    match state {
        StepState::Expanded(_) if is_list => outputs.collect(),
        StepState::Expanded(_) => outputs.next().unwrap_or(Value::Null),
        StepState::Pending(_) | StepState::Skipped | StepState::Broken(_) => Value::Null,
    }
}
