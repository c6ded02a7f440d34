//! The operator's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    cortexctl::cli::main()
}
