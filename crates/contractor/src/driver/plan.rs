//! Planning: the outline of a run, with what each step's preview says.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use engine::{plan::Plan, playbook::After, run};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Parts;
use crate::action::PreviewContext;

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
    let mut steps = run::outline(definition, &about, input)
        .map_err(|(step, error)| PlanError::Step { step, reason: error.message })?;
    let revisions = Arc::new(Mutex::new(BTreeMap::new()));
    let context = PreviewContext { flow, store: parts.journal.reader(), revisions: revisions.clone() };
    for step in &mut steps {
        if let Some(action) = parts.actions.get(&step.action) {
            let changes = action.preview(&context, &step.input).await;
            let refused = |error: crate::action::StepError| PlanError::Step {
                step: step.step.clone(),
                reason: error.to_string(),
            };
            step.changes = changes.map_err(refused)?;
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
        on_failure: of.on_failure.as_str().to_owned(),
        commit_point: of.commit_point.as_ref().map(|point| point.value.clone()),
        steps,
        emits: emits.collect(),
        revisions,
    })
}
