//! Puts one input to a target, and makes one that breaks a promise as short as it gets.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::Duration,
};

use super::{Target, Verdict};

/// No input may take longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Inputs that are tried while one is made shorter.
const TRIES: usize = 2_000;
/// That of the threads on which daemons read: what recurses too deeply shows here, too.
const STACK: usize = 2 << 20;

/// An input that breaks a promise.
#[derive(Debug)]
pub struct Failure {
    target: &'static str,
    origin: String,
    input: Vec<u8>,
    reason: String,
}

impl std::error::Error for Failure {}

impl Failure {
    pub(super) fn kept(target: &Target, name: &str, input: &[u8], broken: &Broken) -> Self {
        let origin = format!("kept input {name}");
        Self { target: target.name, origin, input: input.to_vec(), reason: broken.to_string() }
    }

    pub(super) fn found(judge: &Judge, seed: u64, input: &[u8], broken: Broken) -> Self {
        let (input, broken) = match broken {
            // Nobody is there any more to try shorter ones.
            Broken::Endless { .. } => (input.to_vec(), broken),
            Broken::Promise(_) => shortened(judge, input, broken),
        };
        Self { target: judge.target, origin: format!("seed {seed}"), input, reason: broken.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, origin, input, reason } = self;
        let shown = input.escape_ascii();
        write!(f, "{target}: {reason}\n  {origin}; keep this input in tests/corpus/{target}/:\n  {shown}")
    }
}

/// How an input breaks what its target promises.
#[derive(Debug)]
pub(super) enum Broken {
    /// In the target's words; a panic is one.
    Promise(String),
    /// No answer came.
    Endless { bytes: usize, patience: Duration },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Promise(reason) => f.write_str(reason),
            Self::Endless { bytes, patience } => write!(f, "{bytes} bytes took longer than {patience:?}"),
        }
    }
}

/// A target at work on a thread of its own, so that one that comes to no end is told of. That thread stays then.
pub(super) struct Judge {
    target: &'static str,
    patience: Duration,
    inputs: Sender<Vec<u8>>,
    verdicts: Receiver<Result<Verdict, String>>,
}

impl Judge {
    pub(super) fn of(target: &Target) -> Self {
        Self::with_patience(target, PATIENCE)
    }

    fn with_patience(target: &Target, patience: Duration) -> Self {
        let check = target.check;
        let (inputs, to_judge) = mpsc::channel::<Vec<u8>>();
        let (judged, verdicts) = mpsc::channel();
        let work = move || {
            for input in to_judge {
                // Nobody waits any more where an earlier one took too long.
                if judged.send(judge(check, &input)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name(target.name.to_owned()).stack_size(STACK).spawn(work).expect("a thread starts");
        Self { target: target.name, patience, inputs, verdicts }
    }

    /// What the target says of the input; a broken promise, a panic or an endless wait is the error.
    pub(super) fn judge(&self, input: &[u8]) -> Result<Verdict, Broken> {
        let gone = |_| Broken::Promise("its thread is gone".to_owned());
        self.inputs.send(input.to_vec()).map_err(gone)?;
        match self.verdicts.recv_timeout(self.patience) {
            Ok(verdict) => verdict.map_err(Broken::Promise),
            Err(RecvTimeoutError::Timeout) => Err(Broken::Endless { bytes: input.len(), patience: self.patience }),
            Err(RecvTimeoutError::Disconnected) => Err(Broken::Promise("its thread is gone".to_owned())),
        }
    }
}

fn judge(check: fn(&[u8]) -> Result<Verdict, String>, input: &[u8]) -> Result<Verdict, String> {
    catch_unwind(AssertUnwindSafe(|| check(input))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
        Err(format!("it panicked: {text}"))
    })
}

/// Leaves out ever smaller parts as long as some promise stays broken.
fn shortened(judge: &Judge, input: &[u8], broken: Broken) -> (Vec<u8>, Broken) {
    let (mut shortest, mut reason) = (input.to_vec(), broken);
    let mut part = shortest.len() / 2;
    let mut tries = 0;
    while part > 0 && tries < TRIES {
        let mut at = 0;
        while at < shortest.len() && tries < TRIES {
            let mut shorter = shortest.clone();
            shorter.drain(at..(at + part).min(shortest.len()));
            tries += 1;
            match judge.judge(&shorter) {
                Err(broken @ Broken::Promise(_)) => (shortest, reason) = (shorter, broken),
                Err(broken @ Broken::Endless { .. }) => return (shorter, broken),
                Ok(_) => at += part,
            }
        }
        part /= 2;
    }
    (shortest, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROKEN: Target = Target {
        name: "broken",
        promise: "",
        check: |input| {
            assert!(!input.windows(2).any(|pair| pair == b"XY"), "found it");
            Ok(Verdict::TAKEN)
        },
        words: &[],
    };

    const ENDLESS: Target = Target {
        name: "endless",
        check: |input| {
            while input.contains(&b'Z') {
                thread::park();
            }
            Ok(Verdict::TAKEN)
        },
        ..BROKEN
    };

    #[test]
    fn a_panic_is_a_failure_and_its_input_is_made_as_short_as_it_gets() {
        let judge = Judge::of(&BROKEN);
        let input = b"aaaaaaaaaaaaaaaaaXYbbbbbbbbbbbbbbbbbb";
        let failure = Failure::found(&judge, 7, input, judge.judge(input).unwrap_err());
        assert_eq!(failure.input, b"XY");
        let told = failure.to_string();
        assert!(told.contains("it panicked: found it") && told.contains("seed 7"), "{told}");
    }

    #[test]
    fn an_endless_wait_is_a_failure_that_shows_its_input() {
        let judge = Judge::with_patience(&ENDLESS, Duration::from_millis(50));
        assert_eq!(judge.judge(b"abc").unwrap(), Verdict::TAKEN);
        let failure = Failure::found(&judge, 7, b"abcZ", judge.judge(b"abcZ").unwrap_err());
        let told = failure.to_string();
        assert!(told.contains("4 bytes took longer than 50ms") && told.ends_with("abcZ"), "{told}");
    }
}
