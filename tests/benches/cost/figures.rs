//! What was measured, as a table and as JSON.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use comfy_table::{CellAlignment, Table, presets};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Symbols of a profile are longer than a line of the table; the JSON has all of them.
const WIDEST: usize = 110;

/// Everything that was measured.
#[derive(Default)]
pub(crate) struct Figures(Vec<Figure>);

/// One figure.
#[derive(Serialize)]
struct Figure {
    bench: &'static str,
    what: String,
    value: f64,
    unit: &'static str,
    /// The most that the design asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    most: Option<f64>,
    /// Whether it is no more than that.
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

impl Figures {
    /// Notes a figure.
    pub(crate) fn note(&mut self, bench: &'static str, what: impl Into<String>, value: f64, unit: &'static str) {
        self.0.push(Figure { bench, what: what.into(), value, unit, most: None, met: None });
    }

    /// Notes a figure that should be `most` at most.
    pub(crate) fn against(
        &mut self,
        most: f64,
        bench: &'static str,
        what: impl Into<String>,
        (value, unit): (f64, &'static str),
    ) {
        self.0.push(Figure { bench, what: what.into(), value, unit, most: Some(most), met: Some(value <= most) });
    }

    /// As people read it.
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(["bench", "what", "figure", "unit", "target"]);
        for figure in &self.0 {
            let value =
                if figure.value >= 100.0 { format!("{:.0}", figure.value) } else { format!("{:.2}", figure.value) };
            let what: String = figure.what.chars().take(WIDEST).collect();
            let target = match (figure.most, figure.met) {
                (Some(most), Some(true)) => format!("≤ {most}"),
                (Some(most), _) => format!("≤ {most}: MISSED"),
                (None, _) => String::new(),
            };
            table.add_row([figure.bench, &what, &value, figure.unit, &target]);
        }
        if let Some(column) = table.column_mut(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    /// Writes `target/bench/cost.json`: by name of a bench its figures, and where and when they were measured. What it
    /// says of benches that did not run this time stays.
    pub(crate) fn write(&self) -> anyhow::Result<PathBuf> {
        let target = scratch()?;
        let folder = target.join("bench");
        fs::create_dir_all(&folder)?;
        let file = folder.join("cost.json");
        let before = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let mut benches: Map<String, Value> = before.unwrap_or_default();
        let circumstances = json!({
            "commit": commit(),
            "date": Timestamp::now(),
            "cores": std::thread::available_parallelism()?,
            "profile": profile(&target)?,
            "file_system": file_system(&target),
        });
        let mut names: Vec<&str> = self.0.iter().map(|figure| figure.bench).collect();
        names.dedup();
        for name in names {
            let mut bench = circumstances.clone();
            bench["figures"] = json!(self.0.iter().filter(|figure| figure.bench == name).collect::<Vec<_>>());
            benches.insert(name.to_owned(), bench);
        }
        fs::write(&file, serde_json::to_vec_pretty(&benches)?)?;
        Ok(file)
    }
}

/// The commit that was measured, with `-dirty` where the sources differ from it.
fn commit() -> String {
    let described = Command::new("git")
        .args(["describe", "--always", "--dirty", "--exclude=*"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let described = described.ok().filter(|output| output.status.success());
    described.map_or_else(|| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The folder of the build below `target`: `release` or `debug`.
fn profile(target: &Path) -> anyhow::Result<String> {
    let own = std::env::current_exe()?;
    let below = own.strip_prefix(target).ok().and_then(|rest| rest.components().next());
    Ok(below.map_or_else(|| "unknown".to_owned(), |folder| folder.as_os_str().to_string_lossy().into_owned()))
}

/// Type of the file system that a folder is on, as Linux calls it.
fn file_system(folder: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let around = mounts.filter(|(point, _)| folder.starts_with(point));
    // The last of those with the longest path lies on top.
    around.max_by_key(|(point, _)| point.len()).map(|(_, kind)| kind.to_owned())
}

/// The build's own folder: a disk like that of the sources, not a `/tmp` in memory.
pub(crate) fn scratch() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.ancestors().find(|folder| folder.ends_with("target"));
    Ok(target.map_or_else(std::env::temp_dir, Path::to_path_buf))
}

/// The share's percentile of some times, in milliseconds.
pub(crate) fn percentile(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    let at = ((times.len().saturating_sub(1)) as f64 * share).round() as usize;
    times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}

/// CPU seconds that a process has used.
pub(crate) fn cpu_seconds(process: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, which may hold spaces, ends with the last parenthesis; user and system time are fields 14 and 15.
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: f64 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}
