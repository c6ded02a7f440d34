//! What a playbook says of failure: a policy, or an expression over the input that gives one.

use serde::Deserialize;
use serde_json::Value;

use super::Policy;
use crate::template::Template;

/// What happens when a step fails for good, as the file says it.
#[derive(Clone, Debug)]
pub enum OnFailure {
    /// Always this.
    Fixed(Policy),
    /// What the input asks for: `${has(input.failure_policy) ? input.failure_policy : 'rollback'}`.
    Asked(Template),
}

impl OnFailure {
    /// Whether a run may take back what it did.
    pub fn may_roll_back(&self) -> bool {
        !matches!(self, Self::Fixed(Policy::Keep | Policy::Pause))
    }

    /// The policy of a run with this input; the reason when the input asks for none that exists.
    pub fn policy(&self, input: &Value, about: &Value) -> Result<Policy, String> {
        let asked = match self {
            Self::Fixed(policy) => return Ok(*policy),
            Self::Asked(asked) => asked,
        };
        let value = asked.resolve(&|name| match name {
            "input" => Some(input),
            "run" => Some(about),
            _ => None,
        });
        let value = value.map_err(|error| format!("its failure policy: {error}"))?;
        Policy::deserialize(value).map_err(|_| "its failure policy is not one of rollback, keep, pause".to_owned())
    }
}
