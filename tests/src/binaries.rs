//! The programs of this workspace, built once per process, as separate processes need them.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, bail};

/// Every program that the world is made of.
const PACKAGES: [&str; 5] = ["tests", "infrastructure-contractor", "talos-contractor", "simulators", "cortexctl"];

/// Where a program is; builds all of them at the first call. They share profile and features with this program, so
/// that a fresh machine builds everything once.
///
/// # Errors
/// If the build fails.
pub fn path(name: &str) -> anyhow::Result<PathBuf> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    let folder = folder.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    let path = folder.join(name);
    if !path.is_file() {
        bail!("{} was not built", path.display());
    }
    Ok(path)
}

fn build() -> anyhow::Result<PathBuf> {
    let folder = folder()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).args(["build", "--quiet", "--bins"]);
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    if let Some(target) = folder.parent() {
        command.arg("--target-dir").arg(target);
    }
    let status = command.status().context("cargo cannot be started")?;
    if !status.success() {
        bail!("the programs could not be built");
    }
    Ok(folder)
}

/// The folder of this program, `target/debug`.
fn folder() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().context("this program is in no folder")?;
    Ok(if folder.ends_with("deps") { folder.parent().unwrap_or(folder).to_owned() } else { folder.to_owned() })
}
