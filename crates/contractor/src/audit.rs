//! The audit log: which deeds it keeps, and its head told as events, so that a log that was rewritten contradicts them.
//!
//! A deed commits together with what it is about: a run cannot begin, end or be taken back without its record, and a
//! command is recorded before it is carried out.

use std::{collections::BTreeMap, time::Duration};

use engine::event::{Event, Opened, Outcome};
use messages::{event::DomainEvent, query::Refusal, subject::Party};
use serde_json::Value;
use store::{AuditHead, Commit, Deed, Store};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    agent::Asked,
    herald::{Context, Herald},
    intake::chain,
};

/// How often the head is told when it has moved.
const EVERY: Duration = Duration::from_secs(10);
/// How often it is told when it has not: the event stream forgets, and a log must not outlive what contradicts it.
const AT_LEAST_EVERY: Duration = Duration::from_hours(24);

/// What the log keeps of entries of a run's journal.
pub(crate) fn of_run(run: &Opened, events: &[Event]) -> Vec<Deed> {
    events.iter().filter_map(|event| of_event(run, event)).collect()
}

fn of_event(run: &Opened, event: &Event) -> Option<Deed> {
    let deed = |did: &str, who: &str| Deed {
        who: who.to_owned(),
        did: did.to_owned(),
        object: Some(format!("{} v{}", run.playbook, run.version)),
        cluster: run.subject.clone(),
        flow: Some(run.flow),
        run: Some(run.run),
        ..Deed::default()
    };
    Some(match event {
        Event::Opened(opened) => Deed { plan: opened.plan.clone(), ..deed("run_started", &opened.cause) },
        Event::CancelRequested { by, .. } => deed("run_cancel_requested", by),
        Event::UndoRequested { by, .. } => deed("run_undo_requested", by),
        Event::Resumed { by, .. } => deed("run_resumed", by),
        Event::Finished { outcome, .. } => {
            let outcome = match outcome {
                Outcome::Succeeded => "succeeded",
                Outcome::Undone => "undone",
                Outcome::Kept => "kept",
                Outcome::Cancelled => "cancelled",
            };
            Deed { outcome: Some(outcome.to_owned()), plan: run.plan.clone(), ..deed("run_ended", &run.cause) }
        }
        _ => return None,
    })
}

/// A message that was refused: who claims to have sent it, where, and why not.
/// `key` is given where the claim is proven.
pub(crate) fn refused(claimed: Option<String>, key: Option<String>, subject: &str, refusal: &Refusal) -> Deed {
    Deed {
        who: claimed.unwrap_or_else(|| "nobody named".to_owned()),
        key,
        did: "message_refused".to_owned(),
        object: Some(subject.to_owned()),
        outcome: Some(refusal.message.clone()),
        ..Deed::default()
    }
}

/// A command, before it is carried out (`outcome` none) or after it was refused.
pub(crate) fn command(name: &str, asked: &Asked, outcome: Option<&Refusal>) -> Deed {
    let text = |field: &str| asked.arguments.get(field).and_then(Value::as_str);
    let id = |field: &str| text(field).and_then(|id| Uuid::parse_str(id).ok());
    Deed {
        who: asked.by.clone(),
        key: asked.key.clone(),
        did: if outcome.is_some() { "command_refused" } else { "command_asked" }.to_owned(),
        object: Some(name.to_owned()),
        cluster: text("cluster").or_else(|| text("cluster_name")).map(str::to_owned),
        flow: id("flow"),
        run: id("run"),
        plan: text("plan_hash").map(str::to_owned),
        outcome: outcome.map(|refusal| refusal.message.clone()),
    }
}

/// Tells the head of the log as `audit_head` events: once at the start, then whenever it has moved and at least daily, and
/// at the end if it has moved.
pub(crate) async fn tell_heads(store: Store, herald: Herald, party: Party, stop: CancellationToken) {
    let mut told: Option<(AuditHead, Instant)> = None;
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            _ = tick.tick() => false,
        };
        let known = told.as_ref().filter(|(_, at)| at.elapsed() < AT_LEAST_EVERY).map(|(head, _)| head);
        match tell_head(&store, &herald, party, known).await {
            Ok(Some(head)) => told = Some((head, Instant::now())),
            Ok(None) => {}
            Err(reason) => tracing::warn!(reason, "the head of the audit log could not be told"),
        }
        if stopping {
            return;
        }
    }
}

/// The head if it was told: where it is another than the one that is known. An empty log has none.
async fn tell_head(
    store: &Store,
    herald: &Herald,
    party: Party,
    known: Option<&AuditHead>,
) -> Result<Option<AuditHead>, String> {
    let head = store.reader().audit_head().map_err(|error| chain(&error))?;
    if known == Some(&head) || head.seq == 0 {
        return Ok(None);
    }
    let body = DomainEvent {
        event_type: String::new(),
        object: format!("{party}-contractor"),
        flow: None,
        message: None,
        facts: BTreeMap::from([
            ("sequence".to_owned(), head.seq.into()),
            ("sha256".to_owned(), head.hash.clone().into()),
        ]),
    };
    let event =
        herald.event(Uuid::now_v7(), "audit_head", &Context::default(), &body).map_err(|failure| failure.message)?;
    let commit = Commit { outgoing: vec![event], ..Commit::default() };
    store.commit(commit).await.map_err(|error| chain(&error))?;
    Ok(Some(head))
}

#[cfg(test)]
mod tests {
    use store::{Lane, Options};

    use super::*;

    /// The heads that wait to be published.
    fn told(store: &Store) -> Vec<Value> {
        let rows = store.reader().outbox(Lane::Event, 100).unwrap();
        rows.iter().map(|row| serde_json::from_str::<Value>(&row.message.body).unwrap()["facts"].clone()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_does_not_move_is_told_once_and_then_daily() {
        // While a blocking task lives, the paused clock moves only by hand: the store's thread takes real time.
        let (ended, end) = std::sync::mpsc::channel::<()>();
        let clock = tokio::task::spawn_blocking(move || end.recv());
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Options { min_free_bytes: 0, ..Options::default() }).unwrap();
        let deed = Deed { who: "/operator/ada".into(), did: "it".into(), ..Deed::default() };
        store.commit(Commit { audit: vec![deed], ..Commit::default() }).await.unwrap();
        let (flows, _kept) = tokio::sync::mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let telling =
            tokio::spawn(tell_heads(store.clone(), Herald::new(Party::Talos, flows), Party::Talos, stop.clone()));
        for days in 1..=3 {
            let give_up = std::time::Instant::now() + Duration::from_secs(60);
            while told(&store).len() < days {
                assert!(std::time::Instant::now() < give_up, "{days} days, and {:?} was told", told(&store));
                tokio::task::yield_now().await;
            }
            for _ in 0..30 {
                tokio::time::advance(EVERY).await;
                tokio::task::yield_now().await;
            }
            assert_eq!(told(&store).len(), days, "nothing new is told again within the day");
            tokio::time::advance(AT_LEAST_EVERY).await;
        }
        stop.cancel();
        telling.await.unwrap();
        let told = told(&store);
        let head = store.reader().audit_head().unwrap();
        assert!(told.len() >= 3 && told.iter().all(|facts| facts["sha256"] == head.hash.as_str()), "{told:?}");
        store.close().await;
        drop(ended);
        assert!(clock.await.unwrap().is_err());
    }
}
