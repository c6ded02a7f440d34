//! `cortexctl` as a process, and what tests expect of what it says.

use std::{
    io::Write,
    process::{Command, Stdio},
};

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
    let mut child = Command::new(binaries::path("cortexctl").unwrap())
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
