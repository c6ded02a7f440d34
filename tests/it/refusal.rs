//! What is wrong is refused with every reason; what fails is taken back.

use bus::{Outgoing, TailFrom, identity::Identity, streams};
use messages::{event::DeadLetter, query::RefusalKind, subject::Party};
use serde_json::{Value, json};
use tests::{demo, world::WorldOptions};
use uuid::Uuid;

use crate::scenario::Scenario;

#[test]
fn an_invalid_request_is_refused_with_every_violation_and_put_aside() {
    let scenario = Scenario::start(&WorldOptions::default());
    let bad = json!({
        "request_type": "provision_cluster", "cluster_name": "Prod", "patern": "ha", "control_plane_nodes": 0,
    });
    let submitted = scenario.runtime.block_on(scenario.operator.submit(
        Party::Infrastructure,
        "provision_cluster",
        Uuid::now_v7(),
        &bad,
    ));
    let cortexctl::client::Error::Refused(refusal) = submitted.unwrap_err() else { panic!("it is not refused") };
    assert_eq!(refusal.kind, RefusalKind::Invalid);
    let paths: Vec<&str> = refusal.violations.iter().map(|violation| violation.path.as_str()).collect();
    assert_eq!(paths, ["/cluster_name", "/control_plane_nodes", "/patern"]);

    // The same over the stream, and then a good one: the bad message must not hold it up.
    let letter: DeadLetter = scenario.runtime.block_on(async {
        let mut tail = scenario.operator.bus().tail(streams::DEADLETTER, TailFrom::Start, &[]).await.unwrap();
        scenario.operator.publish(Party::Infrastructure, "provision_cluster", Uuid::now_v7(), &bad).await.unwrap();
        loop {
            let recorded = tail.next().await.unwrap();
            if recorded.subject == "cortex.deadletter.infrastructure" {
                return serde_json::from_slice(&recorded.body).unwrap();
            }
        }
    });
    assert_eq!(letter.violations.len(), 3);
    assert!(!serde_json::to_string(&letter).unwrap().contains("Prod"), "values are masked");
    assert_eq!(scenario.machines(), 0);
}

#[test]
fn a_message_that_is_not_signed_by_a_pinned_key_is_refused() {
    let scenario = Scenario::start(&WorldOptions::default());
    let body = json!({ "request_type": "provision_cluster", "cluster_name": "a", "pattern": "single" });
    let reason = scenario.runtime.block_on(async {
        // The broker lets the coordinator publish requests; the contractor wants the signature of a pinned key.
        let coordinator = scenario.world.nats.connect(Identity::Coordinator).await.unwrap();
        let mut tail = scenario.operator.bus().tail(streams::DEADLETTER, TailFrom::Start, &[]).await.unwrap();
        let message = Outgoing {
            subject: "cortex.request.infrastructure.provision_cluster".into(),
            headers: [("Nats-Msg-Id".to_owned(), Uuid::now_v7().to_string())].into(),
            body: body.to_string().into_bytes().into(),
        };
        coordinator.publish(&message).await.unwrap();
        loop {
            let recorded = tail.next().await.unwrap();
            if recorded.subject == "cortex.deadletter.infrastructure" {
                let letter: Value = serde_json::from_slice(&recorded.body).unwrap();
                return letter["reason"].as_str().unwrap_or_default().to_owned();
            }
        }
    });
    assert_eq!(reason, "unsigned messages may not ask for provision_cluster");
}

#[test]
fn a_step_that_fails_for_good_is_rolled_back_to_a_clean_slate() {
    // Every start of a VM fails for good, in all attempts.
    let options = WorldOptions {
        faults: vec!["pve task qmstart **x*=error:500:start failed: QEMU exited with code 1".into()],
        ..WorldOptions::default()
    };
    let scenario = Scenario::start(&options);
    let before = scenario.snapshot();
    let request = json!({ "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "edge" });
    let failed = scenario.ask("provision_cluster", &request).unwrap();
    assert_eq!(failed.state, "failed");
    assert!(failed.reason.unwrap_or_default().contains("QEMU exited with code 1"));
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
}
