//! The kept inputs of every fuzz target, and a bounded number of changes of them; `cargo run -p tests --bin fuzz` tries more.

use std::time::Duration;

use tests::fuzz::{self, Options, TARGETS};

/// With the same seed each time, so that a change is judged by what it changes; `FUZZ_SEED` takes another.
#[test]
fn foreign_bytes_break_no_promise() {
    let seed = std::env::var("FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("FUZZ_SEED={seed}");
    let options = Options { seed, cases: 400, time: Duration::from_secs(4) };
    for target in TARGETS {
        match fuzz::run(target, options) {
            Ok(tried) => println!("{}: {tried:?}", target.name),
            Err(error) => panic!("FUZZ_SEED={seed}: {error:#}\n  promised: {}", target.promise),
        }
    }
}
