//! Replays the kept inputs of every target and tries random changes of them for as long as it is told.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use tests::fuzz::{self, TARGETS};

/// Tries foreign bytes against everything that reads them.
#[derive(Parser)]
struct Options {
    /// The first seed; each changed input has its own, counted from here.
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Changed inputs for each target at most.
    #[arg(long, default_value_t = u64::MAX)]
    cases: u64,
    /// Only targets with this in their name.
    #[arg(long, default_value = "")]
    target: String,
}

fn main() -> ExitCode {
    let options = Options::parse();
    // A panic is a finding, told with its input; the standard report would be told for each try to shorten it.
    std::panic::set_hook(Box::new(|_| {}));
    let mut out = io::stdout().lock();
    let mut sound = true;
    let seed = options.seed.unwrap_or_else(rand::random);
    for target in TARGETS.iter().filter(|target| target.name.contains(&options.target)) {
        let how = fuzz::Options { seed, cases: options.cases, time: Duration::from_secs(options.seconds) };
        let told = match fuzz::run(target, how) {
            Ok(tried) => format!(
                "{:<16} seed {seed}: {} kept, {} changed, {} of them read, {:.1} s",
                target.name,
                tried.kept,
                tried.changed,
                tried.taken,
                tried.took.as_secs_f64()
            ),
            Err(error) => {
                sound = false;
                format!("{error:#}")
            }
        };
        // Nothing is left to do when even this cannot be written.
        let _ = writeln!(out, "{told}");
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
