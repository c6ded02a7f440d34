//! An operator's `kubectl` against a cluster that the contractors made.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use bus::identity::Identity;
use serde_json::json;
use tests::{kubectl, world::WorldOptions};

use crate::{
    command::call,
    scenario::{Scenario, told},
};

/// `kubectl` with the kubeconfig that `cortexctl` gives out.
pub(crate) struct Kubectl {
    program: PathBuf,
    config: PathBuf,
}

impl Kubectl {
    pub(crate) fn of(scenario: &Scenario, cluster: &str) -> Self {
        let given = call(&["kubeconfig", cluster], &scenario.world.environment(Identity::Operator), "");
        let config = scenario.world.folder.join(format!("{cluster}.kubeconfig"));
        fs::write(&config, &given.ok().out).unwrap();
        Self { program: kubectl::find_or_install().unwrap(), config }
    }

    /// What it prints, or what it says when it fails.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        let output = command.arg("--kubeconfig").arg(&self.config).args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

#[test]
fn kubectl_reads_on_when_the_holder_of_the_virtual_ip_dies() {
    let scenario = Scenario::start(&WorldOptions { speed: 100.0, ..WorldOptions::default() });
    let request = json!({
        "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "ha", "worker_nodes": 1,
        "network_cni": "flannel", "storage_backend": "none", "service_account_key": "ecdsa-p256",
    });
    let made = scenario.ask("provision_cluster", &request).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    let kubectl = Kubectl::of(&scenario, "edge");
    let read = || {
        let names = kubectl.run(&["get", "nodes", "-o", "name", "--request-timeout", "2s"])?;
        Ok(names.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let nodes = ["node/edge-cp-1", "node/edge-cp-2", "node/edge-cp-3", "node/edge-worker-1"];
    assert_eq!(scenario.until("kubectl reads", read), nodes);
    let moved = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !moved.load(Ordering::Relaxed) {
                // One that was under way when the holder died may fail; one that comes back is whole.
                if let Ok(seen) = read() {
                    assert_eq!(seen, nodes);
                }
            }
        });
        let first = holder(&scenario, &[]);
        scenario.crash(&first);
        holder(&scenario, &[&first]);
        moved.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    assert_eq!(scenario.until("kubectl reads again", read), nodes);
}

/// The VM that says on its console that it has the virtual IP, besides those that are dead.
fn holder(scenario: &Scenario, dead: &[&str]) -> String {
    scenario.until("somebody holds the virtual IP", || {
        let alive = scenario.vms().into_iter().filter(|(name, _)| !dead.contains(&name.as_str()));
        let mut holders = alive.filter(|(_, (vmid, _))| scenario.console(*vmid).contains("enabled shared IP"));
        holders.next().map(|(name, _)| name).ok_or_else(|| "nobody says so".to_owned())
    })
}
