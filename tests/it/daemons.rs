//! The daemons' own commands as processes: `check`, `plan`, `schema`, `--version`; and a port that somebody holds.

use std::{collections::BTreeSet, fs};

use messages::schema::Checker;
use serde_json::{Value, json};

use crate::{
    command::{Told, run},
    scenario::Scenario,
};

const INFRASTRUCTURE: &str = "infrastructure-contractor";
const TALOS: &str = "talos-contractor";

#[test]
fn what_needs_no_configuration_needs_none() {
    for daemon in [INFRASTRUCTURE, TALOS] {
        let call = |arguments: &[&str]| run(daemon, arguments, &[], "");
        let version = format!("{daemon} {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(call(&["--version"]).ok().out, version);
        call(&["--help"]).ok().says(&["run", "check", "plan", "schema", "--config", "--set"]);
        let schema = call(&["schema"]).json();
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/");
        let example = fs::read_to_string(format!("{example}{daemon}.toml")).unwrap();
        let mut example: Value = toml::from_str(&example).unwrap();
        let checker = Checker::new(schema).unwrap();
        assert_eq!(checker.check(&example), Ok(()));
        example["bus"]["sever"] = json!([]);
        assert_eq!(checker.check(&example).unwrap_err()[0].did_you_mean.as_deref(), Some("servers"));
        call(&["explode"]).ended(2).warns(&["unrecognized subcommand 'explode'"]);
        call(&["plan", "provision-vms"]).ended(2).warns(&["--input"]);
        call(&["check", "--config", "/no/such.toml"]).ended(1).warns(&["/no/such.toml"]);
    }
}

/// Runs a daemon's program with the configuration of the world's own.
fn daemon(scenario: &Scenario, name: &str, arguments: &[&str]) -> Told {
    let config = scenario.world.folder.join(format!("{name}.toml")).display().to_string();
    run(name, &[&["--config", &config], arguments].concat(), &[], "")
}

/// Beside daemons that run on a bus that is as it should be.
pub(crate) fn beside_running_ones(scenario: &Scenario) {
    for (name, process) in [(INFRASTRUCTURE, &scenario.world.infrastructure), (TALOS, &scenario.world.talos)] {
        assert_eq!(daemon(scenario, name, &["check"]).ok().out, "all is well\n");
        let input = write(scenario, "empty", &json!({}));
        daemon(scenario, name, &["plan", "forget-cluster", "--input", &input]).ended(1).warns(&["in use"]);

        // Health and metrics want a port that the other one holds.
        let at = usize::from(name == TALOS);
        let port = scenario.world.health[at].rsplit(':').next().unwrap();
        let listen = format!("http.listen=127.0.0.1:{port}");
        let store = format!("store.path={}", scenario.world.folder.join(format!("{name}-beside")).display());
        let holder = format!("{name} (process {})", process.id().unwrap());
        let refused = daemon(scenario, name, &["--set", &listen, "--set", &store]);
        refused.ended(1).warns(&[&format!("http.listen: port {port} of 127.0.0.1 is held by {holder}")]);
    }
}

/// What daemons that are stopped would do with the cluster that they have; returns what was said.
pub(crate) fn plans(scenario: &Scenario, cluster: &str) -> Vec<(String, Told)> {
    let scale = |count| json!({ "cluster_name": cluster, "pool": "worker", "count": count });
    let mut said = Vec::new();
    for (name, playbook, input, wanted) in [
        (INFRASTRUCTURE, "scale-pool", scale(3), vec!["plan", "reserve", "make.create[*]", "describe"]),
        (INFRASTRUCTURE, "decommission-cluster", json!({ "cluster_name": cluster }), vec!["plan"]),
        (TALOS, "check-clusters", json!({}), vec!["clusters", "health[*]"]),
        (TALOS, "remove-nodes", scale(1), vec!["select", "remove[*].drain", "health"]),
    ] {
        let file = write(scenario, playbook, &input);
        let told = daemon(scenario, name, &["plan", playbook, "--input", &file]);
        let plan = told.json();
        assert_eq!((&plan["playbook"], &plan["input"]), (&json!(playbook), &input));
        let steps: BTreeSet<&str> =
            plan["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
        assert!(wanted.iter().all(|step| steps.contains(step)), "{wanted:?} are not in {steps:?}");
        said.push((format!("{name} plan {playbook}"), told));
    }
    let input = write(scenario, "wrong", &json!({ "pool": "worker" }));
    daemon(scenario, TALOS, &["plan", "scale-pool", "--input", &input]).ended(1).warns(&["no playbook `scale-pool`"]);
    daemon(scenario, INFRASTRUCTURE, &["plan", "scale-pool", "--input", &input]).ended(1).warns(&["cluster_name"]);
    daemon(scenario, TALOS, &["plan", "remove-nodes", "--input", "/no/such"]).ended(1).warns(&["/no/such"]);
    said
}

fn write(scenario: &Scenario, name: &str, input: &Value) -> String {
    let file = scenario.world.folder.join(format!("{name}.json"));
    fs::write(&file, input.to_string()).unwrap();
    file.display().to_string()
}
