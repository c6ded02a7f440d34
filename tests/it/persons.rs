//! Operators with keys of their own: each speaks for itself and for nobody else, until it is dismissed.

use std::{fs, path::Path};

use bus::identity::Identity;
use messages::subject::Party;
use serde_json::Value;
use tests::world::WorldOptions;
use uuid::Uuid;

use crate::{command::call, scenario::Scenario};

#[test]
fn an_operator_with_a_key_of_their_own_speaks_for_nobody_else_and_nobody_else_for_them() {
    let mut scenario = Scenario::start(&WorldOptions::default());
    let bus = scenario.world.nats.setup().folder.display().to_string();
    let ada = call(&["bus", "admit", &bus, "ada", "-o", "json"], &[], "").json();
    assert_eq!(ada[0]["source"], "/operator/ada");
    let seed = ada[0]["seed_file"].as_str().unwrap();
    call(&["bus", "admit", &bus, "ada/../talos"], &[], "").ended(1).warns(&["`ada/../talos` is no name: expected"]);
    scenario.world.nats.reload().unwrap();
    pin(&mut scenario, &ada[0]);

    let shared = scenario.world.environment(Identity::Operator);
    let operators = scenario.world.nats.setup().keys[&Identity::Operator].display().to_string();
    let hers = scenario.world.folder.join("ada.nk").display().to_string();
    fs::copy(seed, &hers).unwrap();
    // Nobody knows this flow; who may not ask is not told so.
    let nothing = Uuid::now_v7().to_string();
    let ask =
        |seed: &str, source: &str| call(&["flow", "cancel", &nothing, "--as", source, "--seed", seed], &shared, "");
    ask(&hers, "/operator/ada").ended(1).warns(&[&nothing]);
    ask(&operators, "/operator/bob").ended(1).warns(&[&nothing]);
    for (seed, source) in [(&hers, "/operator/bob"), (&operators, "/operator/ada")] {
        ask(seed, source).ended(1).warns(&["is not pinned for this source"]);
    }
    // What ada asked for is hers in the audit log, by her own key.
    let deeds = call(&["audit", "list", "--of", "infrastructure", "-o", "json"], &shared, "").json();
    let deeds = deeds.as_array().unwrap();
    let key = ada[0]["public_key"].as_str().unwrap();
    let asked = |who: &str| deeds.iter().find(|deed| deed["who"] == who && deed["did"] == "command_asked");
    let keys = ["/operator/ada", "/operator/bob"].map(|who| asked(who).unwrap()["key"].as_str().unwrap());
    assert!(key.ends_with(keys[0]) && !key.ends_with(keys[1]), "{keys:?} {key}");

    call(&["bus", "dismiss", &bus, "ada"], &[], "").ok().says(&["/operator/ada"]);
    call(&["bus", "dismiss", &bus, "ada"], &[], "").ended(1).warns(&["ada was not admitted"]);
    assert!(!Path::new(seed).exists());
    scenario.world.nats.reload().unwrap();
    ask(&hers, "/operator/ada").ended(1).warns(&["does not accept"]);
    ask(&operators, "/operator/bob").ended(1).warns(&[&nothing]);
}

/// Gives both contractors a person's key, as an operator does.
fn pin(scenario: &mut Scenario, person: &Value) {
    for party in [Party::Infrastructure, Party::Talos] {
        let config = scenario.world.folder.join(format!("{party}-contractor.toml"));
        let text = fs::read_to_string(&config).unwrap();
        let pins = format!("[bus.pinned_keys]\n{} = [{}]", person["source"], person["public_key"]);
        assert!(text.contains("[bus.pinned_keys]"));
        fs::write(&config, text.replace("[bus.pinned_keys]", &pins)).unwrap();
        scenario.daemon(party).kill();
        scenario.daemon(party).start(false).unwrap();
    }
    scenario.world.wait_ready().unwrap();
}
