//! No secret in anything that the system wrote or said: known secrets are looked for everywhere.

use std::{fs, path::Path};

use bus::{TailFrom, streams};
use serde_json::json;
use tests::world::WorldOptions;

use crate::scenario::{Scenario, told};

#[test]
fn no_secret_is_in_events_logs_stores_or_answers() {
    let mut scenario = Scenario::start(&WorldOptions { log: "debug".into(), ..WorldOptions::default() });
    let request = json!({ "request_type": "provision_cluster", "cluster_name": "canary", "pattern": "single" });
    let made = scenario.ask("provision_cluster", &request).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));

    let secrets = secrets_of(&scenario);
    assert!(secrets.len() >= 4, "the search knows what to look for");

    let mut said = vec![("flow".to_owned(), serde_json::to_string(&scenario.flow(made.flow)).unwrap())];
    scenario.runtime.block_on(async {
        for stream in [streams::REQUESTS, streams::HANDOFFS, streams::EVENTS, streams::DEADLETTER] {
            let Ok(mut tail) = scenario.operator.bus().tail(stream, TailFrom::Start, &[]).await else { continue };
            let mut left = tail.pending;
            while left > 0 {
                let recorded = tail.next().await.unwrap();
                left = recorded.pending;
                said.push((recorded.subject, String::from_utf8_lossy(&recorded.body).into_owned()));
            }
        }
    });
    for process in [&mut scenario.world.infrastructure, &mut scenario.world.talos] {
        process.stop(std::time::Duration::from_secs(20)).unwrap();
        said.push((process.name().to_owned(), process.log()));
    }
    let folder = scenario.world.folder.clone();
    for store in ["infrastructure-store", "talos-store", "nats/jetstream", "prometheus"] {
        read_all(&folder.join(store), &mut said);
    }
    assert!(said.len() > 20, "the search saw what the system wrote and said");
    for (place, text) in &said {
        for (name, secret) in &secrets {
            assert!(!text.contains(secret.as_str()), "{name} is in {place}");
        }
    }
}

/// The Proxmox token, the nkey seeds, and the credentials of the cluster as its operator gets them.
fn secrets_of(scenario: &Scenario) -> Vec<(String, String)> {
    let token = scenario.world.facts.api_token.clone();
    let secret = token.split_once('=').map(|(_, secret)| secret.to_owned()).unwrap();
    let mut secrets = vec![("the Proxmox token".to_owned(), secret)];
    for (identity, file) in &scenario.world.nats.setup().keys {
        secrets.push((format!("the seed of {identity}"), fs::read_to_string(file).unwrap().trim().to_owned()));
    }
    for (what, field) in [("kubeconfig", "client-key-data: "), ("talosconfig", "key: ")] {
        let output = std::process::Command::new(tests::binaries::path("cortexctl").unwrap())
            .args([what, "canary"])
            .envs(scenario.world.environment(bus::identity::Identity::Operator))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|line| line.trim().strip_prefix(field)).unwrap();
        secrets.push((format!("the key of the {what}"), line.trim_matches(['"', '\'']).to_owned()));
    }
    secrets
}

fn read_all(folder: &Path, into: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_all(&path, into);
        } else if let Ok(bytes) = fs::read(&path) {
            into.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
}

/// A canary of the canary: the search itself finds what is there.
#[test]
fn the_search_finds_a_secret_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "x the-secret y").unwrap();
    let mut said = Vec::new();
    read_all(folder.path(), &mut said);
    assert!(said.iter().any(|(_, text)| text.contains("the-secret")));
}
