//! What this contractor does by itself: schedules, the condition of pods without room, the pool of ready keys.

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use contractor::{
    agent::Workplace,
    driver::{NewRun, SubmitError},
    herald::Context,
};
use croner::Cron;
use engine::event::run_id;
use jiff::{Timestamp, tz::TimeZone};
use messages::{event::DomainEvent, name::ClusterName};
use serde_json::{Value, json};
use store::{Commit, Outgoing};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{failure::chain, inventory, key_pool, pressure::Pressure, reach::Deps};

/// The condition that `scale-on-pressure` names.
pub const UNSCHEDULABLE_PODS: &str = "unschedulable_pods";
const SOURCE: &str = "/talos";
/// How often conditions are looked at.
const LOOK: Duration = Duration::from_secs(15);

/// A playbook that a schedule or a condition starts.
#[derive(Clone, Debug)]
pub struct Firing {
    /// Its name.
    pub playbook: String,
    /// What it starts by.
    pub by: By,
}

/// What starts a playbook without a message.
#[derive(Clone, Debug)]
pub enum By {
    /// Five cron fields, UTC.
    Schedule(String),
    /// Pods without room, for `hold`, and not again before `cool_down` is over.
    Pressure { hold: Duration, cool_down: Duration },
}

/// The firings that playbooks ask for.
pub fn firings<'p>(playbooks: impl Iterator<Item = &'p engine::playbook::Playbook>) -> Vec<Firing> {
    let firing = |playbook: &'p engine::playbook::Playbook| {
        let trigger = playbook.trigger.as_ref()?;
        let by = match (&trigger.cron, trigger.condition.as_deref()) {
            (Some(cron), _) => By::Schedule(cron.clone()),
            (None, Some(UNSCHEDULABLE_PODS)) => By::Pressure { hold: trigger.hold, cool_down: trigger.cool_down },
            _ => return None,
        };
        Some(Firing { playbook: playbook.name.value.clone(), by })
    };
    playbooks.filter_map(firing).collect()
}

/// Keeps the pool of service-account keys filled.
pub async fn keep_keys(at: Workplace, size: usize, stop: CancellationToken) {
    const AGAIN: Duration = Duration::from_secs(60);
    loop {
        tokio::select! {
            () = key_pool::refill(&at.store, size) => {}
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Starts a playbook whenever its schedule says so; what was missed while the daemon was down is not made up for.
///
/// Schedules are in UTC, which has no summer time: no hour is missing and none comes twice.
pub async fn follow_schedule(at: Workplace, playbook: String, cron: String, stop: CancellationToken) {
    /// A clock that is set, or a machine that slept, is noticed within this time.
    const LONGEST: Duration = Duration::from_secs(30);
    let Ok(schedule) = Cron::from_str(&cron) else {
        return tracing::error!(playbook, cron, "not a schedule");
    };
    let Some(mut next) = next_after(&schedule, Timestamp::now()) else { return };
    loop {
        let left = Duration::try_from(next.duration_since(Timestamp::now())).unwrap_or_default();
        tokio::select! {
            () = tokio::time::sleep(left.min(LONGEST)) => {}
            () = stop.cancelled() => return,
        }
        let now = Timestamp::now();
        if now < next {
            continue;
        }
        if !inventory::clusters(&at.store.reader()).is_ok_and(|clusters| clusters.is_empty()) {
            let name = format!("schedule/{next}");
            let with = Commit::default();
            fire(&at, Cause { playbook: &playbook, name, cluster: None, input: json!({}), with }).await;
        }
        let Some(following) = next_after(&schedule, now) else { return };
        next = following;
    }
}

fn next_after(schedule: &Cron, now: Timestamp) -> Option<Timestamp> {
    let next = schedule.find_next_occurrence(&now.to_zoned(TimeZone::UTC), false);
    next.ok().map(|next| next.timestamp())
}

/// Starts a playbook for a cluster whose pods have found no room for a while.
pub async fn follow_pressure(at: Workplace, deps: Deps, mut pressure: Pressure, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = pressure.look(&at, &deps, Timestamp::now()) => {}
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Why a playbook starts by itself, and with what.
pub(crate) struct Cause<'c> {
    pub(crate) playbook: &'c str,
    /// Names this firing: the same name again starts nothing new.
    pub(crate) name: String,
    pub(crate) cluster: Option<&'c ClusterName>,
    pub(crate) input: Value,
    /// What is written together with the run.
    pub(crate) with: Commit,
}

/// Starts one run per cause, however often it is fired; whether it is recorded.
pub(crate) async fn fire(at: &Workplace, cause: Cause<'_>) -> bool {
    let run = run_id(SOURCE, &cause.name, cause.playbook);
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
        cause: format!("{SOURCE}/{name}"),
        playbook: playbook.to_owned(),
        subject: cluster.map(ToString::to_string),
        input,
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
    let context = Context { flow: Some(flow), cause: None, cluster: cause.cluster.map(ToString::to_string) };
    let id = Uuid::new_v5(&flow, b"trigger_fired");
    at.herald.event(id, "trigger_fired", &context, &body).map_err(|failure| failure.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daily_schedule_fires_once_a_day_also_where_clocks_are_set() {
        let schedule = Cron::from_str("30 2 * * *").unwrap();
        // Europe's clocks go forward on 29 March 2026 and back on 25 October, both at 01:00 UTC.
        for day in ["2026-03-28", "2026-10-24"] {
            let mut now: Timestamp = format!("{day}T12:00:00Z").parse().unwrap();
            let mut fired = Vec::new();
            for _ in 0..3 {
                now = next_after(&schedule, now).unwrap();
                fired.push(now);
            }
            let pauses: Vec<_> = fired.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_hours()).collect();
            assert_eq!(pauses, [24, 24], "{fired:?}");
        }
    }
}
