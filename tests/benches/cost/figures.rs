//! What was measured, as a table and as JSON.

use std::{fs, path::PathBuf, time::Duration};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

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
    /// What the design asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl Figures {
    /// Notes a figure.
    pub(crate) fn note(&mut self, bench: &'static str, what: impl Into<String>, value: f64, unit: &'static str) {
        self.0.push(Figure { bench, what: what.into(), value, unit, target: None });
    }

    /// Notes a figure that has a target.
    pub(crate) fn against(
        &mut self,
        target: &str,
        bench: &'static str,
        what: impl Into<String>,
        (value, unit): (f64, &'static str),
    ) {
        self.0.push(Figure { bench, what: what.into(), value, unit, target: Some(target.to_owned()) });
    }

    /// As people read it.
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(["bench", "what", "figure", "unit", "target"]);
        for figure in &self.0 {
            let value =
                if figure.value >= 100.0 { format!("{:.0}", figure.value) } else { format!("{:.2}", figure.value) };
            table.add_row([figure.bench, &figure.what, &value, figure.unit, figure.target.as_deref().unwrap_or("")]);
        }
        if let Some(column) = table.column_mut(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    /// Writes `target/bench/cost.json`.
    pub(crate) fn write(&self) -> anyhow::Result<PathBuf> {
        let folder = scratch()?.join("bench");
        fs::create_dir_all(&folder)?;
        let file = folder.join("cost.json");
        fs::write(&file, serde_json::to_vec_pretty(&self.0)?)?;
        Ok(file)
    }
}

/// The build's own folder: a disk like that of the sources, not a `/tmp` in memory.
pub(crate) fn scratch() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.ancestors().find(|folder| folder.ends_with("target"));
    Ok(target.map_or_else(std::env::temp_dir, std::path::Path::to_path_buf))
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
