//! The demo as a process, as people start and end it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Lines},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use tests::{binaries, interruption::hears_hang_up, process};

use crate::command::call;

/// A demo that runs. Everything it starts inherits the folder for its temporary files, and is known by that.
struct Demo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    said: Vec<String>,
    folder: tempfile::TempDir,
}

/// A process of a demo.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Started {
    program: String,
    id: u32,
    group: u32,
}

impl Demo {
    /// Starts it as a shell does: in a process group of its own.
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(binaries::path("demo").unwrap())
            .args(arguments)
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, said: Vec::new(), folder }
    }

    /// Waits until it says something with these words.
    fn wait_for(&mut self, words: &str) {
        while !self.said.last().is_some_and(|line| line.contains(words)) {
            let line = self.lines.next().unwrap_or_else(|| panic!("it never said {words:?}: {:#?}", self.said));
            self.said.push(line.unwrap());
        }
    }

    /// What a terminal does at Ctrl-C, and at its end: the signal goes to the whole group.
    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), "--", &format!("-{}", self.child.id())]).status();
        assert!(sent.unwrap().success());
    }

    /// Reads what it still has to say, and waits for its end.
    fn ended(&mut self) -> (ExitStatus, String) {
        for line in self.lines.by_ref() {
            self.said.push(line.unwrap());
        }
        (self.child.wait().unwrap(), self.said.join("\n"))
    }

    /// What it started and what runs now, itself left out.
    fn started(&self) -> BTreeSet<Started> {
        let mut found = processes_below(self.folder.path());
        found.retain(|process| process.id != self.child.id());
        found
    }

    /// Nothing that it started runs. What ends with it needs a moment.
    fn expect_nothing_runs(&self) {
        let give_up = Instant::now() + Duration::from_secs(20);
        while !self.started().is_empty() {
            assert!(Instant::now() < give_up, "{:?} run: {:#?}", self.started(), self.said);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Nothing that it started runs, and nothing that it wrote is there.
    fn expect_nothing_left(&self) {
        self.expect_nothing_runs();
        let files: Vec<_> = fs::read_dir(self.folder.path()).unwrap().flatten().map(|entry| entry.path()).collect();
        assert!(files.is_empty(), "{files:?} is left");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // A test that failed leaves nothing behind, either.
        let _ = self.child.kill();
        for process in self.started() {
            let _ = process::signal(process.id, "KILL");
        }
        let _ = self.child.wait();
    }
}

/// Processes whose temporary files go to `folder`.
fn processes_below(folder: &Path) -> BTreeSet<Started> {
    let wanted = format!("TMPDIR={}", folder.display());
    let of = |id: u32| {
        let place = Path::new("/proc").join(id.to_string());
        let environment = fs::read(place.join("environ")).ok()?;
        environment.split(|byte| *byte == 0).find(|variable| *variable == wanted.as_bytes())?;
        // `4711 (nats-server) S 1 4711 …`: a name may have blanks in it.
        let stat = fs::read_to_string(place.join("stat")).ok()?;
        let (program, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let group = rest.split_whitespace().nth(2)?.parse().ok()?;
        Some(Started { program: program.to_owned(), id, group })
    };
    let ids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(of).collect()
}

/// The names of what the world is made of, as the system shortens them.
const WORLD: [&str; 4] = ["infrastructure-", "lab", "nats-server", "talos-contracto"];

/// It ends what is left when the demo is killed.
const GUARDIAN: &str = "sh";

#[test]
fn what_is_kept_can_be_used_and_ctrl_c_ends_all_of_it() {
    let mut demo = Demo::start(&["--keep", "--pattern", "single", "--speed", "50"]);
    demo.wait_for("everything runs until Ctrl-C");
    let variables: BTreeMap<String, String> = demo
        .said
        .iter()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert!(demo.said.iter().any(|line| line.starts_with("accepted as flow ")), "{:#?}", demo.said);
    let environment: Vec<(String, String)> = variables.into_iter().collect();
    let clusters = call(&["cluster", "list", "-o", "json"], &environment, "").json();
    assert_eq!((&clusters[0]["cluster"], &clusters[0]["state"]), (&json!("prod-k8s"), &json!("active")));
    call(&["cluster", "status", "prod-k8s"], &environment, "").ok().says(&["healthy"]);

    let mut started = demo.started();
    started.retain(|process| process.program != GUARDIAN);
    assert_eq!(started.len(), WORLD.len(), "{started:?}");
    for (process, program) in started.iter().zip(WORLD) {
        assert!(process.program.starts_with(program), "{program} is not in {started:?}");
        assert_eq!(process.group, process.id, "Ctrl-C would reach {} before its turn", process.program);
    }
    demo.signal("INT");
    let (status, said) = demo.ended();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("done after"), "{said}");
    demo.expect_nothing_left();
}

/// At whatever point of the start the signal comes: nothing is left, and the exit code is the signal's.
#[test]
fn a_start_that_is_interrupted_leaves_nothing() {
    let hang_up = if hears_hang_up() { ("HUP", 129) } else { ("TERM", 143) };
    let signals = [("INT", 130), ("TERM", 143), hang_up, ("INT", 130)];
    for (program, (signal, code)) in WORLD.iter().zip(signals) {
        let mut demo = Demo::start(&["--pattern", "single"]);
        demo.wait_for("starting nats-server");
        let give_up = Instant::now() + Duration::from_secs(60);
        while !demo.started().iter().any(|process| process.program.starts_with(program)) {
            assert!(Instant::now() < give_up, "{program} does not start: {:#?}", demo.said);
            std::thread::sleep(Duration::from_millis(5));
        }
        demo.signal(signal);
        let (status, said) = demo.ended();
        assert_eq!(status.code(), Some(code), "{said}");
        assert!(said.contains("interrupted; everything that was started has ended"), "{said}");
        demo.expect_nothing_left();
    }
}

#[test]
fn a_demo_that_is_interrupted_at_work_ends_its_contractors_in_order() {
    let mut demo = Demo::start(&["--pattern", "single", "--speed", "5"]);
    demo.wait_for("accepted as flow");
    demo.signal("INT");
    let (status, said) = demo.ended();
    // A contractor that did not end well would be a failure.
    assert_eq!(status.code(), Some(130), "{said}");
    demo.expect_nothing_left();
}

/// Nothing is kept of what was interrupted; of what failed the logs are.
#[test]
fn a_request_that_is_refused_is_shown_with_everything_that_is_wrong() {
    let mut demo = Demo::start(&["--pattern", "huge", "--nodes", "5000"]);
    let (status, said) = demo.ended();
    assert_eq!(status.code(), Some(1), "{said}");
    for words in
        ["a coordinator publishes on cortex.request.infrastructure.provision_cluster", "/pattern: ", "/worker_nodes: "]
    {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    assert!(!said.contains("accepted as flow"), "{said}");
    demo.expect_nothing_runs();
}

#[test]
fn a_demo_that_is_killed_takes_everything_with_it() {
    let mut demo = Demo::start(&["--pattern", "single"]);
    demo.wait_for("ready after");
    assert!(demo.started().len() > WORLD.len());
    demo.signal("KILL");
    let (status, said) = demo.ended();
    assert_eq!(status.code(), None, "{said}");
    demo.expect_nothing_runs();
}
