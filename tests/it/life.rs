//! The whole life of a cluster, over real daemons, a real nats-server and the lab.

use messages::{query::Listing, subject::Party};
use serde_json::json;
use tests::{demo, world::WorldOptions};

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

    for count in [4, 2] {
        let scale = json!({ "cluster_name": "prod-k8s", "pool": "worker", "count": count });
        let scaled = scenario.ask_with_consent("scale_request", scale).unwrap();
        assert_eq!(scaled.state, "succeeded", "{}", told(&scaled));
        assert_eq!(scenario.machines(), 3 + count);
        let nodes: Listing = scenario
            .runtime
            .block_on(scenario.operator.query(Party::Talos, "nodes.list", json!({ "cluster": "prod-k8s" })))
            .unwrap();
        assert_eq!(nodes.rows.len(), 3 + count, "both inventories agree");
    }

    let gone = scenario.ask_with_consent("decommission_request", json!({ "cluster_name": "prod-k8s" })).unwrap();
    assert_eq!(gone.state, "succeeded", "{}", told(&gone));
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
    for (at, query) in [(Party::Infrastructure, "clusters.list"), (Party::Talos, "clusters.list")] {
        let left: Listing = scenario.runtime.block_on(scenario.operator.query(at, query, json!({}))).unwrap();
        assert_eq!(left, Listing::default(), "{at}");
    }
}
