//! A Kubernetes API that is away, busy or in conflict, and a network that never comes up.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{demo, world::WorldOptions};
use uuid::Uuid;

use crate::{
    knobs::reasons,
    scenario::{Scenario, told},
};

fn request(cni: &str) -> Value {
    of("edge", cni)
}

fn of(cluster: &str, cni: &str) -> Value {
    json!({
        "request_type": "provision_cluster", "cluster_name": cluster, "pattern": "edge", "worker_nodes": 1,
        "service_account_key": "ecdsa-p256", "network_cni": cni,
    })
}

fn start() -> Scenario {
    Scenario::start(&WorldOptions { speed: 100.0, ..WorldOptions::default() })
}

const WEBHOOK: &str = "Internal error occurred: failed calling webhook: connect: connection refused";

#[test]
fn a_deployment_goes_through_conflicts_throttling_and_streams_that_break() {
    let scenario = start();
    let webhook = format!("kube PATCH /api/v1/namespaces/*/pods/*x2=error:500:{WEBHOOK}");
    scenario.plan(&[
        "kube GET /api/v1/nodes#1=error:429:the server has received too many requests",
        "kube PATCH /api/v1/nodes/**#1=error:409:Operation cannot be fulfilled on nodes: the object has been modified",
        "kube PATCH /api/v1/nodes/**#2=drop-reply",
        "kube GET /api/v1/nodes#3=drop-request",
        // First comes the list, then the watch.
        "kube GET /api/v1/namespaces/cortex-smoke-*/pods#2=break:1",
        &webhook,
    ]);
    let flow = scenario.submit("provision_cluster", &request("flannel")).unwrap();
    scenario.says(flow, "failed calling webhook");
    let made = scenario.follow(flow).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    assert_eq!(scenario.idle_faults(), Vec::<String>::new(), "each fault has hit a call");
}

/// How long the API stays away. An outage lasts minutes: `KUBERNETES_AWAY_SECONDS` says how many seconds.
fn away() -> Duration {
    let asked = std::env::var("KUBERNETES_AWAY_SECONDS").ok();
    Duration::from_secs(asked.map_or(20, |seconds| seconds.parse().expect("a number of seconds")))
}

/// Calls that go astray meanwhile: twice as many as a step has attempts.
const ASTRAY: u64 = 20;

/// Takes the API from flows that are in the middle of something, for as long as an outage lasts; each says so all the time.
fn stays_away(scenario: &Scenario, flows: &[Uuid]) {
    let begun = Instant::now();
    scenario.plan(&["kube **x*=drop-request"]);
    flows.iter().for_each(|flow| scenario.says(*flow, "the Kubernetes API at https://127."));
    scenario.lift_all_but("kube **");
    while begun.elapsed() < away() || scenario.counted("kube **") < ASTRAY {
        for view in flows.iter().map(|flow| scenario.flow(*flow)) {
            assert!(["running", "waiting"].contains(&view.state.as_str()), "{}", told(&view));
            assert!(!reasons(&view).is_empty(), "it says why it does not go on");
        }
        // So long an outage is what this is about.
        std::thread::sleep(Duration::from_millis(250));
    }
    scenario.lift();
}

#[test]
fn an_api_that_is_away_for_minutes_fails_neither_a_deployment_nor_a_cluster_that_shrinks() {
    let scenario = start();
    // One is kept where it labels its nodes, the other where it tries out the cluster.
    scenario.plan(&[
        "kube PATCH /api/v1/nodes/one-*x*=error:503:not labelled yet",
        &format!("kube PATCH /api/v1/namespaces/*/pods/*x*=error:500:{WEBHOOK}"),
    ]);
    let flows = ["one", "two"].map(|name| scenario.submit("provision_cluster", &of(name, "flannel")).unwrap());
    scenario.says(flows[0], "not labelled yet");
    scenario.says(flows[1], "failed calling webhook");
    stays_away(&scenario, &flows);
    for flow in flows {
        let made = scenario.follow(flow).unwrap();
        assert_eq!(made.state, "succeeded", "{}", told(&made));
    }

    scenario.plan(&["kube PATCH /api/v1/nodes/two-worker-1x*=error:503:not cordoned yet"]);
    let shrinks = scenario.scale("two", 0);
    scenario.says(shrinks, "not cordoned yet");
    stays_away(&scenario, &[shrinks]);
    let shrunk = scenario.follow(shrinks).unwrap();
    assert_eq!(shrunk.state, "succeeded", "{}", told(&shrunk));
    assert_eq!(scenario.machines(), 3);
}

#[test]
fn a_webhook_that_never_recovers_is_named_and_its_flow_ends_by_its_deadline() {
    let scenario = start();
    let before = scenario.snapshot();
    scenario.plan(&[&format!("kube PATCH /api/v1/namespaces/*/pods/*x*=error:500:{WEBHOOK}")]);
    let mut request = request("flannel");
    request["deadline"] = json!("20s");
    let flow = scenario.submit("provision_cluster", &request).unwrap();
    scenario.says(flow, WEBHOOK);
    let ended = scenario.follow(flow).unwrap();
    assert_eq!(ended.state, "cancelled", "{}", told(&ended));
    assert!(told(&ended).contains("by deadline") && told(&ended).contains(WEBHOOK), "{}", told(&ended));
    assert_eq!(demo::leftovers(&before, &scenario.snapshot()), Vec::<String>::new());
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
