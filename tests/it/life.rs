//! The whole life of a cluster, over real daemons, a real nats-server and the lab.

use bus::{TailFrom, identity::Identity};
use messages::{query::Listing, subject::Party};
use serde_json::{Value, json};
use store::{AuditHead, AuditRecord, AuditVerified};
use tests::{
    demo,
    world::{self, WorldOptions},
};

use crate::scenario::{Scenario, told};

#[test]
fn a_cluster_is_made_scaled_up_and_down_and_taken_away_without_a_trace() {
    let scenario = Scenario::start(&WorldOptions::default());
    let before = scenario.snapshot();

    let made = scenario.ask(
        "provision_cluster",
        &json!({ "request_type": "provision_cluster", "cluster_name": "prod-k8s", "pattern": "ha" }),
    );
    let made = made.unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    assert_eq!(scenario.machines(), 6);

    let mut approved = Vec::new();
    let mut ask = |name: &str, body: Value| {
        let body = scenario.runtime.block_on(world::consented(&scenario.operator, name, body)).unwrap();
        approved.push(body["approval"]["plan_hash"].as_str().unwrap().to_owned());
        scenario.ask(name, &body).unwrap()
    };
    for count in [4, 2] {
        let scaled = ask("scale_request", json!({ "cluster_name": "prod-k8s", "pool": "worker", "count": count }));
        assert_eq!(scaled.state, "succeeded", "{}", told(&scaled));
        assert_eq!(scenario.machines(), 3 + count);
        let nodes: Listing = scenario
            .runtime
            .block_on(scenario.operator.query(Party::Talos, "nodes.list", json!({ "cluster": "prod-k8s" })))
            .unwrap();
        assert_eq!(nodes.rows.len(), 3 + count, "both inventories agree");
    }

    let gone = ask("decommission_request", json!({ "cluster_name": "prod-k8s" }));
    assert_eq!(gone.state, "succeeded", "{}", told(&gone));
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
    for (at, query) in [(Party::Infrastructure, "clusters.list"), (Party::Talos, "clusters.list")] {
        let left: Listing = scenario.runtime.block_on(scenario.operator.query(at, query, json!({}))).unwrap();
        assert_eq!(left, Listing::default(), "{at}");
    }

    let records =
        [check_audit_log(&scenario, Party::Infrastructure), check_audit_log(&scenario, Party::Talos)].concat();
    let begun: Vec<_> = records.iter().filter(|record| record.deed.did == "run_started").collect();
    let carried: Vec<_> = begun.iter().filter_map(|record| record.deed.plan.clone()).collect();
    assert_eq!(carried, approved, "two scalings and the decommission carry the hashes that were approved");
    let operator = &scenario.world.nats.setup().public_keys[&Identity::Operator];
    for record in begun.iter().filter(|record| record.deed.plan.is_some()) {
        assert!(record.deed.who.starts_with("/operator/test/"), "{record:?}");
        assert_eq!(record.deed.key.as_deref(), Some(&operator[48..]), "the key that asked: {record:?}");
    }
    let started = records.iter().filter(|record| record.deed.did == "run_started").count();
    let ended = records.iter().filter(|record| record.deed.outcome.as_deref() == Some("succeeded")).count();
    assert_eq!((started, records.len()), (ended, started + ended), "each run began and ended, nothing else was done");

    // What is refused is a deed, too.
    let again = scenario.ask("scale_request", &json!({ "cluster_name": "prod-k8s", "pool": "worker", "count": 3 }));
    let why = again.unwrap_err().to_string();
    let last = scenario.audit(Party::Infrastructure).pop().unwrap();
    assert_eq!((last.deed.did.as_str(), last.deed.outcome.as_deref()), ("message_refused", Some(why.as_str())));
    assert_eq!((last.deed.who.as_str(), last.deed.key.as_deref()), ("/operator/test", Some(&operator[48..])));
}

/// Its nodes are not Ready before somebody brings one, and say so; all the rest is well.
#[test]
fn a_cluster_that_wants_no_cni_is_made_and_called_healthy() {
    let scenario = Scenario::start(&WorldOptions::default());
    let before = scenario.snapshot();
    let mut request = json!({
        "request_type": "provision_cluster", "cluster_name": "bare", "pattern": "edge", "worker_nodes": 1,
        "network_cni": "none", "storage_backend": "local-path", "service_account_key": "ecdsa-p256",
    });
    let refused = scenario.ask("provision_cluster", &request).unwrap_err().to_string();
    assert!(refused.contains("/storage_backend: expected none with network_cni none"), "{refused}");
    request.as_object_mut().unwrap().remove("storage_backend");
    let made = scenario.ask("provision_cluster", &request).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    let gone = scenario.ask_with_consent("decommission_request", json!({ "cluster_name": "bare" })).unwrap();
    assert_eq!(gone.state, "succeeded", "{}", told(&gone));
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
}

/// Waits until the whole log was told, verifies it against what was told, and returns it.
fn check_audit_log(scenario: &Scenario, of: Party) -> Vec<AuditRecord> {
    scenario.runtime.block_on(async {
        let records: Vec<AuditRecord> = scenario.operator.query(of, "audit.list", json!({})).await.unwrap();
        let mut tail = scenario.operator.events(TailFrom::Start, None, Some("audit_head")).await.unwrap();
        let mut heads = Vec::new();
        while heads.last().is_none_or(|head: &AuditHead| head.seq < records.len() as u64) {
            let recorded = tail.next().await.unwrap();
            if recorded.subject.starts_with(&format!("cortex.event.{of}.")) {
                let body: Value = serde_json::from_slice(&recorded.body).unwrap();
                let hash = body["facts"]["sha256"].as_str().unwrap().to_owned();
                heads.push(AuditHead { seq: body["facts"]["sequence"].as_u64().unwrap(), hash });
            }
        }
        let arguments = json!({ "heads": heads });
        let verified: AuditVerified = scenario.operator.query(of, "audit.verify", arguments).await.unwrap();
        assert_eq!((verified.problem, verified.records), (None, records.len() as u64));
        assert_eq!(verified.heads, heads.len() as u64);
        records
    })
}
