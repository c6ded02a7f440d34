//! The programs of this workspace, built once per process, as separate processes need them.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

use crate::process;

/// Every program that the world is made of.
const PACKAGES: [&str; 5] = ["tests", "infrastructure-contractor", "talos-contractor", "simulators", "cortexctl"];

/// Where a program is; builds all of them at the first call.
///
/// # Errors
/// If the build fails.
pub fn path(name: &str) -> anyhow::Result<PathBuf> {
    let path = make(&CancellationToken::new())?.join(name);
    if !path.is_file() {
        bail!("{} was not built", path.display());
    }
    Ok(path)
}

/// Builds all of them, if that was not done yet, and says where they are. They share profile and features with this
/// program, so that a fresh machine builds everything once.
///
/// # Errors
/// If the build fails or is interrupted.
pub fn make(stop: &CancellationToken) -> anyhow::Result<&'static Path> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| build(stop).map_err(|error| format!("{error:#}")));
    folder.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn build(stop: &CancellationToken) -> anyhow::Result<PathBuf> {
    let folder = folder()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).args(["build", "--bins"]);
    // The first build takes many minutes: whoever looks at it sees it work.
    if !std::io::stderr().is_terminal() {
        command.arg("--quiet");
    }
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(describes_this_program) {
            command.env_remove(name);
        }
    }
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    if folder.ends_with("release") {
        command.arg("--release");
    }
    if let Some(target) = folder.parent() {
        command.arg("--target-dir").arg(target);
    }
    let (status, _) = process::run(&mut command, stop).context("cargo cannot be run")?;
    if !status.success() {
        bail!("the programs could not be built");
    }
    Ok(folder)
}

/// Whether cargo set the variable to describe the program that it started. The build script of `ring` is run again when
/// one of these changes, and with it everything above TLS would be compiled again, here and then by the next cargo.
fn describes_this_program(variable: &str) -> bool {
    variable.starts_with("CARGO_PKG_") || variable.starts_with("CARGO_MANIFEST_")
}

/// The folder of this program, `target/debug`.
fn folder() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().context("this program is in no folder")?;
    Ok(if folder.ends_with("deps") { folder.parent().unwrap_or(folder).to_owned() } else { folder.to_owned() })
}
