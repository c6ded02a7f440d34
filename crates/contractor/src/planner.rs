//! Plans over both contractors: what a message would do here, and what the other one would do with what it is handed.

use std::sync::Arc;

use bus::Bus;
use engine::{
    hash,
    plan::{Change, Plan},
};
use messages::query::{PlanStep, PlanView, PlannedChange, Refusal, RefusalKind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    agent::Agent,
    counterpart::{Counterpart, Unanswered},
    driver::{Driver, PlanError},
    intake::chain,
};

/// Makes plans.
#[derive(Clone)]
pub struct Planner {
    /// Whose plans.
    pub agent: Arc<dyn Agent>,
    /// Plans this contractor's part.
    pub driver: Driver,
    /// Asks the other contractor for its part.
    pub bus: Bus,
}

impl Planner {
    /// The plan of `playbook` for `input`, the other contractor's part included.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn plan(&self, playbook: &str, flow: Uuid, input: &Value) -> Result<PlanView, Refusal> {
        let plan = self.driver.plan(playbook, flow, input).await.map_err(|error| refusal(&error))?;
        let mut view = self.view(&plan);
        let Some((to, kind, body)) = self.agent.handed_over(&plan) else {
            if !plan.emits.is_empty() && plan.steps.iter().flat_map(|step| &step.changes).any(waits) {
                view.remarks
                    .push("what the other contractor would do is known when there is nothing to wait for".into());
            }
            return Ok(view);
        };
        let question = json!({ "family": "handoff", "type": kind, "body": body, "flow": flow });
        match Counterpart::new(self.bus.clone(), to).ask("plan", &question).await {
            Ok(value) => match serde_json::from_value::<PlanView>(value) {
                Ok(then) => view.then.push(then),
                Err(error) => view.remarks.push(format!("{to}-contractor's part has another shape: {error}")),
            },
            Err(Unanswered::Refused(refusal)) => return Err(refusal),
            Err(silent @ Unanswered::Silent { .. }) => view.remarks.push(silent.to_string()),
        }
        view.needs_approval |= view.then.iter().any(|then| then.needs_approval);
        let parts: Vec<&str> = view.then.iter().map(|then| then.plan_hash.as_str()).collect();
        view.plan_hash = hash::of(&json!([plan.hash(), parts]));
        Ok(view)
    }

    fn view(&self, plan: &Plan) -> PlanView {
        let steps = plan.steps.iter().map(|step| PlanStep {
            step: step.step.clone(),
            action: step.action.clone(),
            when: step.when.clone(),
            changes: step
                .changes
                .iter()
                .map(|change| PlannedChange {
                    verb: change.verb.clone(),
                    object: change.object.clone(),
                    details: change.details.clone(),
                    destroys: change.destroys,
                })
                .collect(),
        });
        PlanView {
            plan_hash: plan.hash(),
            contractor: self.agent.party().to_string(),
            playbook: plan.playbook.clone(),
            version: plan.version,
            on_failure: plan.on_failure.clone(),
            needs_approval: plan.destroys(),
            steps: steps.collect(),
            then: Vec::new(),
            remarks: Vec::new(),
        }
    }
}

/// Whether the run would wait there, as the world is now.
fn waits(change: &Change) -> bool {
    change.verb == "wait"
}

fn refusal(error: &PlanError) -> Refusal {
    let kind = match error {
        PlanError::NoPlaybook(_) => RefusalKind::NotFound,
        _ => RefusalKind::Invalid,
    };
    Refusal::new(kind, chain(error))
}
