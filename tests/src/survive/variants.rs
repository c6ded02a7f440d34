//! What the shipped playbooks are run with, so that every step of every one is reached.
//!
//! Inputs and outputs are made from schemas, which reaches most steps; what is here is what a schema cannot know.

use serde_json::{Value, json};

/// Changes to the made-up input of a playbook and to the made-up outputs of its actions, as merge patches.
#[derive(Clone, Debug)]
pub struct Variant {
    /// What is special about it; empty for the plain one.
    pub name: &'static str,
    /// Laid over the input.
    pub input: Value,
    /// Laid over the output of the action of that name.
    pub outputs: Vec<(&'static str, Value)>,
    /// Whether it differs from the plain one in what follows a failure, and in nothing else.
    pub differs_in_failure: bool,
}

/// What a playbook is run with; one plain variant for a playbook that is not named here.
pub fn of(playbook: &str) -> Vec<Variant> {
    let plain = || Variant { name: "", input: json!({}), outputs: Vec::new(), differs_in_failure: false };
    let keeps = |input| Variant { name: "keep", input, differs_in_failure: true, ..plain() };
    let pauses = |input| Variant { name: "pause", input, differs_in_failure: true, ..plain() };
    let asks = |policy: &str| json!({ "failure_policy": policy });
    let asked = |policy: &str| json!({ "spec": { "failure_policy": policy } });
    let uid = json!({ "cluster_uid": "5cdd8955-dc11-4579-b387-fbcee22f8d5d" });
    match playbook {
        "bootstrap-cluster" => vec![
            Variant { outputs: vec![("talos.register_cluster", json!({ "storage": "longhorn" }))], ..plain() },
            Variant {
                name: "local-path, flannel",
                input: uid,
                outputs: vec![("talos.register_cluster", json!({ "storage": "local-path", "cni": "flannel" }))],
                ..plain()
            },
            Variant { name: "no CNI", outputs: vec![("talos.register_cluster", json!({ "cni": "none" }))], ..plain() },
            keeps(asked("keep")),
            pauses(asked("pause")),
        ],
        "diamond" => vec![plain(), Variant { name: "the other way", input: json!({ "extra": false }), ..plain() }],
        "join-nodes" => vec![
            plain(),
            Variant { name: "of a known incarnation", input: uid, ..plain() },
            keeps(asked("keep")),
            pauses(asked("pause")),
        ],
        "make-vms" => vec![Variant {
            input: json!({
                "hosts": ["pve1", "pve2"], "image": {}, "machines": [{ "hostname": "x-1" }, { "hostname": "x-2" }],
            }),
            ..plain()
        }],
        "provision-vms" => vec![plain(), keeps(asks("keep")), pauses(asks("pause"))],
        "scale-pool" => vec![
            plain(),
            Variant {
                name: "down",
                outputs: vec![("infrastructure.plan_scale", json!({ "direction": "down" }))],
                ..plain()
            },
        ],
        _ => vec![plain()],
    }
}

/// Lays `patch` over `value`, object by object.
pub fn patch(value: &mut Value, patch: &Value) {
    match (value, patch) {
        (Value::Object(object), Value::Object(fields)) => {
            for (name, field) in fields {
                self::patch(object.entry(name.clone()).or_insert(Value::Null), field);
            }
        }
        (value, patch) => *value = patch.clone(),
    }
}
