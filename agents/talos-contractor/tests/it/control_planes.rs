//! Control planes leave etcd before they go, and none goes whose absence would cost the quorum.

use engine::report::Status;
use serde_json::json;
use simulators::{
    machine::{Machines, PowerOff},
    talos::ClockSetting,
};
use store::Commit;
use talos::pki::Role;
use talos_contractor::inventory::{self, ClusterState};

use crate::{
    bench::{Bench, CLUSTER},
    rack::{Rack, spec, succeeded},
};

/// Three control planes, machines 110 to 112.
async fn three(net: u8, more: &[(&str, &str)]) -> (Bench, Rack) {
    let (bench, rack) = (Bench::start(net, more).await, Rack::new(net));
    let names = [("prod-cp-1", 10), ("prod-cp-2", 11), ("prod-cp-3", 12)];
    let nodes = names.map(|(name, number)| rack.power_on(name, number, "v1.13.9"));
    let mut spec = spec("1.13.9", "1.36.3");
    (spec["network_cni"], spec["storage_backend"]) = (json!("flannel"), json!("none"));
    let report = bench.run("bootstrap-cluster", rack.handoff("create", nodes.into(), &spec)).await;
    succeeded(&report);
    (bench, rack)
}

async fn members(bench: &Bench, of: &str) -> Vec<String> {
    let store = bench.store.reader();
    let nodes = inventory::nodes(&store, &CLUSTER.parse().unwrap()).unwrap();
    let node = nodes.into_iter().find(|node| node.value.hostname.as_str() == of).unwrap().value;
    let client = bench.deps.node(&store, &node, Role::Reader).await.unwrap();
    let mut names: Vec<_> =
        client.etcd_members(true).await.unwrap().into_iter().map(|member| member.hostname).collect();
    names.sort();
    names
}

/// The step that begins etcd, alone.
const BEGIN_AGAIN: &str = r#"
playbook: begin-again
version: 1
description: Begins etcd of a cluster that is being made.
input: { type: object, required: [cluster], properties: { cluster: { type: string } } }
locks: { exclusive: ["cluster/${input.cluster}"] }
on_failure: keep
steps:
  - id: begin
    action: talos.bootstrap_etcd
    with: { cluster: "${input.cluster}" }
    deadline: 5m
"#;

/// What a contractor finds that lost the answer of its Bootstrap call to a reboot of the node: the others have joined
/// what began there, it has no member that runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_reboots_after_etcd_began_on_it_is_waited_for_and_no_reason_to_give_up() {
    let (bench, rack) = three(137, &[("begin-again.yaml", BEGIN_AGAIN)]).await;
    let name = CLUSTER.parse().unwrap();
    let mut cluster = inventory::cluster(&bench.store.reader(), &name).unwrap().unwrap();
    cluster.value.state = ClusterState::Bootstrapping;
    let commit = Commit { inventory: vec![inventory::put_cluster(&cluster)], ..Commit::default() };
    bench.store.commit(commit).await.unwrap();

    // Without the time etcd does not begin, while the rest of the node is up.
    rack.nodes.set_clock(110, ClockSetting { ahead_seconds: 0, synced: false });
    rack.power_cycle(110);
    let run = bench.begin("begin-again", json!({ "cluster": CLUSTER })).await;
    bench.progresses(run, "etcd has begun on prod-cp-1").await;
    rack.nodes.set_clock(110, ClockSetting::default());
    succeeded(&bench.rest(run).await);
    assert_eq!(members(&bench, "prod-cp-1").await, ["prod-cp-1", "prod-cp-2", "prod-cp-3"]);
}

fn remove(node: &str) -> serde_json::Value {
    json!({ "cluster": CLUSTER, "node": node })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_leaves_etcd_before_it_goes_and_the_last_one_stays() {
    let (bench, _rack) = three(135, &[]).await;
    for (gone, left) in [("prod-cp-3", &["prod-cp-1", "prod-cp-2"][..]), ("prod-cp-2", &["prod-cp-1"])] {
        let report = bench.run("remove-node", remove(gone)).await;
        succeeded(&report);
        assert_eq!(members(&bench, "prod-cp-1").await, left);
    }
    let report = bench.run("remove-node", remove("prod-cp-1")).await;
    assert_eq!(report.status, Status::Paused, "{report:#?}");
    let reason = report.failure.unwrap().error.message;
    assert!(reason.contains("no quorum"), "{reason}");
    assert_eq!(members(&bench, "prod-cp-1").await, ["prod-cp-1"], "nothing was touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_is_dead_only_the_dead_one_may_go() {
    let (bench, rack) = three(136, &[]).await;
    rack.nodes.power_off(112, PowerOff::Cut);
    let report = bench.run("remove-node", remove("prod-cp-2")).await;
    assert_eq!(report.status, Status::Paused, "{report:#?}");
    let reason = report.failure.unwrap().error.message;
    assert!(reason.contains("1 healthy members of 2 would be left"), "{reason}");
    assert_eq!(members(&bench, "prod-cp-1").await, ["prod-cp-1", "prod-cp-2", "prod-cp-3"]);

    let report = bench.run("remove-node", remove("prod-cp-3")).await;
    succeeded(&report);
    assert_eq!(members(&bench, "prod-cp-1").await, ["prod-cp-1", "prod-cp-2"]);
}
