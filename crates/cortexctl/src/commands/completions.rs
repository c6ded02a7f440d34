//! `cortexctl completions SHELL`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{
    cli::{Ending, Failure, Line, Outcome},
    output::Output,
};

/// For which shell.
#[derive(Args)]
pub struct Arguments {
    /// The shell.
    shell: Shell,
}

/// Prints the completions.
pub fn run(arguments: &Arguments, out: &mut Output) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut Line::command(), "cortexctl", &mut text);
    out.text(&String::from_utf8(text).map_err(Failure::other)?)?;
    Ok(Ending::Ok)
}
