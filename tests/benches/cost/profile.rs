//! Where the processes spend their time, function by function, where `perf` is installed and may sample the whole machine.
//!
//! It samples every core 49 times a second and tells the processes apart afterwards. Sampling the processes by their ids would
//! cost more than a third of what is measured: `perf` then polls a buffer for each thread and core.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use tests::{process, program};

use crate::figures::Figures;

const NAME: &str = "profile";
/// Functions that are shown of each process.
const TOP: usize = 15;
/// How long `perf` may take to write what it has.
const PATIENCE: Duration = Duration::from_secs(60);

/// Samples that are being taken of processes.
pub(crate) struct Profile {
    perf: Child,
    samples: PathBuf,
    /// By name.
    processes: Vec<(&'static str, u32)>,
}

impl Profile {
    /// Begins to take samples; none where there is no `perf`, which is said.
    pub(crate) fn begin(folder: &Path, processes: Vec<(&'static str, u32)>) -> anyhow::Result<Option<Self>> {
        let Some(perf) = program::which("perf") else {
            println!("perf is not installed");
            return Ok(None);
        };
        let samples = folder.join("perf.data");
        let perf = Command::new(perf)
            .args(["record", "--freq", "49", "--all-cpus", "--output"])
            .arg(&samples)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Some(Self { perf, samples, processes }))
    }

    /// Takes no more samples and notes the functions with the most of them, each as a share of its process's samples.
    pub(crate) fn finish(mut self, figures: &mut Figures, during: &str) -> anyhow::Result<()> {
        process::stop(&mut self.perf, PATIENCE)?.context("perf does not end")?;
        for (name, id) in &self.processes {
            let report = self.report(*id)?;
            if report.is_empty() {
                println!(
                    "perf took no samples of {name}; to sample all cores, kernel.perf_event_paranoid must be 0 or less"
                );
            }
            for (share, thread, function) in report {
                figures.note(NAME, format!("{during}: {name}: {thread}: {function}"), share, "%");
            }
        }
        Ok(())
    }

    fn report(&self, process: u32) -> anyhow::Result<Vec<(f64, String, String)>> {
        let output = Command::new("perf")
            .args(["report", "--stdio", "--no-children", "--percentage", "relative", "--field-separator", "|"])
            .args(["--sort", "comm,symbol", "--pid", &process.to_string(), "--input"])
            .arg(&self.samples)
            .stdin(Stdio::null())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter_map(line).take(TOP).collect())
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        process::kill(&mut self.perf);
    }
}

/// `31.48% |tokio-rt-worker|[.] serde_json::ser::to_string |-      -`: share, thread, function.
fn line(text: &str) -> Option<(f64, String, String)> {
    let mut columns = text.split('|').map(str::trim);
    let share = columns.next()?.strip_suffix('%')?.parse().ok()?;
    let (thread, symbol) = (columns.next()?, columns.next()?);
    // `[.]` is the program's own, `[k]` the kernel's.
    let function = symbol.strip_prefix("[.] ").unwrap_or(symbol);
    Some((share, thread.to_owned(), function.trim().to_owned()))
}
