//! What it costs that nothing is lost: `cargo bench -p tests [-- NAME …]` prints a table and writes `target/bench/cost.json`.
//!
//! Names: engine, handoff, daemons, deployment, fleet. Absolute figures are of one machine; compare ratios within one run. The
//! file keeps what was measured earlier by benches that do not run this time, each with its commit, date and machine.
#![expect(clippy::print_stdout, reason = "a bench prints its table")]

mod daemons;
mod deployment;
mod engine;
mod figures;
mod fleet;
mod handoff;
mod profile;
mod stub;

use std::process::ExitCode;

use figures::Figures;

type Bench = fn(&mut Figures) -> anyhow::Result<()>;

const BENCHES: [(&str, Bench); 5] = [
    ("engine", engine::measure),
    ("handoff", handoff::measure),
    ("daemons", daemons::measure),
    ("deployment", deployment::measure),
    ("fleet", fleet::measure),
];

fn main() -> ExitCode {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        println!("a TLS provider was installed before");
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let unknown = wanted.iter().find(|name| BENCHES.iter().all(|(known, _)| known != name));
    if let Some(unknown) = unknown {
        println!("there is no bench {unknown}; there are {}", BENCHES.map(|(name, _)| name).join(", "));
        return ExitCode::from(2);
    }
    let mut figures = Figures::default();
    let mut ending = ExitCode::SUCCESS;
    for (name, bench) in BENCHES {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        println!("{name} …");
        if let Err(error) = bench(&mut figures) {
            println!("{name} came to nothing: {error:#}");
            ending = ExitCode::FAILURE;
        }
    }
    println!("{}", figures.table());
    match figures.write() {
        Ok(file) => println!("{}", file.display()),
        Err(error) => println!("the figures could not be written: {error:#}"),
    }
    ending
}
