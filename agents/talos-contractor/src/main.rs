//! Starts the daemon.

use std::process::ExitCode;

use talos_contractor::app::TalosContractor;

fn main() -> ExitCode {
    contractor::cli::main::<TalosContractor>()
}
