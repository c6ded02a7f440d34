//! Consent is to a plan, and to the world that it was made from: both are looked at again before the first step.

use engine::event::Failure;

use super::{plan, run::RunTask};

impl RunTask {
    /// Why the approval of its plan is void: the world changed while the run waited for its locks.
    pub(super) async fn void_approval(&mut self) -> Option<Failure> {
        let opened = self.state.opened();
        let approved = opened.own_plan.as_ref()?;
        if self.plan_holds || self.state.is_begun() || self.state.is_stopping() {
            return None;
        }
        let plan = plan::plan(&self.shared.parts, &opened.playbook, opened.flow, &opened.input).await;
        let message = match plan {
            Ok(plan) if plan.hash() == *approved => {
                self.plan_holds = true;
                return None;
            }
            Ok(_) => "the world is not what the approved plan was made from; the approval is void".to_owned(),
            Err(error) => format!("what was approved cannot be done any more: {error}"),
        };
        Some(Failure { message, hint: Some("ask again, look at the new plan and approve that".to_owned()) })
    }
}
