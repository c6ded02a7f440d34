//! Runs as parts of flows: the same message twice, undo after success, consent to a plan.

use std::time::Duration;

use contractor::{
    agent::Workplace,
    cancel::{self, Mark, mark_key},
    driver::{Approved, CommandError},
    herald::Herald,
};
use engine::report::Status;
use jiff::Timestamp;
use messages::subject::Party;
use serde_json::json;
use store::{Commit, InventoryChange, RunQuery};
use tokio::sync::mpsc;

use crate::bench::{Bench, Life, flow};

const PLAIN: &str = "
playbook: plain
version: 1
steps:
  - { id: a, action: act }
  - { id: b, needs: [a], action: act }
";

const LOCKED: &str = "
playbook: locked
version: 1
locks: { exclusive: [all] }
steps:
  - { id: c, action: act, with: { what: \"${input.what}\" } }
";

#[tokio::test]
async fn a_message_that_comes_again_finds_its_run() {
    let bench = Bench::new();
    let life = bench.start(&[PLAIN]).await;
    let run = life.submit("1", "plain", json!({})).await;
    life.until_status(run, Status::Succeeded).await;
    assert_eq!(life.submit("1", "plain", json!({})).await, run);
    life.stop().await;
    let life = bench.start(&[PLAIN]).await;
    assert_eq!(life.submit("1", "plain", json!({})).await, run);
    assert_eq!(life.store.reader().runs(&RunQuery::default()).unwrap().len(), 1);
    assert_eq!(bench.world.log(), ["make a", "make b"]);
    life.stop().await;
}

#[tokio::test]
async fn a_succeeded_run_is_taken_back_by_its_own_journal_and_only_once() {
    let bench = Bench::new();
    let life = bench.start(&[PLAIN]).await;
    let run = life.submit("1", "plain", json!({})).await;
    life.until_status(run, Status::Succeeded).await;
    life.stop().await;
    let life = bench.start(&[PLAIN]).await;
    assert_eq!(life.driver.request_undo(flow("1"), "/talos/9").await.unwrap(), [run]);
    life.until_status(run, Status::Undone).await;
    assert_eq!(bench.world.log(), ["make a", "make b", "undo b", "undo a"]);
    let again = life.driver.request_undo(flow("1"), "/talos/9").await.unwrap_err();
    assert!(again.to_string().contains("nothing to do"), "{again}");
    life.stop().await;
}

#[tokio::test]
async fn consent_is_void_when_the_world_changed_while_the_run_waited_for_its_lock() {
    let bench = Bench::new();
    let life = bench.start(&[LOCKED]).await;
    let holder = life.submit("1", "locked", json!({"what": "hold"})).await;
    life.until_status(holder, Status::Running).await;
    let input = json!({"what": "make"});
    let own = life.driver.plan("locked", flow("2"), &input).await.unwrap().hash();
    assert_eq!(life.driver.plan("locked", flow("2"), &input).await.unwrap().hash(), own, "a plan is no accident");
    let approved = || Some(Approved { shown: "shown".to_owned(), own: Some(own.clone()) });
    let waiting = life.submit_approved("2", "locked", input.clone(), approved()).await;
    life.until(waiting, |report| report.waits_for.is_some()).await;
    let change = InventoryChange::put("made/other", json!(1));
    life.store.commit(Commit { inventory: vec![change], ..Commit::default() }).await.unwrap();
    bench.world.open("c");
    life.until_status(holder, Status::Succeeded).await;
    let refused = life.until_status(waiting, Status::Undone).await;
    let failure = refused.failure.unwrap().error;
    assert!(failure.message.contains("the approval is void"), "{failure}");
    assert_eq!(bench.world.log(), ["hold c", "make c"], "nothing was done without consent");

    let own = life.driver.plan("locked", flow("3"), &input).await.unwrap().hash();
    let approved = Approved { shown: "shown".to_owned(), own: Some(own) };
    let fresh = life.submit_approved("3", "locked", input, Some(approved)).await;
    life.until_status(fresh, Status::Succeeded).await;
    life.stop().await;
}

#[tokio::test]
async fn whoever_asks_something_of_a_run_while_the_contractor_stops_is_told_to_ask_again() {
    let bench = Bench::new();
    let life = bench.start(&[LOCKED]).await;
    let run = life.submit("1", "locked", json!({"what": "deaf"})).await;
    let waiting = life.submit("2", "locked", json!({"what": "make"})).await;
    life.until(run, |_| bench.world.log().contains(&"hold c".to_owned())).await;
    life.until(waiting, |report| report.waits_for.is_some()).await;
    let stopping =
        |told: Result<Vec<_>, CommandError>| assert!(matches!(told, Err(CommandError::Stopping)), "{told:?}");
    let asked = async {
        for message in ["1", "2"] {
            stopping(life.driver.cancel(flow(message), "ada").await);
            stopping(life.driver.request_undo(flow(message), "/talos/9").await);
        }
        bench.world.open("c");
    };
    tokio::join!(life.driver.shutdown(Duration::from_secs(20)), asked);
    // Now no run has a task any more.
    for message in ["1", "2"] {
        stopping(life.driver.cancel(flow(message), "ada").await);
        stopping(life.driver.request_undo(flow(message), "/talos/9").await);
    }
    life.stop().await;

    let life = bench.start(&[LOCKED]).await;
    life.until_status(waiting, Status::Succeeded).await;
    life.stop().await;
}

fn place(life: &Life) -> Workplace {
    let (changed, _) = mpsc::unbounded_channel();
    let herald = Herald::new(Party::Infrastructure, changed);
    Workplace { store: life.store.clone(), herald, driver: life.driver.clone() }
}

#[tokio::test]
async fn a_run_whose_flow_was_cancelled_before_the_start_is_told_once() {
    let bench = Bench::new();
    let life = bench.start(&[LOCKED]).await;
    let run = life.submit("1", "locked", json!({"what": "hold"})).await;
    life.until_status(run, Status::Running).await;
    let other = life.submit("2", "locked", json!({"what": "make"})).await;
    let mark = json!(Mark { by: "/operator/ada".to_owned(), at: Timestamp::now() });
    let inventory = vec![InventoryChange::put(mark_key(flow("1")), mark)];
    life.store.commit(Commit { inventory, ..Commit::default() }).await.unwrap();
    life.stop().await;

    let life = bench.start(&[LOCKED]).await;
    cancel::remind(&place(&life)).await;
    life.until_status(run, Status::Cancelled).await;
    life.until_status(other, Status::Succeeded).await;
    let told = |entry: &&serde_json::Value| entry["event"] == "cancel_requested";
    let journal = life.store.reader().journal(run, 0).unwrap();
    assert_eq!(journal.iter().filter(told).map(|entry| &entry["by"]).collect::<Vec<_>>(), ["/operator/ada"]);
    cancel::remind(&place(&life)).await;
    assert_eq!(life.store.reader().journal(run, 0).unwrap(), journal);
    life.stop().await;
}
