//! What the contractors tell and answer on, compared with what describes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use messages::{catalogue::Family, schema, subject::Subject};
use serde_json::Value;

use crate::{command::Told, scenario::Scenario};

/// Every event has its envelope, fits its schema and comes in the order of its source; the whole life was told.
pub(crate) fn events(run: &dyn Fn(&[&str]) -> Told) {
    let told = run(&["events", "tail", "-o", "json"]);
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut kinds = BTreeSet::new();
    for line in told.ok().out.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let header = |name: &str| event["headers"][name].as_str().unwrap_or_else(|| panic!("no {name} in {event}"));
        let subject: Subject = event["subject"].as_str().unwrap().parse().unwrap();
        assert_eq!(header("ce-type"), subject.ce_type());
        assert_eq!(header("Nats-Msg-Id"), format!("{}/{}", header("ce-source"), header("ce-id")));
        for name in ["ce-specversion", "ce-time", "ce-dataschema", "cortex-key", "cortex-signature"] {
            assert!(!header(name).is_empty());
        }
        assert_eq!(schema::validate(Family::Event, subject.kind(), &event["body"]), Ok(()), "{event}");
        let sequence: u64 = header("ce-sequence").parse().unwrap();
        let before = last.insert(header("ce-source").to_owned(), sequence);
        assert!(before.is_none_or(|before| before < sequence), "{before:?} came before {event}");
        kinds.insert(subject.kind().to_owned());
    }
    for kind in [
        "cluster_active",
        "cluster_forgotten",
        "cluster_registered",
        "config_applied",
        "contractor_started",
        "credential_issued",
        "credentials_sealed",
        "etcd_bootstrapped",
        "flow_awaits_approval",
        "flow_cancelled",
        "flow_started",
        "flow_succeeded",
        "image_ready",
        "kubernetes_ready",
        "node_cordoned",
        "node_drained",
        "node_joined",
        "node_removed",
        "rejected",
        "run_started",
        "run_succeeded",
        "secrets_generated",
        "step_skipped",
        "step_started",
        "step_succeeded",
        "vm_answering",
        "vm_created",
        "vm_released",
        "vm_reserved",
        "vm_started",
    ] {
        assert!(kinds.contains(kind), "{kind} was never told: {kinds:?}");
    }
}

/// What the contractors answer on is what `schemas/asyncapi.yaml` says, no more and no less.
pub(crate) fn answers(scenario: &Scenario) {
    let described = messages::asyncapi::document();
    let channels = described["channels"].as_object().unwrap();
    let services = channels.values().filter(|channel| channel.get("x-nats-service").is_some());
    let mut described: Vec<&str> = services.map(|channel| channel["address"].as_str().unwrap()).collect();
    let found = scenario.runtime.block_on(scenario.operator.bus().discover(Duration::from_secs(2))).unwrap();
    let mut answered: Vec<&str> =
        found.iter().flat_map(|service| &service.endpoints).map(|endpoint| endpoint.subject.as_str()).collect();
    described.sort_unstable();
    answered.sort_unstable();
    assert_eq!(answered, described);
}
