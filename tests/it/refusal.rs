//! What is wrong is refused with every reason; what fails is taken back.

use bus::{Outgoing, TailFrom, identity::Identity, streams};
use cortexctl::client::{Client, Submission};
use messages::{
    event::DeadLetter,
    query::{Refusal, RefusalKind},
    subject::Party,
};
use serde_json::{Value, json};
use tests::{
    demo,
    world::{self, WorldOptions},
};
use uuid::Uuid;

use crate::{
    command::call,
    scenario::{Scenario, told},
};

#[test]
fn an_invalid_request_is_refused_with_every_violation_and_put_aside() {
    let scenario = Scenario::start(&WorldOptions::default());
    let bad = json!({
        "request_type": "provision_cluster", "cluster_name": "Prod", "patern": "ha", "control_plane_nodes": 0,
    });
    let refusal = refused(&scenario, &bad);
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

/// What only talos-contractor can judge is refused before a machine is made; and when it could not be asked, the flow ends
/// with its words as soon as it has them, and not at its deadline.
#[test]
fn what_talos_would_refuse_is_refused_at_once_or_ends_the_flow_with_its_words() {
    let mut scenario = Scenario::start(&WorldOptions::default());
    let before = scenario.snapshot();
    let request = json!({
        "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "edge", "worker_nodes": 1,
        "service_account_key": "ecdsa-p256",
        "patches": { "all": ["cluster:\n  clusterName: another\n"] },
    });
    let refusal = refused(&scenario, &request);
    assert_eq!(refusal.kind, RefusalKind::Invalid);
    assert_eq!(refusal.violations.len(), 1, "{refusal:?}");
    assert_eq!(refusal.violations[0].path, "/patches");
    assert!(refusal.violations[0].got.contains("clusterName"), "{refusal:?}");
    // A configuration that could not be applied, which no single patch shows.
    let mut unfit = request.clone();
    unfit["patches"] = json!({ "all": [
        "machine:\n  time:\n    servers: [time.example.org]\n",
        "apiVersion: v1alpha1\nkind: TimeSyncConfig\nntp:\n  servers: [time.example.net]\n",
    ] });
    let refusal = refused(&scenario, &unfit);
    assert!(refusal.message.contains("time servers cannot be specified in both"), "{refusal:?}");

    scenario.world.talos.kill();
    let flow = scenario.submit("provision_cluster", &request).unwrap();
    scenario.until("the machines are handed over", || {
        let runs = scenario.runtime.block_on(scenario.operator.query::<Vec<Value>>(
            Party::Infrastructure,
            "runs.list",
            json!({ "flow": flow }),
        ));
        let runs = runs.map_err(|error| error.to_string())?;
        runs.iter().all(|run| run["state"] == "succeeded").then_some(()).ok_or_else(|| format!("{runs:?}"))
    });
    scenario.world.talos.start(false).unwrap();
    let ended = scenario.follow(flow).unwrap();
    assert_eq!(ended.state, "failed");
    let reason = ended.reason.unwrap_or_default();
    assert!(
        reason.contains("talos-contractor refuses the vm_provisioned") && reason.contains("clusterName"),
        "{reason}"
    );
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
}

/// What a request is refused with.
fn refused(scenario: &Scenario, request: &Value) -> Refusal {
    let submitted = scenario.runtime.block_on(scenario.operator.submit(
        Party::Infrastructure,
        "provision_cluster",
        Uuid::now_v7(),
        request,
    ));
    match submitted {
        Err(cortexctl::client::Error::Refused(refusal)) => refusal,
        other => panic!("it is not refused: {other:?}"),
    }
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

/// A sum of times that overflows would take the daemon away, and the message with it.
#[test]
fn a_deadline_of_thousands_of_years_is_refused_by_its_field() {
    let scenario = Scenario::start(&WorldOptions::default());
    for (name, body) in [
        (
            "provision_cluster",
            json!({ "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "single" }),
        ),
        ("scale_request", json!({ "cluster_name": "edge", "pool": "worker", "count": 2 })),
        ("decommission_request", json!({ "cluster_name": "edge" })),
    ] {
        let mut body = body;
        body["deadline"] = json!("99999999h");
        let refused = scenario.ask(name, &body).unwrap_err().to_string();
        assert!(refused.contains("deadline") && refused.contains("at most 876000h"), "{name}: {refused}");
    }
    assert_eq!(scenario.machines(), 0);
}

/// A second principal is somebody else.
#[test]
fn who_asks_for_a_destruction_does_not_consent_to_it() {
    let scenario = Scenario::start(&WorldOptions::default());
    let made = scenario.ask(
        "provision_cluster",
        &json!({ "request_type": "provision_cluster", "cluster_name": "one", "pattern": "single" }),
    );
    let made = made.unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    let (flow, body) = (Uuid::now_v7(), json!({ "cluster_name": "one" }));
    let options = scenario.world.client_options(Identity::Coordinator, "cortex");
    let asked = scenario.runtime.block_on(async {
        let coordinator = Client::connect(options).await.unwrap();
        let consented = world::consented(&coordinator, "decommission_request", body).await.unwrap();
        coordinator.submit(Party::Infrastructure, "decommission_request", flow, &consented).await.unwrap()
    });
    let Submission::AwaitsApproval { plan, .. } = asked else { panic!("it is carried out: {asked:?}") };
    assert_eq!(scenario.machines(), 1);
    let environment = scenario.world.environment(Identity::Operator);
    call(&["flows", "approve", &flow.to_string(), "--plan-hash", &plan.plan_hash], &environment, "").ok();
    let gone = scenario.follow(flow).unwrap();
    assert_eq!(gone.state, "succeeded", "{}", told(&gone));
    // A plan that is named is compared also where nobody has to consent.
    let stale = json!({
        "request_type": "provision_cluster", "cluster_name": "two", "pattern": "single",
        "approval": { "plan_hash": plan.plan_hash },
    });
    let refused = scenario.ask("provision_cluster", &stale).unwrap_err().to_string();
    assert!(refused.contains("plan"), "{refused}");
    assert_eq!(scenario.machines(), 0);
}
