//! `cortexctl schema list|show|validate`

use std::path::PathBuf;

use clap::Subcommand;
use messages::{
    catalogue::{self, Family},
    schema,
};
use serde_json::{Value, json};

use crate::{
    cli::{Ending, Failure, Outcome},
    document,
    output::Output,
};

/// What to do with schemas.
#[derive(Subcommand)]
pub enum Command {
    /// All messages.
    List,
    /// The schema of a message.
    Show {
        /// `provision_cluster`, or `handoff/scale_request` where a name is two.
        name: String,
    },
    /// Check a file (JSON or YAML) against the schema of the message it is.
    Validate {
        /// The file; - is standard input.
        file: PathBuf,
        /// Which message; default: what its request_type, handoff_type or event_type says.
        #[arg(long = "type")]
        kind: Option<String>,
    },
}

/// Does it.
pub fn run(command: Command, out: &mut Output) -> Outcome {
    match command {
        Command::List => {
            let rows: Vec<Value> = catalogue::all()
                .iter()
                .map(|kind| json!({ "family": kind.family.as_str(), "name": kind.name, "summary": kind.summary }))
                .collect();
            out.rows(&rows, &["family", "name", "summary"])?;
            Ok(Ending::Ok)
        }
        Command::Show { name } => {
            out.document(&schema::document(find(&name)?))?;
            Ok(Ending::Ok)
        }
        Command::Validate { file, kind } => {
            let (body, shown) = document::read(&file)?;
            let named = ["request_type", "handoff_type", "event_type"]
                .into_iter()
                .find_map(|field| body.get(field).and_then(Value::as_str).map(str::to_owned));
            let name = kind
                .or(named)
                .ok_or_else(|| Failure::Usage(format!("{shown} does not say which message it is; --type does")))?;
            let kind = find(&name)?;
            match schema::validate(kind.family, kind.name, &body) {
                Ok(()) => {
                    if !out.is_table() {
                        out.rows::<Value>(&[], &[])?;
                    }
                    out.note(&format!("{shown} is a valid {} {}", kind.family.as_str(), kind.name));
                    Ok(Ending::Ok)
                }
                Err(violations) => {
                    out.rows(&violations, &["path", "rule", "expected", "got", "did_you_mean"])?;
                    Ok(Ending::Failed)
                }
            }
        }
    }
}

fn find(name: &str) -> Result<&'static catalogue::Kind, Failure> {
    let (family, name) = match name.split_once('/') {
        Some((family, name)) => (Some(family), name),
        None => (None, name),
    };
    let order = [Family::Request, Family::Handoff, Family::Event];
    let fits = |of: &Family| family.is_none_or(|family| family == of.as_str());
    order.into_iter().filter(fits).find_map(|family| catalogue::find(family, name)).ok_or_else(|| {
        let near = schema::nearest(name, catalogue::all().iter().map(|kind| kind.name));
        let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        Failure::Usage(format!("there is no message {name}{near}"))
    })
}
