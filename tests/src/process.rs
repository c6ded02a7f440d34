//! A child process with a log file: killed when dropped, killed and started again when a test says so.

use std::{
    fs,
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

use crate::{guardian, interruption::Interrupted};

/// A program that runs beside this one.
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// A program that is not started yet; what it says goes to `<folder>/<name>.log`.
    pub fn new(name: &str, program: &Path, arguments: Vec<String>, folder: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments,
            environment: Vec::new(),
            log: folder.join(format!("{name}.log")),
            child: None,
        }
    }

    /// The same program with an environment variable.
    #[must_use]
    pub fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it. Its standard output is handed back where `piped`, else it goes to the log too.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&mut self, piped: bool) -> anyhow::Result<Option<std::process::ChildStdout>> {
        let log = fs::File::options().create(true).append(true).open(&self.log)?;
        let output = if piped { Stdio::piped() } else { Stdio::from(log.try_clone()?) };
        let mut command = Command::new(&self.program);
        // A group of its own: Ctrl-C is for the parent, which ends its children in order.
        command.args(&self.arguments).stdin(Stdio::null()).stdout(output).stderr(log).process_group(0);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let child = command.spawn().with_context(|| format!("{} does not start", self.program.display()))?;
        guardian::guard(child.id());
        Ok(self.child.insert(child).stdout.take())
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(&mut self) {
        if let Some(child) = &mut self.child.take() {
            kill(child);
        }
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// If it does not end within `patience`.
    pub fn stop(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let child = self.child.as_mut().with_context(|| format!("{} does not run", self.name))?;
        let status =
            stop(child, patience)?.with_context(|| format!("{} did not end within {patience:?}", self.name))?;
        self.child = None;
        Ok(status)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| ended(child).ok().flatten())
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.is_some() && self.stop(Duration::from_secs(3)).is_err() {
            self.kill();
        }
    }
}

/// Asks a child to end and waits for that; `None` if it has not ended within `patience`.
///
/// # Errors
/// If it cannot be asked.
pub fn stop(child: &mut Child, patience: Duration) -> anyhow::Result<Option<ExitStatus>> {
    signal(child.id(), "TERM")?;
    let give_up = Instant::now() + patience;
    loop {
        let ended = ended(child)?;
        if ended.is_some() || Instant::now() > give_up {
            return Ok(ended);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ends a child at once.
pub fn kill(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
    guardian::release(child.id());
}

/// How a child ended, if it has.
pub fn ended(child: &mut Child) -> std::io::Result<Option<ExitStatus>> {
    let status = child.try_wait()?;
    if status.is_some() {
        guardian::release(child.id());
    }
    Ok(status)
}

/// Runs a program to its end, or until nobody wants that any more: then it ends with all that it started. Returns what
/// it said on its standard error, if that is a pipe.
///
/// # Errors
/// If it does not start, or was interrupted.
pub fn run(command: &mut Command, stop: &CancellationToken) -> anyhow::Result<(ExitStatus, String)> {
    // A group of its own: Ctrl-C is for this program, and what the child starts can be ended with it.
    let mut child = command.stdin(Stdio::null()).process_group(0).spawn()?;
    let said = child.stderr.take().map(|mut pipe| {
        std::thread::spawn(move || {
            let mut said = Vec::new();
            // What was read until an error came is as good as it gets.
            let _ = pipe.read_to_end(&mut said);
            String::from_utf8_lossy(&said).into_owned()
        })
    });
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if stop.is_cancelled() {
            end_group(&mut child);
            return Err(Interrupted.into());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    Ok((status, said.and_then(|said| said.join().ok()).unwrap_or_default()))
}

/// Ends a child that leads a process group, with that group.
fn end_group(child: &mut Child) {
    let give_up = Instant::now() + Duration::from_secs(5);
    let group = format!("-{}", child.id());
    for name in ["-TERM", "-KILL"] {
        // It may have ended by itself a moment ago.
        let _ = Command::new("kill").args([name, "--", &group]).stderr(Stdio::null()).status();
        while Instant::now() < give_up && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let _ = child.wait();
}

/// Resident memory of a process in KiB, now and at most.
///
/// # Errors
/// If it is gone.
pub fn memory(process: u32) -> anyhow::Result<[u64; 2]> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a process has memory")?;
        anyhow::Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
    };
    Ok([of("VmRSS:")?, of("VmHWM:")?])
}

/// Sends a signal by the system's own program: this workspace forbids unsafe code.
pub fn signal(process: u32, name: &str) -> anyhow::Result<()> {
    let status = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status()?;
    if status.success() { Ok(()) } else { bail!("kill -{name} {process} failed") }
}
