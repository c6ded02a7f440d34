//! Fixing the instances of a step, once.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Decide, size, too_large};
use crate::{
    event::{Event, Failure, Item},
    expression::EvaluationError,
    playbook::{FanOut, Step},
    run::{MAX_INSTANCES, MAX_VALUE, path, state::Scope, values::Values},
};

impl Decide<'_> {
    /// The entries that fix a step's instances, skip it, or say why that cannot be done.
    pub(super) fn expand(&self, scope: &Scope, step: &Step, path: String) -> Vec<Event> {
        let values = Values::new(scope, &self.state.about);
        let at = self.now;
        let when = step.when.as_ref().map_or(Ok(Value::Bool(true)), |when| values.evaluate(&when.value));
        let instances = match when {
            Ok(Value::Bool(false)) => return vec![Event::Skipped { step: path, at }],
            Ok(Value::Bool(true)) => match &step.fan_out {
                Some(fan_out) => instances(&values, fan_out),
                None => Ok(vec![Item { key: None, item: Value::Null }]),
            },
            Ok(_) => Err(Failure::new("`when` is neither true nor false")),
            Err(error) => Err(failure(&error)),
        };
        match instances {
            Ok(instances) => {
                chunks(instances, |instances, more| Event::Expanded { step: path.clone(), instances, more, at })
            }
            Err(error) => vec![Event::Failed { step: path, attempt: 0, error, retry_at: None, at }],
        }
    }
}

/// The items of a fan-out in key order.
pub(in crate::run) fn instances(values: &Values<'_>, fan_out: &FanOut) -> Result<Vec<Item>, Failure> {
    let Value::Array(items) = values.evaluate(&fan_out.each.value).map_err(|error| failure(&error))? else {
        return Err(Failure::new(format!("`{}` is not a list", fan_out.each.value.source())));
    };
    if items.len() > MAX_INSTANCES {
        return Err(Failure::new(format!("{} instances, more than {MAX_INSTANCES}", items.len())));
    }
    let mut by_key = BTreeMap::new();
    for item in items {
        if size(&item) > MAX_VALUE {
            return Err(too_large("an item"));
        }
        let key = values.for_item(&item).resolve(&fan_out.key).map_err(|error| failure(&error))?;
        let key = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
        if !path::is_key(&key) {
            return Err(Failure::new("a `key` is empty, too long, or has brackets or control characters"));
        }
        if by_key.insert(key.clone(), item).is_some() {
            return Err(Failure::new(format!("two items have the key `{key}`")));
        }
    }
    Ok(by_key.into_iter().map(|(key, item)| Item { key: Some(key), item }).collect())
}

/// Splits a list so that no entry is above the cap; an empty list is one entry.
fn chunks(instances: Vec<Item>, event: impl Fn(Vec<Item>, bool) -> Event) -> Vec<Event> {
    let mut lists = vec![Vec::new()];
    let mut room = MAX_VALUE;
    for item in instances {
        let needs = size(&item.item) + 2 * item.key.as_ref().map_or(0, String::len) + 32;
        if needs > room && lists.last().is_some_and(|list: &Vec<Item>| !list.is_empty()) {
            lists.push(Vec::new());
            room = MAX_VALUE;
        }
        room = room.saturating_sub(needs);
        if let Some(list) = lists.last_mut() {
            list.push(item);
        }
    }
    let last = lists.len() - 1;
    lists.into_iter().enumerate().map(|(at, list)| event(list, at < last)).collect()
}

pub(super) fn failure(error: &EvaluationError) -> Failure {
    Failure::new(error.to_string())
}
