//! What `cortexctl` does with a store's folder and its audit log.

use std::time::Duration;

use bus::{TailFrom, identity::Identity};
use serde_json::{Value, json};

use crate::{command::Told, scenario::Scenario};

/// A daemon writes where it is told to, and over nothing.
pub(super) fn exports(scenario: &Scenario, run: &dyn Fn(&[&str]) -> Told) {
    let folder = &scenario.world.folder;
    let export = |file: &str| run(&["store", "export", "--of", "infrastructure", file, "-o", "json"]);
    let at = |name: &str| folder.join(name).display().to_string();
    std::os::unix::fs::symlink(at("infrastructure.age"), at("link")).unwrap();
    let files = ["infrastructure.age", "infrastructure-store/format.json"].map(|name| folder.join(name));
    let before = files.each_ref().map(|file| std::fs::read(file).unwrap());
    for (file, reason) in [
        (at("infrastructure.age"), "something is there"),
        (at("infrastructure-store/format.json"), "in the folder of the store"),
        (at("link"), "something is there"),
        (at("infrastructure-store/export"), "in the folder of the store"),
        (at("no/such/folder/export"), "does not exist on this machine"),
        ("export".to_owned(), "a whole path on the daemon's machine"),
    ] {
        export(&file).ended(1).warns(&[reason]);
    }
    assert_eq!(files.map(|file| std::fs::read(file).unwrap()), before);
    assert!(export(&at("first-export")).json()["rows"].as_u64() > Some(0));
    export(&at("first-export")).ended(1).warns(&["something is there"]);
}

/// Both contractors have told how far their logs reach.
pub(super) fn wait_for_heads(scenario: &Scenario) {
    scenario.runtime.block_on(async {
        let mut tail = scenario.operator.events(TailFrom::Start, None, Some("audit_head")).await.unwrap();
        let mut silent = vec!["cortex.event.infrastructure.", "cortex.event.talos."];
        while !silent.is_empty() {
            let told = tail.next_within(Duration::from_secs(60)).await.unwrap().expect("a head is told");
            silent.retain(|subject| !told.subject.starts_with(subject));
        }
    });
}

/// A record is taken out of the log of a daemon that is stopped: it is named, and so is a log whose end is gone.
pub(super) fn tampered_log(scenario: &Scenario, folder: &str, run: &dyn Fn(&[&str]) -> Told) {
    let keys = scenario.world.nats.setup().folder.join("pinned_keys.json").display().to_string();
    let verify = || run(&["audit", "verify", "--folder", folder, "--of", "talos", "--keys", &keys, "-o", "json"]);
    let told = verify();
    let sound = told.json();
    assert_eq!((&sound[0]["result"], &sound[0]["first_bad_record"]), (&json!("sound"), &Value::Null));
    assert!(sound[0]["heads"].as_u64() > Some(0), "no head counts: {}", told.err);
    let last = sound[0]["records"].as_u64().unwrap();
    for (seq, why) in [(last - 1, format!("record {last} stands in its place")), (last, "is missing".to_owned())] {
        let key = format!("audit/{seq:016x}");
        let put = |row: Option<sled::IVec>| {
            let db = sled::Config::new().path(data(folder)).segment_size(4 << 20).open().unwrap();
            let before = match row {
                Some(row) => db.insert(&key, row).unwrap(),
                None => db.remove(&key).unwrap(),
            };
            db.flush().unwrap();
            before
        };
        let row = put(None);
        assert!(row.is_some(), "there is no {key}");
        let found: Value = serde_json::from_str(&verify().ended(4).out).unwrap();
        assert_eq!(found[0]["first_bad_record"], seq, "{found}");
        assert!(found[0]["result"].as_str().unwrap().contains(&why), "{found}");
        put(row);
    }
    assert_eq!(verify().json()[0]["result"], "sound");
    let other = scenario.world.folder.join("other-keys.json");
    std::fs::write(
        &other,
        json!({ "/talos": [scenario.world.nats.setup().public_keys[&Identity::Operator]] }).to_string(),
    )
    .unwrap();
    let unproven = ["audit", "verify", "--of", "infrastructure", "--keys", &other.display().to_string(), "-o", "json"];
    let unproven = run(&unproven);
    assert_eq!(unproven.json()[0]["heads"], 0);
    unproven.warns(&["heads of infrastructure in the event stream do not count", "not pinned for this source"]);
}

/// Where the rows of a store are: a compaction moves them.
fn data(folder: &str) -> std::path::PathBuf {
    let entries = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    let mut found = entries.filter(|path| path.file_name().is_some_and(|it| it.to_string_lossy().starts_with("data-")));
    let only = found.next().unwrap();
    assert_eq!(found.next(), None);
    only
}
