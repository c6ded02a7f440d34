//! The programs as processes, and what tests expect of what they say.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use clap::CommandFactory;
use serde_json::Value;
use tests::binaries;

/// What a call came to.
pub(crate) struct Told {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Told {
    /// Its standard output as JSON; it must have gone well.
    pub(crate) fn json(&self) -> Value {
        self.ok();
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }

    #[track_caller]
    pub(crate) fn ok(&self) -> &Self {
        self.ended(0)
    }

    #[track_caller]
    pub(crate) fn ended(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "\nstdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    #[track_caller]
    pub(crate) fn says(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.out.contains(word), "{word:?} is not in\n{}\nstderr: {}", self.out, self.err);
        }
        self
    }

    #[track_caller]
    pub(crate) fn warns(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in\n{}", self.err);
        }
        self
    }
}

/// Environment variables of a call.
pub(crate) type Environment = [(String, String)];

/// Runs `cortexctl` to its end.
pub(crate) fn call(arguments: &[&str], environment: &Environment, input: &str) -> Told {
    run("cortexctl", arguments, environment, input)
}

/// Runs a program to its end.
pub(crate) fn run(program: &str, arguments: &[&str], environment: &Environment, input: &str) -> Told {
    let mut child = Command::new(binaries::path(program).unwrap())
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Whoever does not read its input may have closed it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Told { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// Each is a leaf of the command line, and stands in some test of this folder as it is called.
#[test]
fn every_command_of_cortexctl_is_called_by_a_test() {
    let mut sources = String::new();
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/it")).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            sources += &std::fs::read_to_string(path).unwrap();
        }
    }
    let mut leaves = Vec::new();
    collect(&cortexctl::cli::Line::command(), &[], &mut leaves);
    assert!(leaves.len() > 40, "{leaves:?}");
    let is_called = |words: &Vec<String>| {
        let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
        sources.contains(&quoted.join(", ")) || sources.contains(&format!("\"{}", words.join(" ")))
    };
    leaves.retain(|words| !is_called(words));
    assert!(leaves.is_empty(), "never called: {leaves:?}");
}

fn collect(command: &clap::Command, above: &[String], leaves: &mut Vec<Vec<String>>) {
    for inner in command.get_subcommands() {
        let words = [above, &[inner.get_name().to_owned()]].concat();
        if inner.has_subcommands() {
            collect(inner, &words, leaves);
        } else {
            leaves.push(words);
        }
    }
}
