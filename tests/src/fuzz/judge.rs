//! Puts one input to a target, and makes one that breaks a promise as short as it gets.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use super::{Target, Verdict};

/// No input of this size may take longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Inputs that are tried while one is made shorter.
const TRIES: usize = 2_000;

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
    pub(super) fn kept(target: &Target, name: &str, input: &[u8], reason: String) -> Self {
        Self { target: target.name, origin: format!("kept input {name}"), input: input.to_vec(), reason }
    }

    pub(super) fn found(target: &Target, seed: u64, input: &[u8], reason: String) -> Self {
        let input = shortened(target, input);
        let reason = judge(target, &input).err().unwrap_or(reason);
        Self { target: target.name, origin: format!("seed {seed}"), input, reason }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, origin, input, reason } = self;
        let shown = input.escape_ascii();
        write!(f, "{target}: {reason}\n  {origin}; keep this input in tests/corpus/{target}/:\n  {shown}")
    }
}

/// What the target says of the input; a broken promise, a panic or an endless wait is the error.
pub(super) fn judge(target: &Target, input: &[u8]) -> Result<Verdict, String> {
    let began = Instant::now();
    let verdict = catch_unwind(AssertUnwindSafe(|| (target.check)(input))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
        Err(format!("it panicked: {text}"))
    })?;
    let took = began.elapsed();
    if took > PATIENCE {
        return Err(format!("it took {took:?} for {} bytes", input.len()));
    }
    Ok(verdict)
}

/// Leaves out ever smaller parts as long as some promise stays broken.
fn shortened(target: &Target, input: &[u8]) -> Vec<u8> {
    let mut shortest = input.to_vec();
    let mut part = shortest.len() / 2;
    let mut tries = 0;
    while part > 0 && tries < TRIES {
        let mut at = 0;
        while at < shortest.len() && tries < TRIES {
            let mut shorter = shortest.clone();
            shorter.drain(at..(at + part).min(shortest.len()));
            tries += 1;
            if judge(target, &shorter).is_err() {
                shortest = shorter;
            } else {
                at += part;
            }
        }
        part /= 2;
    }
    shortest
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROKEN: Target = Target {
        name: "broken",
        promise: "",
        check: |input| {
            assert!(!input.windows(2).any(|pair| pair == b"XY"), "found it");
            Ok(Verdict::Taken)
        },
        words: &[],
    };

    #[test]
    fn a_panic_is_a_failure_and_its_input_is_made_as_short_as_it_gets() {
        let failure = Failure::found(&BROKEN, 7, b"aaaaaaaaaaaaaaaaaXYbbbbbbbbbbbbbbbbbb", String::new());
        assert_eq!(failure.input, b"XY");
        let told = failure.to_string();
        assert!(told.contains("it panicked: found it") && told.contains("seed 7"), "{told}");
    }
}
