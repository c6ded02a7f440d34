//! Who may be at work beside whom.

use engine::report::Status;
use serde_json::json;

use crate::bench::{Bench, flow};

/// Two steps under the cluster's lock; what the first does is in the input.
fn playbook(name: &str, mode: &str, policy: &str) -> String {
    format!(
        "
playbook: {name}
version: 1
locks: {{ {mode}: [\"cluster/${{input.cluster}}\"] }}
on_failure: {policy}
steps:
  - {{ id: {name}, action: act, with: {{ what: \"${{input.what}}\" }} }}
  - {{ id: last, needs: [{name}], action: act }}
"
    )
}

fn input(what: &str) -> serde_json::Value {
    json!({"cluster": "prod", "what": what})
}

#[tokio::test]
async fn an_exclusive_lock_lets_nobody_in_and_shared_ones_let_each_other_in() {
    let bench = Bench::new();
    let texts = [playbook("change", "exclusive", "rollback"), playbook("look", "shared", "rollback")];
    let life = bench.start(&[&texts[0], &texts[1]]).await;
    let change = life.submit("1", "change", input("hold")).await;
    life.until_status(change, Status::Running).await;
    let look = life.submit("2", "look", input("hold")).await;
    let other = life.submit("3", "look", input("hold")).await;
    let waits = life.until(look, |report| report.waits_for.is_some()).await;
    assert_eq!(waits.status, Status::Pending);
    assert_eq!(waits.waits_for.unwrap(), format!("lock cluster/prod is held by run {change}"));
    bench.world.open("change");
    life.until_status(change, Status::Succeeded).await;
    for run in [look, other] {
        life.until_status(run, Status::Running).await;
    }
    bench.world.open("look");
    for run in [look, other] {
        life.until_status(run, Status::Succeeded).await;
    }
    life.stop().await;
}

#[tokio::test]
async fn a_run_that_waits_for_room_lets_others_go_before_and_one_that_waits_for_the_world_does_not() {
    let bench = Bench::new();
    let texts = [playbook("grow", "exclusive", "rollback"), playbook("heal", "exclusive", "rollback")];
    let life = bench.start(&[&texts[0], &texts[1]]).await;
    let grow = life.submit("1", "grow", input("room")).await;
    let waits = life.until_status(grow, Status::Waiting).await;
    assert_eq!(waits.waits_for.as_deref(), Some("no room"));
    let heal = life.submit("2", "heal", input("make")).await;
    life.until_status(heal, Status::Succeeded).await;
    assert!(!bench.world.log().contains(&"make grow".to_owned()));
    bench.world.open("grow");
    life.until_status(grow, Status::Succeeded).await;

    let wait = life.submit("3", "grow", input("wait")).await;
    bench.world.open("heal");
    life.until_status(wait, Status::Succeeded).await;
    life.stop().await;
}

/// It had given its lock up, and stands in line for it to be taken back.
#[tokio::test]
async fn a_run_that_was_cancelled_while_it_waited_for_room_keeps_nobody_from_going_on_after_a_restart() {
    let bench = Bench::new();
    let texts = [playbook("grow", "exclusive", "rollback"), playbook("change", "exclusive", "rollback")];
    let life = bench.start(&[&texts[0], &texts[1]]).await;
    let grow = life.submit("1", "grow", input("room")).await;
    life.until_status(grow, Status::Waiting).await;
    let change = life.submit("2", "change", input("hold")).await;
    life.until_status(change, Status::Running).await;
    life.driver.cancel(flow("1"), "ada").await.unwrap();
    let stands = life.until(grow, |report| report.waits_for.as_deref().is_some_and(|it| it.starts_with("lock"))).await;
    assert!(!stands.status.is_terminal(), "{stands:?}");
    life.stop().await;

    bench.world.open("change");
    let life = bench.start(&[&texts[0], &texts[1]]).await;
    life.until_status(change, Status::Succeeded).await;
    life.until_status(grow, Status::Cancelled).await;
    life.stop().await;
}

#[tokio::test]
async fn a_paused_run_keeps_its_lock_over_a_restart_and_lets_shared_ones_in() {
    let bench = Bench::new();
    let texts = [playbook("change", "exclusive", "pause"), playbook("look", "shared", "rollback")];
    let life = bench.start(&[&texts[0], &texts[1]]).await;
    let paused = life.submit("1", "change", input("fail")).await;
    let report = life.until_status(paused, Status::Paused).await;
    let failure = report.failure.unwrap().error;
    assert_eq!((failure.message.as_str(), failure.hint.as_deref()), ("not possible", Some("open it")));
    life.stop().await;

    let life = bench.start(&[&texts[0], &texts[1]]).await;
    let look = life.submit("2", "look", input("make")).await;
    life.until_status(look, Status::Succeeded).await;
    let next = life.submit("3", "change", input("make")).await;
    life.until(next, |report| report.waits_for.as_ref().is_some_and(|it| it.contains(&paused.to_string()))).await;

    bench.world.open("change");
    life.driver.resume(paused, "ada").await.unwrap();
    life.until_status(paused, Status::Succeeded).await;
    life.until_status(next, Status::Succeeded).await;
    assert!(life.driver.resume(paused, "ada").await.is_err(), "it has ended");
    life.stop().await;
}

#[tokio::test]
async fn a_run_at_work_keeps_its_lock_over_a_restart_against_shared_ones_and_those_that_preempt() {
    let bench = Bench::new();
    let texts = [
        playbook("change", "exclusive", "pause"),
        playbook("look", "shared", "rollback"),
        playbook("remove", "preempt: true, exclusive", "pause"),
    ];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let life = bench.start(&texts).await;
    let change = life.submit("1", "change", input("later")).await;
    life.until_status(change, Status::Waiting).await;
    life.stop().await;

    let life = bench.start(&texts).await;
    let remove = life.submit("2", "remove", input("make")).await;
    let look = life.submit("3", "look", input("make")).await;
    for run in [remove, look] {
        let waits = life.until(run, |report| report.waits_for.is_some() || report.status.is_terminal()).await;
        assert!(waits.waits_for.is_some_and(|reason| reason.contains("lock cluster/prod")), "{:?}", waits.status);
    }
    assert_eq!(life.driver.report(change).unwrap().unwrap().status, Status::Waiting, "nobody cancelled it");
    bench.world.open("change");
    bench.clock.advance(1);
    for run in [change, remove, look] {
        life.until_status(run, Status::Succeeded).await;
    }
    life.stop().await;
}

#[tokio::test]
async fn a_resumed_run_that_stood_in_line_behind_shared_ones_stands_there_after_a_restart() {
    let bench = Bench::new();
    let texts = [playbook("change", "exclusive", "pause"), playbook("look", "shared", "rollback")];
    let life = bench.start(&[&texts[0], &texts[1]]).await;
    let change = life.submit("1", "change", input("fail")).await;
    life.until_status(change, Status::Paused).await;
    let look = life.submit("2", "look", input("later")).await;
    life.until_status(look, Status::Waiting).await;
    bench.world.open("change");
    life.driver.resume(change, "ada").await.unwrap();
    life.until(change, |report| report.waits_for.is_some()).await;
    life.stop().await;

    let life = bench.start(&[&texts[0], &texts[1]]).await;
    life.until(change, |report| report.waits_for.as_ref().is_some_and(|it| it.contains(&look.to_string()))).await;
    bench.world.open("look");
    bench.clock.advance(1);
    for run in [look, change] {
        life.until_status(run, Status::Succeeded).await;
    }
    assert_eq!(bench.world.log(), ["find look", "make look", "make last", "make change", "make last"]);
    life.stop().await;
}

#[tokio::test]
async fn what_takes_a_cluster_away_ends_a_paused_run_and_goes_before_those_that_wait() {
    let bench = Bench::new();
    let texts = [playbook("change", "exclusive", "pause"), playbook("remove", "preempt: true, exclusive", "pause")];
    let life = bench.start(&[&texts[0], &texts[1]]).await;
    let paused = life.submit("1", "change", input("fail")).await;
    life.until_status(paused, Status::Paused).await;
    let waiting = life.submit("2", "change", input("make")).await;
    life.until(waiting, |report| report.waits_for.is_some()).await;
    let remove = life.submit("3", "remove", input("make")).await;
    life.until_status(remove, Status::Succeeded).await;
    life.until_status(paused, Status::Cancelled).await;
    life.until_status(waiting, Status::Succeeded).await;
    assert_eq!(bench.world.log(), ["make remove", "make last", "make change", "make last"]);
    life.stop().await;
}

#[tokio::test]
async fn a_cancelled_run_that_waits_for_its_lock_ends_at_once_and_touches_nothing() {
    let bench = Bench::new();
    let text = playbook("change", "exclusive", "pause");
    let life = bench.start(&[&text]).await;
    let first = life.submit("1", "change", input("hold")).await;
    life.until_status(first, Status::Running).await;
    let second = life.submit("2", "change", input("make")).await;
    life.until(second, |report| report.waits_for.is_some()).await;
    assert_eq!(life.driver.cancel(flow("2"), "ada").await.unwrap(), [second]);
    life.until_status(second, Status::Cancelled).await;
    assert_eq!(bench.world.log(), ["hold change"]);
    bench.world.open("change");
    life.until_status(first, Status::Succeeded).await;
    life.stop().await;
}
