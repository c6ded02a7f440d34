//! A daemon on a store whose files are damaged, or that was imported: it has what it had, or says what to do, which helps.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use messages::subject::Party;
use serde_json::{Value, json};
use tests::world::{WorldOptions, is_ready};

use crate::{
    broker::edge,
    command::{Told, call, run},
    scenario::{Scenario, told},
};

const DAEMON: &str = "infrastructure-contractor";

#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip,
    Truncate,
    Empty,
}

impl Damage {
    /// Does it to what a file holds, in the middle.
    fn strike(self, file: &Path) {
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.iter().rposition(|byte| *byte != 0).unwrap() / 2;
        match self {
            Self::Flip => bytes[middle] ^= 4,
            Self::Truncate => bytes.truncate(middle),
            Self::Empty => bytes.clear(),
        }
        fs::write(file, bytes).unwrap();
    }
}

/// One world for everything, as its start is what takes long.
#[test]
fn a_daemon_on_damaged_files_has_what_it_had_or_says_what_helps() {
    let mut lost = Lost::begin();
    second_owner(&lost.scenario);
    lost.stop_and_keep();
    imported(&mut lost);
    for target in ["db", "snapshot", "format.json", "acknowledged"] {
        for damage in [Damage::Flip, Damage::Truncate, Damage::Empty] {
            damaged(&mut lost, target, damage);
        }
    }
}

/// A daemon with a cluster, what it says of itself, and copies of what it keeps.
struct Lost {
    scenario: Scenario,
    lists: [Value; 2],
    store: PathBuf,
    kept: PathBuf,
    export: String,
}

/// What became of a start.
enum Start {
    Ready,
    Refused(String),
}

impl Lost {
    fn begin() -> Self {
        let scenario = Scenario::start(&WorldOptions::default());
        let flow = edge(&scenario);
        let made = scenario.follow(flow).unwrap();
        assert_eq!(made.state, "succeeded", "{}", told(&made));
        let folder = scenario.world.folder.clone();
        let lists = lists(&scenario).unwrap();
        let [clusters, runs] = &lists;
        assert_eq!((&clusters["rows"][0]["cluster"], &clusters["rows"][1]), (&json!("edge"), &Value::Null));
        let playbooks = runs.as_array().unwrap().iter().map(|run| (run["playbook"].as_str(), run["state"].as_str()));
        let done = ["provision-vms", "register-monitoring"].map(|playbook| (Some(playbook), Some("succeeded")));
        assert_eq!(playbooks.collect::<BTreeSet<_>>(), BTreeSet::from(done));
        Self {
            scenario,
            lists,
            store: folder.join("infrastructure-store"),
            kept: folder.join("kept"),
            export: folder.join("kept-export").display().to_string(),
        }
    }

    fn stop_and_keep(&mut self) {
        self.scenario.world.infrastructure.stop(Duration::from_secs(20)).unwrap();
        let store = self.store.display().to_string();
        offline(&["store", "export", "--folder", &store, &self.export]).ok();
        copy_folder(&self.store, &self.kept);
        assert!(snapshot(&self.kept).is_some(), "sled writes one when it reads its log");
    }

    /// Puts the store back as it was.
    fn restore(&self) {
        fs::remove_dir_all(&self.store).unwrap();
        copy_folder(&self.kept, &self.store);
    }

    fn start(&mut self) -> Start {
        let daemon = &mut self.scenario.world.infrastructure;
        let said = daemon.log().len();
        daemon.start(false).unwrap();
        let health = self.scenario.world.health[0].trim_start_matches("http://").to_owned();
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = daemon.ended() {
                assert_eq!(status.code(), Some(1), "{}", daemon.log());
                return Start::Refused(daemon.log()[said..].to_owned());
            }
            if is_ready(&health) {
                return Start::Ready;
            }
            assert!(Instant::now() < give_up, "{}", daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn expect_ready(&mut self) {
        if let Start::Refused(said) = self.start() {
            panic!("it does not start: {said}");
        }
    }

    fn expect_all(&mut self) {
        self.expect_ready();
        assert_eq!(lists(&self.scenario).unwrap(), self.lists);
        self.stop();
    }

    fn stop(&mut self) {
        self.scenario.world.infrastructure.stop(Duration::from_secs(20)).unwrap();
    }
}

/// Clusters and runs as the daemon lists them.
fn lists(scenario: &Scenario) -> Result<[Value; 2], cortexctl::client::Error> {
    let ask = |name| scenario.operator.query(Party::Infrastructure, name, json!({}));
    scenario.runtime.block_on(async { Ok([ask("clusters.list").await?, ask("runs.list").await?]) })
}

/// The port is free: it is the store that refuses, by the name of who has it.
fn second_owner(scenario: &Scenario) {
    let config = scenario.world.folder.join(format!("{DAEMON}.toml")).display().to_string();
    let second = run(DAEMON, &["--config", &config, "--set", "http.listen=127.0.0.1:0", "run"], &[], "");
    let holder = format!("process {} ({DAEMON})", scenario.world.infrastructure.id().unwrap());
    second.ended(1).warns(&["infrastructure-store is in use by", &holder, "stop that first"]);
}

/// Stopped, exported, removed, imported, started: nothing has changed.
fn imported(lost: &mut Lost) {
    fs::remove_dir_all(&lost.store).unwrap();
    offline(&["store", "import", "--folder", &lost.store.display().to_string(), &lost.export]).ok();
    lost.expect_all();
}

fn damaged(lost: &mut Lost, target: &str, damage: Damage) {
    let name = format!("{target}, {damage:?}");
    let strike = |lost: &Lost| {
        lost.restore();
        damage.strike(&match target {
            "db" => lost.store.join("data-1/db"),
            "snapshot" => snapshot(&lost.store).unwrap(),
            other => lost.store.join(other),
        });
    };
    strike(lost);
    let said = match lost.start() {
        Start::Refused(said) => said,
        Start::Ready => {
            let found = lists(&lost.scenario);
            lost.stop();
            match found {
                Ok(found) => return assert_eq!(found, lost.lists, "{name}"),
                Err(cortexctl::client::Error::Refused(refusal)) => refusal.hint.unwrap_or(refusal.message),
                Err(error) => panic!("{name}: {error}"),
            }
        }
    };
    assert!(matches!(target, "db" | "format.json"), "{name} is no reason not to start: {said}");
    let commands = commands(&said);
    assert!(!commands.is_empty(), "{name}: it is not told what to do: {said}");
    for words in commands {
        strike(lost);
        let before = lost.start();
        if matches!(before, Start::Ready) {
            lost.stop();
        }
        let place = |word: &str| match word {
            "FILE" => lost.export.clone(),
            "STORE.PATH" => lost.store.display().to_string(),
            word => word.to_owned(),
        };
        let words: Vec<String> = words.iter().map(|word| place(word)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["store", "import", ..] => {
                offline(&words).ok();
                lost.expect_all();
            }
            ["store", "accept-loss", ..] => {
                offline(&words).ok();
                lost.expect_ready();
                lost.stop();
            }
            ["store", "verify"] => {
                let store = lost.store.display().to_string();
                offline(&["store", "verify", "--folder", &store]).ended(1);
            }
            _ => panic!("{name}: nobody knows {words:?}"),
        }
    }
}

/// What stands behind `cortexctl` between backticks.
fn commands(said: &str) -> Vec<Vec<String>> {
    let quoted = said.split('`').skip(1).step_by(2);
    let named = quoted.filter_map(|text| text.strip_prefix("cortexctl "));
    named.map(|text| text.split_whitespace().map(str::to_owned).collect()).collect()
}

fn offline(arguments: &[&str]) -> Told {
    call(arguments, &[], "")
}

/// The newest snapshot of sled's.
fn snapshot(store: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(store.join("data-1")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("snap.")).max()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
