//! The simulated datacenter as a program of its own.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    simulators::lab::main(std::env::args()).await
}
