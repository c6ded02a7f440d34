//! Addresses at which another node answers, by a duplicate or a packet gone astray: nothing is done to the wrong node.

use serde_json::json;
use tests::world::WorldOptions;

use crate::scenario::{Scenario, told};

#[test]
fn a_node_at_whose_address_another_one_answers_is_not_bootstrapped_configured_or_wiped_in_its_place() {
    let scenario = Scenario::start(&WorldOptions { speed: 100.0, ..WorldOptions::default() });
    scenario.plan(&["talos * /machine.MachineService/Bootstrapx*=error:9:bootstrap is not available yet"]);
    let request = json!({
        "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "edge", "worker_nodes": 1,
        "service_account_key": "ecdsa-p256",
    });
    let flow = scenario.submit("provision_cluster", &request).unwrap();
    scenario.says(flow, "bootstrap is not available yet");
    let (plane, plane_address) = scenario.machine("edge-cp-1");
    let (worker, worker_address) = scenario.machine("edge-worker-1");
    let call = |address: &str, call: &str| format!("talos {address} {call}");
    let at_worker = |method: &str| call(&worker_address, &format!("/machine.MachineService/{method}"));

    // The endpoint's address is in the certificate of every node, so that only the machine tells.
    scenario.divert(&plane_address, worker, false);
    scenario.says(flow, &format!("edge-cp-1: another machine answers at {plane_address}"));
    scenario.lift();
    let (looks, bootstraps) = (call(&worker_address, "/cosi.resource.State/Get"), at_worker("Bootstrap"));
    scenario.count(&[&looks, &bootstraps]);
    scenario.until("the contractor has looked again", || {
        let seen = scenario.counted(&looks);
        (seen >= 2).then_some(()).ok_or_else(|| seen.to_string())
    });
    scenario.restore(&plane_address);
    let made = scenario.follow(flow).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    assert_eq!(scenario.counted(&bootstraps), 0, "only the control plane was bootstrapped");

    // A new node, at whose address one with a configuration answers, whose certificate does not name it.
    let configurations = at_worker("ApplyConfiguration");
    scenario.count(&[&configurations]);
    let flow = scenario.scale("edge", 2);
    let (_, new_address) = scenario.machine("edge-worker-2");
    scenario.divert(&new_address, worker, false);
    scenario.says(flow, &format!("edge-worker-2: {new_address} is answered by edge-worker-1"));
    scenario.restore(&new_address);
    let grown = scenario.follow(flow).unwrap();
    assert_eq!(grown.state, "succeeded", "{}", told(&grown));
    assert_eq!(scenario.counted(&configurations), 0, "the node that stands got no second configuration");

    // The node that goes has the control plane at its address, as a duplicate that its certificate names.
    let resets = call(&plane_address, "/machine.MachineService/Reset");
    scenario.count(&[&resets]);
    scenario.divert(&new_address, plane, true);
    let shrunk = scenario.follow(scenario.scale("edge", 1)).unwrap();
    assert_eq!(shrunk.state, "succeeded", "{}", told(&shrunk));
    assert_eq!(scenario.counted(&resets), 0, "the control plane was not wiped in its place");
    assert_eq!(scenario.vms().into_keys().collect::<Vec<_>>(), ["edge-cp-1", "edge-worker-1"]);
}
