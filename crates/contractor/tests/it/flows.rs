//! Runs as parts of flows: the same message twice, undo after success, consent to a plan.

use contractor::driver::Approved;
use engine::report::Status;
use serde_json::json;
use store::{Commit, InventoryChange, RunQuery};

use crate::bench::{Bench, flow};

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
