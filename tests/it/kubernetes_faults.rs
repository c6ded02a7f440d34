//! A Kubernetes API that is away, busy or in conflict, and a network that never comes up.

use serde_json::{Value, json};
use tests::{demo, world::WorldOptions};

use crate::scenario::{Scenario, told};

fn request(cni: &str) -> Value {
    json!({
        "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "edge", "worker_nodes": 1,
        "service_account_key": "ecdsa-p256", "network_cni": cni,
    })
}

fn start() -> Scenario {
    Scenario::start(&WorldOptions { speed: 100.0, ..WorldOptions::default() })
}

const WEBHOOK: &str = "Internal error occurred: failed calling webhook: connect: connection refused";

#[test]
fn a_deployment_goes_through_conflicts_throttling_and_an_api_that_is_away_for_a_while() {
    let scenario = start();
    let webhook = format!("kube PATCH /api/v1/namespaces/*/pods/*x2=error:500:{WEBHOOK}");
    scenario.plan(&[
        "kube GET /api/v1/nodes#1=error:429:the server has received too many requests",
        "kube PATCH /api/v1/nodes/**#1=error:409:Operation cannot be fulfilled on nodes: the object has been modified",
        "kube PATCH /api/v1/nodes/**#2=drop-reply",
        "kube GET /api/v1/nodes#3=drop-request",
        &webhook,
    ]);
    let flow = scenario.submit("provision_cluster", &request("flannel")).unwrap();
    scenario.says(flow, "failed calling webhook");
    assert_eq!(scenario.idle_faults(), Vec::<String>::new(), "each fault has hit a call");
    // Away altogether.
    scenario.plan(&["kube **x*=drop-request"]);
    scenario.until("the API is away", || scenario.idle_faults().is_empty().then_some(()).ok_or_else(String::new));
    scenario.lift();
    let made = scenario.follow(flow).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
}

#[test]
fn a_network_that_never_comes_up_is_named_and_its_flow_ends_by_its_deadline() {
    let scenario = start();
    let before = scenario.snapshot();
    scenario.plan(&["kube ready DaemonSet kube-system/cilium-*x*=hang"]);
    let mut request = request("cilium");
    request["deadline"] = json!("20s");
    let flow = scenario.submit("provision_cluster", &request).unwrap();
    scenario.says(flow, "not ready: DaemonSet kube-system/cilium");
    let ended = scenario.follow(flow).unwrap();
    assert_eq!(ended.state, "cancelled", "{}", told(&ended));
    let why = told(&ended);
    assert!(why.contains("deadline") && why.contains("not ready: DaemonSet kube-system/cilium"), "{why}");
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
}
