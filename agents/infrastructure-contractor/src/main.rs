//! Starts the daemon.

fn main() -> std::process::ExitCode {
    contractor::cli::main::<infrastructure_contractor::app::App>()
}
