//! What this contractor does by itself: schedules, the condition of pods without room, the pool of ready keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
    time::Duration,
};

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

use crate::{failure::chain, inventory, key_pool, pressure, reach::Deps};

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
pub async fn follow_schedule(at: Workplace, playbook: String, cron: String, stop: CancellationToken) {
    let Ok(schedule) = Cron::from_str(&cron) else {
        return tracing::error!(playbook, cron, "not a schedule");
    };
    loop {
        let now = Timestamp::now().to_zoned(TimeZone::UTC);
        let Ok(next) = schedule.find_next_occurrence(&now, false) else { return };
        let pause = next.timestamp().duration_since(Timestamp::now()).unsigned_abs();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        if inventory::clusters(&at.store.reader()).is_ok_and(|clusters| clusters.is_empty()) {
            continue;
        }
        fire(&at, &playbook, &format!("schedule/{}", next.timestamp()), None, json!({})).await;
    }
}

/// Starts a playbook for a cluster whose pods have found no room for `hold`.
pub async fn follow_pressure(
    at: Workplace,
    deps: Deps,
    playbook: String,
    (hold, cool_down): (Duration, Duration),
    stop: CancellationToken,
) {
    let mut since = BTreeMap::<ClusterName, Timestamp>::new();
    let mut fired = BTreeMap::<ClusterName, Timestamp>::new();
    loop {
        let pressed = match pressure::clusters_under_pressure(&deps, &at.store.reader()).await {
            Ok(pressed) => pressed.into_iter().map(|(cluster, _)| cluster).collect::<BTreeSet<_>>(),
            Err(error) => {
                tracing::warn!(%error, "the clusters' pressure is not known");
                BTreeSet::new()
            }
        };
        let now = Timestamp::now();
        let past = |then: &Timestamp, what: Duration| now.duration_since(*then).unsigned_abs() >= what;
        since.retain(|cluster, _| pressed.contains(cluster));
        for cluster in pressed {
            let begin = *since.entry(cluster.clone()).or_insert(now);
            let cool = fired.get(&cluster).is_none_or(|last| past(last, cool_down));
            if cool && past(&begin, hold) {
                let cause = format!("{UNSCHEDULABLE_PODS}/{cluster}/{begin}");
                fire(&at, &playbook, &cause, Some(&cluster), json!({ "cluster_name": cluster })).await;
                fired.insert(cluster.clone(), now);
                since.remove(&cluster);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// One run per cause, however often it is fired.
async fn fire(at: &Workplace, playbook: &str, cause: &str, cluster: Option<&ClusterName>, input: Value) {
    let run = run_id(SOURCE, cause, playbook);
    let flow = Uuid::new_v5(&run, b"flow");
    let with = match told(at, playbook, cause, cluster, flow) {
        Ok(outgoing) => Commit { outgoing: vec![outgoing], ..Commit::default() },
        Err(reason) => return tracing::error!(playbook, reason, "a trigger's event could not be made"),
    };
    let new = NewRun {
        run,
        flow,
        cause: format!("{SOURCE}/{cause}"),
        playbook: playbook.to_owned(),
        subject: cluster.map(ToString::to_string),
        input,
        plan: None,
        with,
    };
    match at.driver.submit(new).await {
        Ok(_) => tracing::info!(playbook, cause, "trigger fired"),
        Err(SubmitError::NoPlaybook(_)) => tracing::warn!(playbook, "the triggered playbook is gone"),
        Err(error) => tracing::warn!(playbook, error = chain(&error), "the trigger could not start its run"),
    }
}

/// What is told of a firing; the same however often it is fired.
fn told(
    at: &Workplace,
    playbook: &str,
    cause: &str,
    cluster: Option<&ClusterName>,
    flow: Uuid,
) -> Result<Outgoing, String> {
    let body = DomainEvent {
        event_type: "trigger_fired".to_owned(),
        object: playbook.to_owned(),
        flow: Some(flow),
        message: None,
        facts: BTreeMap::from([("cause".to_owned(), cause.into())]),
    };
    let context = Context { flow: Some(flow), cause: None, cluster: cluster.map(ToString::to_string) };
    let id = Uuid::new_v5(&flow, b"trigger_fired");
    at.herald.event(id, "trigger_fired", &context, &body).map_err(|failure| failure.message)
}
