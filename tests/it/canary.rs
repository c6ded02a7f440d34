//! No secret in anything that the system wrote or said: known secrets are looked for everywhere.

use std::{fs, path::Path};

use bus::{TailFrom, streams};
use serde_json::json;
use tests::world::WorldOptions;

use crate::{
    command::call,
    scenario::{Scenario, told},
};

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
    said.extend(asked(&scenario));
    said.push(("a refused token".to_owned(), wrong_token(&scenario)));
    for process in [&mut scenario.world.infrastructure, &mut scenario.world.talos] {
        assert!(keeps_no_core(process.id().unwrap()), "{} would leave a core file", process.name());
        process.stop(std::time::Duration::from_secs(20)).unwrap();
        said.push((process.name().to_owned(), process.log()));
    }
    said.push(("a panic".to_owned(), panicked(&scenario)));
    let folder = scenario.world.folder.clone();
    for store in ["infrastructure-store", "talos-store", "nats/jetstream", "prometheus"] {
        read_all(&folder.join(store), &mut said);
    }
    assert!(said.len() > 40, "the search saw what the system wrote and said");
    for (place, text) in &said {
        for (name, secret) in &secrets {
            assert!(!text.contains(secret.as_str()), "{name} is in {place}");
        }
    }
}

/// What health, metrics and every kind of command answer, refusals included.
fn asked(scenario: &Scenario) -> Vec<(String, String)> {
    let mut said = Vec::new();
    for url in &scenario.world.health {
        for page in ["healthz", "readyz", "metrics"] {
            let url = format!("{url}/{page}");
            let text = scenario.runtime.block_on(async { reqwest::get(&url).await.unwrap().text().await.unwrap() });
            assert!(!text.is_empty(), "{url} says nothing");
            said.push((url, text));
        }
    }
    let environment = scenario.world.environment(bus::identity::Identity::Operator);
    for line in [
        "cluster list",
        "cluster show canary",
        "cluster status canary",
        "nodes",
        "vms",
        "flows list",
        "runs list",
        "audit list",
        "audit verify",
        "playbooks list",
        "deadletter list",
        "quarantine list",
        "store verify --of talos",
        "events tail",
        "cluster show nobody",
        "kubeconfig nobody",
        "talosconfig canary --ttl 90000h",
        "flows show 0192f0c1-7b1a-7c3e-9d52-6f0a7c1b2d3e",
    ] {
        let arguments: Vec<&str> = line.split(' ').chain(["-o", "json"]).collect();
        let told = call(&arguments, &environment, "");
        assert!(!told.out.is_empty() || !told.err.is_empty(), "{line} says nothing");
        said.push((format!("cortexctl {line}"), told.out + &told.err));
    }
    said
}

/// What `check` says of a token that Proxmox refuses; the token itself is as secret as the right one.
fn wrong_token(scenario: &Scenario) -> String {
    use std::os::unix::fs::PermissionsExt;
    let folder = &scenario.world.folder;
    let file = folder.join("wrong-token");
    fs::write(&file, scenario.world.facts.api_token.replacen('=', "=wrong", 1)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let output = std::process::Command::new(tests::binaries::path("infrastructure-contractor").unwrap())
        .arg("--config")
        .arg(folder.join("infrastructure-contractor.toml"))
        .arg("--set")
        .arg(format!("proxmox.credential_file={}", file.display()))
        .arg("check")
        .env("RUST_BACKTRACE", "full")
        .output()
        .unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(said.contains("Proxmox cannot be used"), "the token is refused: {said}");
    said
}

/// The standard error and backtrace of the talos daemon when it panics with every secret open.
fn panicked(scenario: &Scenario) -> String {
    let output = std::process::Command::new(tests::binaries::path("panicking").unwrap())
        .arg("--config")
        .arg(scenario.world.folder.join("talos-contractor.toml"))
        .env("RUST_BACKTRACE", "full")
        .output()
        .unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!output.status.success(), "a task that died ends the daemon");
    for wanted in ["secrets open", "cluster/canary/secrets", "cluster/canary/kubeconfig", "stack backtrace"] {
        assert!(said.contains(wanted), "it did not panic with its secrets open, `{wanted}` is missing: {said}");
    }
    said
}

/// Core files can be made on this machine or not: the daemon's own limit forbids them.
fn keeps_no_core(process: u32) -> bool {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    line.split_whitespace().skip(4).take(2).eq(["0", "0"])
}

/// The Proxmox token, the nkey seeds, and the credentials of the cluster as its operator gets them.
fn secrets_of(scenario: &Scenario) -> Vec<(String, String)> {
    let token = scenario.world.facts.api_token.clone();
    let secret = token.split_once('=').map(|(_, secret)| secret.to_owned()).unwrap();
    let mut secrets = vec![("the Proxmox token".to_owned(), secret)];
    for daemon in ["infrastructure", "talos"] {
        let key = fs::read_to_string(scenario.world.folder.join(format!("{daemon}.age"))).unwrap();
        let key = key.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap();
        secrets.push((format!("the store key of {daemon}"), key.to_owned()));
    }
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
        let key = line.trim_matches(['"', '\'']);
        // As it stands in the file, and a line of the PEM text within.
        use base64::Engine as _;
        let pem = base64::prelude::BASE64_STANDARD.decode(key).unwrap();
        let pem = String::from_utf8(pem).unwrap().lines().nth(1).unwrap().to_owned();
        secrets.push((format!("the key of the {what}"), key.to_owned()));
        secrets.push((format!("the key in the {what}"), pem));
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
