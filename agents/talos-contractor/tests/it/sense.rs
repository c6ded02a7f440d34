//! What is refused at the door: another cluster, another incarnation of it, machines that cannot become what they are for.

use contractor::{agent::Message, intake::Gate, trust::Trust};
use jiff::SignedDuration;
use messages::{catalogue::Family, schema::Violation, subject::Party};
use serde_json::{Value, json};
use store::{Commit, InventoryChange, Store};
use talos::api::AllowedTargets;
use talos_contractor::{
    inventory::{self, Cluster},
    reach::Deps,
    sense,
    settings::{AddonSettings, TalosSettings},
};

const UID: &str = "6f1d4f0e-6f0b-4d6b-9a0a-0d8f3d7f2a11";
const EARLIER: &str = "0192f0c1-7b1a-4c3e-9d52-6f0a7c1b2d3e";

/// A contractor that knows the cluster `prod`.
struct Door {
    store: Store,
    deps: Deps,
    gate: Gate,
    _folder: tempfile::TempDir,
}

impl Door {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store"), store::Options::default()).unwrap();
        let known: Cluster = serde_json::from_value(json!({
            "name": "prod", "uid": UID, "state": "active", "talos_version": "1.13.9", "kubernetes_version": "1.36.3",
            "endpoint": "https://127.0.0.1:6443", "network": { "gateway": "127.0.0.1", "dns_servers": [] }, "spec": {},
            "created": "2026-11-20T12:00:00Z",
        }))
        .unwrap();
        let inventory = vec![InventoryChange::create(inventory::cluster_key(&known.name), inventory::json(&known))];
        store.commit(Commit { inventory, ..Commit::default() }).await.unwrap();
        let deps = Deps::new(TalosSettings::default(), AddonSettings::default(), AllowedTargets::loopback());
        let trust = Trust { pinned: [].into(), stale_after: SignedDuration::from_hours(1), anonymous: Vec::new() };
        Self { store, deps, gate: Gate { party: Party::Talos, trust }, _folder: folder }
    }

    /// Rule and path of everything that is wrong with a handoff; what is said of it holds to its schema.
    fn says(&self, name: &str, body: Value) -> Vec<(String, String)> {
        self.gate.validate(Family::Handoff, name, &body).unwrap();
        let message: Message = self.gate.imagine(Family::Handoff, name, body, None).unwrap();
        let found = sense::of(&message, &self.store.reader(), &self.deps).err().unwrap_or_default();
        for Violation { expected, got, .. } in &found {
            assert!(!expected.is_empty() && !got.is_empty() && !got.contains(EARLIER), "{found:?}");
        }
        found.into_iter().map(|violation| (violation.rule, violation.path)).collect()
    }

    #[track_caller]
    fn expect(&self, name: &str, body: Value, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(rule, path)| ((*rule).to_owned(), (*path).to_owned())).collect();
        assert_eq!(self.says(name, body.clone()), expected, "{name} {body}");
    }
}

/// Machines: so many control planes and a worker, for a cluster of this name.
fn machines(cluster: &str, planes: u8, more: Value) -> Value {
    let node = |number: u8, role: &str| {
        json!({
            "role": role, "ip": format!("127.0.1.{number}"), "hostname": format!("{cluster}-{role}-{number}"),
            "vm_id": format!("10{number}"),
        })
    };
    let nodes: Vec<Value> =
        (1..=planes).map(|number| node(number, "controlplane")).chain([node(9, "worker")]).collect();
    let mut body = json!({
        "handoff_type": "vm_provisioned", "cluster_name": cluster, "nodes": nodes, "ready": true,
        "network": { "gateway": "127.0.0.1", "dns_servers": ["127.0.0.1"], "prefix": 16 },
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn machines_are_for_a_new_cluster_or_for_the_one_that_has_the_name_now() {
    let door = Door::open().await;
    let taken = ("unique", "/cluster_name");
    let (other, unknown) = (("incarnation", "/cluster_uid"), ("known", "/cluster_name"));
    for (cluster, more, expected) in [
        ("new", json!({}), &[][..]),
        ("new", json!({ "cluster_uid": EARLIER, "purpose": "create" }), &[]),
        ("prod", json!({}), &[taken]),
        ("prod", json!({ "purpose": "create" }), &[taken]),
        ("prod", json!({ "cluster_uid": EARLIER }), &[taken]),
        // The handoff that began it, once more: its run finds what is there.
        ("prod", json!({ "cluster_uid": UID, "purpose": "create" }), &[]),
        ("prod", json!({ "cluster_uid": UID, "purpose": "scale" }), &[]),
        ("prod", json!({ "purpose": "scale" }), &[]),
        ("prod", json!({ "cluster_uid": EARLIER, "purpose": "scale" }), &[other]),
        ("prod", json!({ "cluster_uid": EARLIER, "purpose": "replace" }), &[other]),
        ("new", json!({ "cluster_uid": UID, "purpose": "scale" }), &[unknown]),
        ("new", json!({ "purpose": "replace" }), &[unknown]),
    ] {
        door.expect("vm_provisioned", machines(cluster, 1, more), expected);
    }
}

#[tokio::test]
async fn etcd_needs_an_odd_number_of_control_planes_where_a_cluster_begins() {
    let door = Door::open().await;
    let quorum = ("quorum", "/nodes");
    for (planes, expected) in [(0, &[quorum][..]), (1, &[]), (2, &[quorum]), (3, &[]), (4, &[quorum])] {
        let found = door.says("vm_provisioned", machines("new", planes, json!({})));
        let only: Vec<_> = found.iter().map(|(rule, path)| (rule.as_str(), path.as_str())).collect();
        assert_eq!(only.first(), expected.first(), "{planes} control planes: {found:?}");
        let grown = machines("prod", planes, json!({ "purpose": "scale" }));
        door.expect("vm_provisioned", grown, &[]);
    }
}

#[tokio::test]
async fn everything_that_is_wrong_with_machines_is_said_at_once() {
    let door = Door::open().await;
    let spec = json!({ "talos_version": "1.13.9", "kubernetes_version": "1.12.0",
        "patches": { "all": ["cluster:\n  clusterName: another\n"] } });
    let all = json!({ "cluster_uid": EARLIER, "ready": false, "spec": spec });
    let expected = [
        ("quorum", "/nodes"),
        ("ready", "/ready"),
        ("unique", "/cluster_name"),
        ("compatible", "/spec/kubernetes_version"),
        ("patch", "/spec/patches"),
    ];
    door.expect("vm_provisioned", machines("prod", 2, all), &expected);
    let old = json!({ "spec": { "talos_version": "1.9.2" } });
    door.expect("vm_provisioned", machines("new", 1, old), &[("supported", "/spec/talos_version")]);
    let storage = json!({ "spec": { "storage_backend": "longhorn" } });
    door.expect("vm_provisioned", machines("new", 1, storage), &[("available", "/spec/storage_backend")]);
}

#[tokio::test]
async fn a_cluster_is_shrunk_or_given_up_only_as_the_incarnation_that_is_meant() {
    let door = Door::open().await;
    let other = ("incarnation", "/cluster_uid");
    for (cluster, more, shrunk, given_up) in [
        ("prod", json!({}), &[][..], &[][..]),
        ("prod", json!({ "cluster_uid": UID }), &[], &[]),
        ("prod", json!({ "cluster_uid": EARLIER }), &[other], &[other]),
        ("nobody", json!({}), &[("known", "/cluster_name")], &[]),
        ("nobody", json!({ "cluster_uid": EARLIER }), &[("known", "/cluster_name")], &[]),
    ] {
        let with = |mut body: Value| {
            body["cluster_name"] = cluster.into();
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        let scale = with(json!({ "handoff_type": "scale_request", "pool": "worker", "count": 1 }));
        door.expect("scale_request", scale, shrunk);
        door.expect("decommission_request", with(json!({ "handoff_type": "decommission_request" })), given_up);
    }
}
