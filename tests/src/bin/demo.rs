//! The main job on the embedded defaults: a cluster is asked for, made, looked at.

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::demo::main()
}
