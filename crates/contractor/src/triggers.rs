//! What starts playbooks without a message: schedules, and the conditions that an agent watches.

use std::{collections::BTreeMap, time::Duration};

use engine::{event::run_id, library::Library, playbook::schedule::Schedule};
use jiff::Timestamp;
use messages::{event::DomainEvent, name::ClusterName};
use serde_json::{Value, json};
use store::{Commit, Outgoing};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    agent::Workplace,
    driver::{NewRun, SubmitError},
    herald::Context,
    intake::chain,
};

/// A clock that is set, or a machine that slept, is noticed within this time.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// How soon a schedule that could not begin its run tries again.
const AGAIN: Duration = Duration::from_secs(15);

/// Why a playbook starts by itself, and with what.
pub struct Cause<'c> {
    /// What starts.
    pub playbook: &'c str,
    /// Names this firing: the same name again starts nothing new.
    pub name: String,
    /// About which cluster.
    pub cluster: Option<&'c ClusterName>,
    /// The run's input.
    pub input: Value,
    /// What is written together with the run.
    pub with: Commit,
}

/// The playbooks that a condition starts: name, how long it must hold, how long it rests after a firing.
pub fn by_condition(library: &Library, condition: &str) -> Vec<(String, Duration, Duration)> {
    let named = library.iter().filter_map(|definition| {
        let trigger = definition.playbook.trigger.as_ref()?;
        let names_it = trigger.condition.as_deref() == Some(condition);
        names_it.then(|| (definition.playbook.name.value.clone(), trigger.hold, trigger.cool_down))
    });
    named.collect()
}

/// The playbooks that a schedule starts.
pub(crate) fn by_schedule(library: &Library) -> Vec<(String, Schedule)> {
    let scheduled = library.iter().filter_map(|definition| {
        let trigger = definition.playbook.trigger.as_ref()?;
        Some((definition.playbook.name.value.clone(), trigger.cron.clone()?))
    });
    scheduled.collect()
}

/// Starts a playbook whenever its schedule says so; what was missed while the daemon was down is not made up for.
pub(crate) async fn follow_schedule(at: Workplace, playbook: String, schedule: Schedule, stop: CancellationToken) {
    let Some(mut next) = schedule.next_after(Timestamp::now()) else { return };
    loop {
        let left = Duration::try_from(next.duration_since(Timestamp::now())).unwrap_or_default();
        tokio::select! {
            () = tokio::time::sleep(left.min(LONGEST_SLEEP)) => {}
            () = stop.cancelled() => return,
        }
        let now = Timestamp::now();
        if now < next {
            continue;
        }
        let name = format!("schedule/{next}");
        let cause = Cause { playbook: &playbook, name, cluster: None, input: json!({}), with: Commit::default() };
        let fired = fire(&at, cause).await;
        let following = schedule.next_after(now);
        // What could not begin for a moment, as on a full disk, is tried until its next time comes.
        if !fired && following.is_none_or(|following| now + AGAIN < following) {
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => continue,
                () = stop.cancelled() => return,
            }
        }
        let Some(following) = following else { return };
        next = following;
    }
}

/// Starts one run per cause, however often it is fired; whether it is recorded.
pub async fn fire(at: &Workplace, cause: Cause<'_>) -> bool {
    let source = at.herald.party().source();
    let run = run_id(&source, &cause.name, cause.playbook);
    let flow = Uuid::new_v5(&run, b"flow");
    let told = match told(at, &cause, flow) {
        Ok(outgoing) => outgoing,
        Err(reason) => {
            tracing::error!(playbook = cause.playbook, reason, "a trigger's event could not be made");
            return false;
        }
    };
    let Cause { playbook, name, cluster, input, mut with } = cause;
    with.outgoing.push(told);
    let new = NewRun {
        run,
        flow,
        key: None,
        cause: format!("{source}/{name}"),
        playbook: playbook.to_owned(),
        subject: cluster.map(ToString::to_string),
        input,
        trace: None,
        plan: None,
        with,
    };
    match at.driver.submit(new).await {
        Ok(_) => tracing::info!(playbook, cause = name, "trigger fired"),
        Err(SubmitError::NoPlaybook(_)) => tracing::warn!(playbook, "the triggered playbook is gone"),
        Err(error) => {
            tracing::warn!(playbook, error = chain(&error), "the trigger could not start its run");
            return false;
        }
    }
    true
}

/// What is told of a firing; the same however often it is fired.
fn told(at: &Workplace, cause: &Cause<'_>, flow: Uuid) -> Result<Outgoing, String> {
    let body = DomainEvent {
        event_type: "trigger_fired".to_owned(),
        object: cause.playbook.to_owned(),
        flow: Some(flow),
        message: None,
        facts: BTreeMap::from([("cause".to_owned(), cause.name.as_str().into())]),
    };
    let context = Context { flow: Some(flow), cluster: cause.cluster.map(ToString::to_string), ..Context::default() };
    let id = Uuid::new_v5(&flow, b"trigger_fired");
    at.herald.event(id, "trigger_fired", &context, &body).map_err(|failure| failure.message)
}
