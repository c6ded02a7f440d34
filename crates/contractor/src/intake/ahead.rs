//! What lies ahead: whether the other contractor would take what it will be handed, asked before anything is begun.

use std::time::Duration;

use messages::{
    catalogue::Family,
    query::{Refusal, RefusalKind},
};
use serde_json::{Value, json};

use super::{Considered, Intake};
use crate::{
    agent::{Foreseen, Message},
    counterpart::{Counterpart, Unanswered},
};

/// Work does not wait for long for advice.
const PATIENCE: Duration = Duration::from_secs(3);

impl Intake {
    /// Whether a message would be taken. Nothing is planned, done or asked further.
    ///
    /// # Errors
    /// Why it would be refused, with every violation.
    pub async fn judge(&self, family: Family, name: &str, body: Value) -> Result<(), Refusal> {
        let message = self.gate.imagine(family, name, body, None)?;
        self.gate.validate(family, name, &message.body)?;
        self.consider(&message).await.map(drop)
    }

    /// [`Intake::consider`], and what the other contractor says of what it will be handed. Where it does not answer, the
    /// message is taken all the same: it may say no later, and the flow hears it then.
    pub(super) async fn consider_ahead(&self, message: &Message) -> Result<Considered, Refusal> {
        let considered = self.consider(message).await?;
        let Some(foreseen) = self.agent.foreseen(message) else { return Ok(considered) };
        let question = json!({ "family": "handoff", "type": foreseen.name, "body": foreseen.body });
        let other = Counterpart::new(self.planner.bus.clone(), foreseen.to).within(PATIENCE);
        match other.ask("consider", &question).await {
            Ok(_) => Ok(considered),
            Err(Unanswered::Refused(refusal)) if refusal.kind == RefusalKind::Invalid => Err(ours(refusal, &foreseen)),
            Err(unanswered) => {
                tracing::info!(reason = %unanswered, "whether the other contractor would take its part is not known");
                Ok(considered)
            }
        }
    }
}

/// What the other contractor says of the handoff, as said of the message that leads to it.
fn ours(mut refusal: Refusal, foreseen: &Foreseen) -> Refusal {
    for violation in &mut refusal.violations {
        if let Some(path) = violation.path.strip_prefix(foreseen.within) {
            violation.path = path.to_owned();
        }
    }
    let first = refusal.violations.first().map_or_else(|| refusal.message.clone(), ToString::to_string);
    Refusal { message: format!("{}-contractor would refuse its part: {first}", foreseen.to), ..refusal }
}

#[cfg(test)]
mod tests {
    use messages::{schema::Violation, subject::Party};

    use super::*;

    #[test]
    fn what_is_said_of_the_handoff_is_said_of_the_request() {
        let violation = |path: &str| Violation {
            path: path.to_owned(),
            rule: "patch".to_owned(),
            expected: "a patch".to_owned(),
            got: "none".to_owned(),
            did_you_mean: None,
        };
        let said = Refusal {
            violations: vec![violation("/spec/patches"), violation("/cluster_name")],
            ..Refusal::new(RefusalKind::Invalid, "the handoff makes no sense")
        };
        let foreseen =
            Foreseen { to: Party::Talos, name: "vm_provisioned".to_owned(), body: json!({}), within: "/spec" };
        let told = ours(said, &foreseen);
        let paths: Vec<_> = told.violations.iter().map(|violation| violation.path.as_str()).collect();
        assert_eq!(paths, ["/patches", "/cluster_name"]);
        assert_eq!(told.message, "talos-contractor would refuse its part: /patches: expected a patch, got none");
    }
}
