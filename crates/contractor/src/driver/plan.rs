//! Planning: the outline of a run, with what each step's preview says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use engine::{
    library::Definition,
    plan::{Plan, PlannedStep},
    playbook::After,
    run,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Parts;
use crate::action::{Change, PreviewContext, StepError};

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// There is no such playbook.
    #[error("there is no playbook `{0}`")]
    NoPlaybook(String),
    /// The input does not fit the playbook.
    #[error("the input does not fit playbook `{playbook}`: {reason}")]
    Input {
        /// The playbook.
        playbook: String,
        /// What does not fit; no values.
        reason: String,
    },
    /// A step would fail.
    #[error("step `{step}`: {reason}")]
    Step {
        /// The step.
        step: String,
        /// What does not fit, or what its preview said.
        reason: String,
    },
}

pub(super) async fn plan(parts: &Parts, playbook: &str, flow: Uuid, input: &Value) -> Result<Plan, PlanError> {
    let definition = parts.playbooks.get(playbook).ok_or_else(|| PlanError::NoPlaybook(playbook.to_owned()))?;
    if let Some(reason) = definition.refuses(input) {
        return Err(PlanError::Input { playbook: playbook.to_owned(), reason });
    }
    let about = json!({"id": null, "flow": flow, "subject": null, "cause": null});
    let on_failure = definition.playbook.on_failure.policy(input, &about);
    let on_failure = on_failure.map_err(|reason| PlanError::Input { playbook: playbook.to_owned(), reason })?;
    let revisions = Arc::new(Mutex::new(BTreeMap::new()));
    let context = PreviewContext { flow, store: parts.journal.reader(), revisions: revisions.clone() };
    let mut steps = foreseen_steps(parts, definition, &context, input).await?;
    for step in &mut steps {
        if let Some(action) = parts.actions.get(&step.action) {
            let changes = action.preview(&context, &step.input).await;
            step.changes = changes.or_else(|error| no_room(error, &step.step))?;
        }
    }
    let of = &definition.playbook;
    let emits = of.emits.iter().filter(|emit| emit.after == After::Success).map(|emit| emit.name.clone());
    let revisions = revisions.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Plan {
        playbook: playbook.to_owned(),
        version: of.version,
        playbook_hash: definition.hash(),
        input: input.clone(),
        on_failure: on_failure.as_str().to_owned(),
        commit_point: of.commit_point.as_ref().map(|point| point.value.clone()),
        steps,
        emits: emits.collect(),
        revisions,
    })
}

/// The outline, drawn again as long as a step of it knows its output beforehand.
async fn foreseen_steps(
    parts: &Parts,
    definition: &Arc<Definition>,
    context: &PreviewContext,
    input: &Value,
) -> Result<Vec<PlannedStep>, PlanError> {
    let about = json!({"id": null, "flow": context.flow, "subject": null, "cause": null});
    let mut foreseen = BTreeMap::new();
    let mut asked = BTreeSet::new();
    loop {
        let steps = run::outline_foreseeing(definition, &about, input, &foreseen)
            .map_err(|(step, error)| PlanError::Step { step, reason: error.message })?;
        let known = foreseen.len();
        for step in steps.iter().filter(|step| step.is_certain()) {
            let action = parts.actions.get(&step.action).filter(|_| asked.insert(step.step.clone()));
            let Some(action) = action else { continue };
            let output = action.foresee(context, &step.input).await.map_err(|error| refused(&step.step, &error))?;
            foreseen.extend(output.map(|output| (step.step.clone(), output)));
        }
        if foreseen.len() == known {
            return Ok(steps);
        }
    }
}

/// A step that would wait is not one that would fail: the plan says what it would wait for.
fn no_room(error: StepError, step: &str) -> Result<Vec<Change>, PlanError> {
    match error {
        StepError::Wait { reason, .. } | StepError::NoCapacity { reason, .. } => {
            Ok(vec![Change { verb: "wait".to_owned(), object: reason, details: BTreeMap::new(), destroys: false }])
        }
        error => Err(refused(step, &error)),
    }
}

fn refused(step: &str, error: &StepError) -> PlanError {
    PlanError::Step { step: step.to_owned(), reason: error.to_string() }
}
