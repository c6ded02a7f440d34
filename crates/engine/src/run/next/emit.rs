//! What a run tells others when it ends.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Decide, Effect,
    expand::{failure, instances},
    size, too_large,
};
use crate::{
    event::{Event, Failure, Item, Outcome},
    playbook::{After, Emit},
    report::Emission,
    run::{MAX_VALUE, values::Values},
};

impl Decide<'_> {
    pub(super) fn finish(&mut self, outcome: Outcome) {
        let after = if outcome == Outcome::Succeeded { After::Success } else { After::Failure };
        let failed = (after == After::Failure).then(|| self.failure(outcome));
        let (mut emissions, mut unsent) = (Vec::new(), Vec::new());
        for (index, emit) in self.state.root.definition.playbook.emits.iter().enumerate() {
            // One that was kept and is undone later has told so before.
            if emit.after == after && !self.state.told_failure {
                match self.emissions(index, emit, failed.as_ref()) {
                    Ok(more) => emissions.extend(more),
                    Err(error) => unsent.push(error),
                }
            }
        }
        match (after, unsent.pop()) {
            // A success that cannot be told is none.
            (After::Success, Some(error)) => self.record(vec![Event::Halted { error, at: self.now }]),
            (_, last) => {
                unsent.extend(last);
                self.next.effects.push(Effect::Finish { outcome, emissions, unsent });
            }
        }
    }

    /// What `failure` is in the messages of a run that did not succeed.
    fn failure(&self, outcome: Outcome) -> Value {
        let failure = self.state.failure.as_ref();
        let cancelled = || self.state.cancelled_why.as_deref().unwrap_or("cancelled");
        let message = failure.map_or_else(cancelled, |failure| failure.error.message.as_str());
        json!({"step": failure.and_then(|failure| failure.step.as_ref()), "message": message, "outcome": outcome})
    }

    fn emissions(&self, index: usize, emit: &Emit, failed: Option<&Value>) -> Result<Vec<Emission>, Failure> {
        let values = || Values::new(&self.state.root, &self.state.about).with_failure(failed);
        if let Some(when) = &emit.when
            && values().evaluate(&when.value).map_err(|error| failure(&error))? != Value::Bool(true)
        {
            return Ok(Vec::new());
        }
        let items = match &emit.fan_out {
            Some(fan_out) => instances(&values(), fan_out)?,
            None => vec![Item { key: None, item: Value::Null }],
        };
        let emission = |Item { key, item }: Item| {
            let mut body =
                values().with_item(&item, key.as_deref()).resolve(&emit.with).map_err(|error| failure(&error))?;
            leave_out_nulls(&mut body);
            // A body is kept as text inside a row of JSON.
            if size(&Value::String(body.to_string())) > MAX_VALUE {
                return Err(too_large("a message"));
            }
            let name = format!("emit\u{1f}{index}\u{1f}{}", key.unwrap_or_default());
            let id = Uuid::new_v5(&self.state.opened.run, name.as_bytes());
            Ok(Emission { id, kind: emit.kind, name: emit.name.clone(), body })
        };
        items.into_iter().map(emission).collect()
    }
}

/// A message has no empty fields: what has no value, such as the step of a run that was cancelled, is left out.
fn leave_out_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(leave_out_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(leave_out_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
