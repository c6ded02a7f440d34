//! What happens to single steps when processes end, the inventory changes, or time passes.

use engine::report::Status;
use serde_json::{Value, json};
use store::{Commit, InventoryChange};

use crate::bench::{Bench, flow};

fn playbook(version: u32, what: &str, more: &str) -> String {
    format!(
        "
playbook: p
version: {version}
steps:
  - {{ id: a, action: act }}
  - {{ id: b, needs: [a], action: act, with: {{ what: {what} }}, deadline: 5h }}
{more}"
    )
}

#[tokio::test]
async fn a_conflict_at_commit_looks_again_and_uses_no_attempt() {
    let bench = Bench::new();
    let life = bench.start(&[&playbook(1, "conflict", "")]).await;
    let other = InventoryChange::put("made/other", json!("theirs"));
    life.store.commit(Commit { inventory: vec![other], ..Commit::default() }).await.unwrap();
    let run = life.submit("1", "p", json!({})).await;
    let report = life.until_status(run, Status::Succeeded).await;
    assert_eq!(report.steps[1].attempt, 1);
    let seen: Vec<_> = bench.world.log().into_iter().filter(|what| what.starts_with("conflict")).collect();
    assert_eq!(seen, ["conflict 1", "conflict 1"]);
    assert_eq!(life.store.reader().get::<Value>("made/other").unwrap().unwrap().value, json!("mine"));
    life.stop().await;
}

#[tokio::test]
async fn a_checkpoint_is_there_after_the_process_ended_and_the_world_is_looked_at_first() {
    let bench = Bench::new();
    let life = bench.start(&[&playbook(1, "checkpoint", "")]).await;
    let run = life.submit("1", "p", json!({})).await;
    life.until(run, |_| bench.world.log().contains(&"hold b".to_owned())).await;
    life.stop().await;
    let life = bench.start(&[&playbook(1, "checkpoint", "")]).await;
    bench.world.open("b");
    let report = life.until_status(run, Status::Succeeded).await;
    let log = bench.world.log();
    assert!(log.contains(&"b checkpoint true".to_owned()), "{log:?}");
    assert_eq!(log.iter().filter(|what| *what == "make a").count(), 1, "{log:?}");
    assert!(report.steps[1].attempt <= 2, "{report:#?}");
    life.stop().await;
}

#[tokio::test]
async fn an_attempt_that_ends_while_the_daemon_stops_is_recorded_and_not_repeated() {
    let bench = Bench::new();
    let life = bench.start(&[&playbook(1, "deaf", "")]).await;
    let run = life.submit("1", "p", json!({})).await;
    life.until(run, |_| bench.world.log().contains(&"hold b".to_owned())).await;
    let stopping = tokio::spawn(life.stop());
    bench.world.open("b");
    stopping.await.unwrap();
    let life = bench.start(&[&playbook(1, "deaf", "")]).await;
    life.until_status(run, Status::Succeeded).await;
    assert_eq!(bench.world.log(), ["make a", "hold b", "make b"]);
    life.stop().await;
}

#[tokio::test]
async fn the_deadline_of_a_wait_is_on_the_wall_clock_and_survives_a_restart() {
    let bench = Bench::new();
    let life = bench.start(&[&playbook(1, "wait", "")]).await;
    let run = life.submit("1", "p", json!({})).await;
    let waits = life.until_status(run, Status::Waiting).await;
    let deadline = waits.steps[1].deadline.unwrap();
    life.stop().await;

    let life = bench.start(&[&playbook(1, "wait", "")]).await;
    let waits = life.until_status(run, Status::Waiting).await;
    assert_eq!(waits.steps[1].deadline, Some(deadline), "a restart gives no more time");
    life.stop().await;

    bench.clock.advance(6);
    let life = bench.start(&[&playbook(1, "wait", "")]).await;
    let undone = life.until_status(run, Status::Undone).await;
    assert_eq!(undone.failure.unwrap().error.message, "gave up after 5h: not ready");
    assert_eq!(undone.steps[1].attempt, 1, "waiting used no attempt; this is its undo");
    life.stop().await;
}

#[tokio::test]
async fn a_run_goes_by_the_text_that_it_began_with() {
    let bench = Bench::new();
    let old = playbook(1, "hold", "  - { id: old, needs: [b], action: act }\n");
    let new = playbook(2, "make", "  - { id: new, needs: [b], action: act }\n");
    let life = bench.start(&[&old]).await;
    let run = life.submit("1", "p", json!({})).await;
    life.until(run, |_| bench.world.log().contains(&"hold b".to_owned())).await;
    life.stop().await;

    let life = bench.start(&[&new]).await;
    bench.world.open("b");
    let report = life.until_status(run, Status::Succeeded).await;
    assert_eq!((report.version, report.steps[2].step.as_str()), (1, "old"));
    let next = life.submit("2", "p", json!({})).await;
    let report = life.until_status(next, Status::Succeeded).await;
    assert_eq!((report.version, report.steps[2].step.as_str()), (2, "new"));
    life.stop().await;
}

#[tokio::test]
async fn a_cancel_tells_the_running_attempt_and_takes_back_what_was_done() {
    let bench = Bench::new();
    let life = bench.start(&[&playbook(1, "hold", "")]).await;
    let run = life.submit("1", "p", json!({})).await;
    life.until(run, |_| bench.world.log().contains(&"hold b".to_owned())).await;
    assert!(life.store.reader().get::<Value>("made/a").unwrap().is_some());
    life.driver.cancel(flow("1"), "ada").await.unwrap();
    life.until_status(run, Status::Cancelled).await;
    assert_eq!(bench.world.log(), ["make a", "hold b", "undo b", "undo a"]);
    assert!(life.store.reader().get::<Value>("made/a").unwrap().is_none());
    life.stop().await;
}

#[tokio::test]
async fn a_cancel_waits_for_an_attempt_that_does_not_listen() {
    let bench = Bench::new();
    let life = bench.start(&[&playbook(1, "deaf", "")]).await;
    let run = life.submit("1", "p", json!({})).await;
    life.until(run, |_| bench.world.log().contains(&"hold b".to_owned())).await;
    life.driver.cancel(flow("1"), "ada").await.unwrap();
    assert_eq!(life.driver.report(run).unwrap().unwrap().status, Status::Running);
    bench.world.open("b");
    life.until_status(run, Status::Cancelled).await;
    assert_eq!(bench.world.log(), ["make a", "hold b", "make b", "undo b", "undo a"]);
    life.stop().await;
}
