//! Data on standard output as table, JSON or YAML; everything else on standard error.

use std::io::Write;

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::Value;

use crate::cli::Failure;

/// How data looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

/// Where data goes.
pub struct Output {
    format: Format,
}

impl Output {
    /// Data in `format` on standard output.
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    /// Whether people look at it.
    pub fn is_table(&self) -> bool {
        self.format == Format::Table
    }

    /// Whether it is JSON.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Writes rows: the named fields as a table, or everything as JSON or YAML.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn rows<T: Serialize>(&mut self, rows: &[T], columns: &[&str]) -> Result<(), Failure> {
        if self.format != Format::Table {
            return self.value(&rows);
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(columns.iter().map(|column| column.to_uppercase().replace('_', " ")));
        for row in rows {
            let row = serde_json::to_value(row).map_err(Failure::other)?;
            table.add_row(columns.iter().map(|column| cell(row.get(*column))));
        }
        self.text(&table.trim_fmt())
    }

    /// Writes one value: as YAML for people, or as asked.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn value<T: Serialize>(&mut self, value: &T) -> Result<(), Failure> {
        let text = match self.format {
            Format::Json => serde_json::to_string_pretty(value).map_err(Failure::other)?,
            Format::Yaml | Format::Table => serde_saphyr::to_string(value).map_err(Failure::other)?,
        };
        self.text(text.trim_end())
    }

    /// Writes a JSON document: as JSON, unless YAML is asked for.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn document<T: Serialize>(&mut self, document: &T) -> Result<(), Failure> {
        if self.format == Format::Yaml {
            return self.value(document);
        }
        self.text(&serde_json::to_string_pretty(document).map_err(Failure::other)?)
    }

    /// Writes one value of a stream of them: JSON lines, or YAML documents.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn item<T: Serialize>(&mut self, value: &T) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.text(&serde_json::to_string(value).map_err(Failure::other)?),
            Format::Yaml | Format::Table => {
                let text = serde_saphyr::to_string(value).map_err(Failure::other)?;
                self.text(&format!("---\n{}", text.trim_end()))
            }
        }
    }

    /// Writes text as it is.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn text(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(std::io::stdout().lock(), "{text}").map_err(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::Closed,
            _ => Failure::other(error),
        })
    }

    /// Tells people something that is not data.
    pub fn note(&self, text: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(","),
        Some(other) => other.to_string(),
    }
}
