//! Records that cannot be read or written: they are named, nothing is given up because of them, and all else goes on.

use std::{sync::Arc, time::Duration};

use contractor::{
    action::Actions,
    agent::{Agent, Answering, Message, Query, Sense, Workplace},
    driver::CommandError,
    flows::{FlowRecord, Keeper, State, begun, ended, key},
    herald::Herald,
};
use engine::report::Status;
use jiff::{SignedDuration, Timestamp};
use messages::{request::FailurePolicy, schema::Violation, subject::Party};
use serde_json::{Value, json};
use store::{Commit, InventoryChange, Reader, Retention};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::bench::{Bench, Life, flow};

const PLAIN: &str = "
playbook: plain
version: 1
steps:
  - { id: a, action: act }
  - { id: b, needs: [a], action: act, with: { what: \"${input.what}\" } }
";

/// Two steps at the same time under the cluster's lock.
const CHANGE: &str = "
playbook: change
version: 1
locks: { exclusive: [cluster] }
on_failure: pause
steps:
  - { id: left, action: act, with: { what: \"${input.what}\" } }
  - { id: right, action: act, with: { what: hold } }
";

const LOOK: &str = "
playbook: look
version: 1
locks: { shared: [cluster] }
steps:
  - { id: see, action: act }
";

const PATIENCE: Duration = Duration::from_secs(60);

/// An agent whose contractor has nothing of its own.
struct Nobody;

impl Agent for Nobody {
    fn party(&self) -> Party {
        Party::Infrastructure
    }

    fn actions(&self) -> Actions {
        Actions::default()
    }

    fn accept<'a>(&'a self, _: &'a Message, _: &'a Reader) -> Answering<'a, Result<Sense, Vec<Violation>>> {
        Box::pin(async { Ok(Sense::default()) })
    }

    fn queries(&self) -> Vec<Query> {
        Vec::new()
    }
}

/// As it was written before there was an index of flows.
fn record(flow: Uuid, ended: Option<Timestamp>) -> InventoryChange {
    InventoryChange::put(key(flow), flow_record(flow, ended).to_value())
}

fn flow_record(flow: Uuid, ended: Option<Timestamp>) -> FlowRecord {
    FlowRecord {
        flow,
        kind: "provision_cluster".to_owned(),
        cluster: None,
        trace: None,
        source: "/operator/ada".to_owned(),
        started: Timestamp::UNIX_EPOCH,
        deadline: Timestamp::now() + SignedDuration::from_hours(1),
        state: if ended.is_some() { State::Succeeded } else { State::Open },
        ended,
        failing: None,
        failure_policy: FailurePolicy::Rollback,
        cancelled: None,
        reason: None,
        hint: None,
    }
}

async fn keep(life: &Life, until: impl Fn(Option<&str>) -> bool) {
    let (changed, flows) = mpsc::unbounded_channel();
    let (trouble, told) = watch::channel(None);
    let herald = Herald::new(Party::Infrastructure, changed);
    let keeper = Keeper {
        at: Workplace { store: life.store.clone(), herald, driver: life.driver.clone() },
        agent: Arc::new(Nobody),
        retention: Retention::default(),
        archive_after: Duration::ZERO,
        trouble,
    };
    let stop = CancellationToken::new();
    let keeping = tokio::spawn(keeper.run(flows, stop.clone()));
    until_true(|| until(told.borrow().as_deref())).await;
    stop.cancel();
    keeping.await.unwrap();
}

async fn until_true(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it comes about");
}

#[tokio::test]
async fn a_flow_or_run_that_cannot_be_read_is_named_and_no_other_is_given_up() {
    let bench = Bench::new();
    let life = bench.start(&[PLAIN]).await;
    let mut runs = Vec::new();
    for message in ["unreadable", "stranger", "damaged stranger", "ends"] {
        let run = life.submit(message, "plain", json!({"what": "make"})).await;
        life.until_status(run, Status::Succeeded).await;
        runs.push(run);
    }
    let [unreadable, stranger, damaged, ends] = runs[..] else { unreachable!() };
    let long_ago = Some(Timestamp::UNIX_EPOCH);
    let inventory = vec![
        record(flow("unreadable"), None),
        record(flow("ends"), None),
        record(flow("over"), long_ago),
        record(flow("over, too"), long_ago),
    ];
    life.store.commit(Commit { inventory, ..Commit::default() }).await.unwrap();
    life.stop().await;
    bench.damage(&format!("inventory/{}", key(flow("unreadable"))));
    bench.damage(&format!("inventory/{}", key(flow("over"))));
    for run in [damaged, ends] {
        bench.damage(&format!("journal/{run}/{:016x}", 2));
    }

    let life = bench.start(&[PLAIN]).await;
    let reader = life.store.reader();
    let is_archived = |run: Uuid| reader.run(run).unwrap().unwrap().archived;
    let state = |name: &str| reader.get::<FlowRecord>(&key(flow(name))).unwrap().map(|found| found.value.state);
    keep(&life, |trouble| {
        let names = |name: &str| trouble.is_some_and(|text| text.contains(&flow(name).to_string()));
        let is_told = names("unreadable") && names("over");
        is_told && is_archived(stranger) && state("ends") == Some(State::Succeeded) && state("over, too").is_none()
    })
    .await;
    assert!(!is_archived(unreadable), "its flow may be open: it may have to be taken back");
    assert!(!is_archived(damaged) && !is_archived(ends), "what is left of them stays for an operator to see");
    drop(reader);
    life.stop().await;
}

/// With the index only open flows are read, and those that are old enough to be forgotten.
#[tokio::test]
async fn a_flow_that_is_known_to_be_over_is_not_read_until_it_is_forgotten() {
    let bench = Bench::new();
    let life = bench.start(&[PLAIN]).await;
    // The keeper makes the index of what was there before.
    life.store.commit(Commit { inventory: vec![record(flow("early"), None)], ..Commit::default() }).await.unwrap();
    keep(&life, |_| life.store.reader().get::<Value>("flow-index").unwrap().is_some()).await;
    let mut inventory = Vec::new();
    for (name, at) in [("open", None), ("over", Some(Timestamp::now())), ("past", Some(Timestamp::UNIX_EPOCH))] {
        inventory.extend(begun(&flow_record(flow(name), at)));
        inventory.extend(at.into_iter().flat_map(|at| ended(flow(name), at)));
    }
    life.store.commit(Commit { inventory, ..Commit::default() }).await.unwrap();
    life.stop().await;
    for name in ["open", "over"] {
        bench.damage(&format!("inventory/{}", key(flow(name))));
    }

    let life = bench.start(&[PLAIN]).await;
    let reader = life.store.reader();
    let is_there = |name: &str| reader.get::<Value>(&key(flow(name))).map_or(true, |found| found.is_some());
    let told = std::cell::RefCell::new(String::new());
    keep(&life, |trouble| {
        told.replace(trouble.unwrap_or_default().to_owned());
        trouble.is_some_and(|text| text.contains(&flow("open").to_string())) && !is_there("past")
    })
    .await;
    let told = told.into_inner();
    assert!(!told.contains(&flow("over").to_string()), "{told}");
    assert!(!told.contains(&flow("early").to_string()), "it can be read: {told}");
    assert!(is_there("over") && is_there("early"));
    drop(reader);
    life.stop().await;
}

#[tokio::test]
async fn a_run_that_cannot_be_read_keeps_its_lock_and_holds_up_no_other() {
    let bench = Bench::new();
    let texts = [CHANGE, LOOK, PLAIN];
    let life = bench.start(&texts).await;
    let change = life.submit("1", "change", json!({"what": "hold"})).await;
    let plain = life.submit("2", "plain", json!({"what": "hold"})).await;
    life.until(change, |_| bench.world.log().contains(&"hold right".to_owned())).await;
    life.until(plain, |_| bench.world.log().contains(&"hold b".to_owned())).await;
    life.stop().await;
    bench.world.open("b");
    bench.world.open("left");
    bench.world.open("right");

    bench.damage(&format!("journal/{change}/{:016x}", 1));
    for (round, also) in [None, Some(format!("run/{change}"))].into_iter().enumerate() {
        also.iter().for_each(|key| bench.damage(key));
        let life = bench.start(&texts).await;
        life.until_status(plain, Status::Succeeded).await;
        let unreadable = life.driver.unreadable();
        assert_eq!(unreadable.keys().collect::<Vec<_>>(), [&change]);
        let refused = life.driver.resume(change, "ada").await.unwrap_err();
        assert!(matches!(&refused, CommandError::Refused(reason) if reason.contains("does not go on")), "{refused}");
        let next = life.submit(&format!("next {round}"), "change", json!({"what": "make"})).await;
        let waits = life.until(next, |report| report.waits_for.is_some() || report.status.is_terminal()).await;
        assert_eq!(waits.waits_for, Some(format!("lock cluster is held by run {change}")));
        life.driver.cancel(flow(&format!("next {round}")), "ada").await.unwrap();
        let look = life.submit(&format!("look {round}"), "look", json!({})).await;
        life.until_status(look, Status::Succeeded).await;
        life.stop().await;
    }
}

#[tokio::test]
async fn a_run_that_cannot_be_written_keeps_its_lock_and_lets_nobody_in_while_it_acts() {
    let bench = Bench::new();
    let life = bench.start(&[CHANGE, LOOK]).await;
    let change = life.submit("1", "change", json!({"what": "deaf"})).await;
    life.until(change, |_| {
        let log = bench.world.log();
        ["hold left", "hold right"].iter().all(|what| log.contains(&(*what).to_owned()))
    })
    .await;
    *bench.spoilt.lock().unwrap() = Some(change);
    bench.world.open("right");
    until_true(|| life.driver.unreadable().contains_key(&change)).await;
    let look = life.submit("2", "look", json!({})).await;
    let waits = life.until(look, |report| report.waits_for.is_some() || report.status.is_terminal()).await;
    assert_eq!(waits.waits_for, Some(format!("lock cluster is held by run {change}")), "`left` is at work");
    bench.world.open("left");
    life.until_status(look, Status::Succeeded).await;
    assert_eq!(bench.world.log().last().map(String::as_str), Some("make see"));
    let next = life.submit("3", "change", json!({"what": "make"})).await;
    life.until(next, |report| report.waits_for.as_ref().is_some_and(|it| it.contains(&change.to_string()))).await;
    life.driver.cancel(flow("3"), "ada").await.unwrap();
    life.stop().await;
}
