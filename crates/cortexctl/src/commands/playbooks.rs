//! `cortexctl playbooks list|show|check`

use std::path::PathBuf;

use clap::Subcommand;
use engine::playbook::Playbook;
use messages::{
    query::{PlaybookView, RefusalKind},
    subject::Party,
};
use serde_json::json;

use crate::{
    cli::{Connection, Ending, Failure, Outcome},
    client,
    output::Output,
};

/// What to do with playbooks.
#[derive(Subcommand)]
pub enum Command {
    /// The playbooks that the contractors have loaded.
    List,
    /// The text of one.
    Show {
        /// Its name.
        name: String,
    },
    /// Read playbook files strictly. What they refer to is checked by the contractor that loads them.
    Check {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

/// Does it.
pub async fn run(command: Command, connection: &Connection, out: &mut Output) -> Outcome {
    match command {
        Command::List => {
            let client = connection.connect().await?;
            let mut all = Vec::new();
            for at in [Party::Infrastructure, Party::Talos] {
                all.extend(client.query::<Vec<PlaybookView>>(at, "playbooks.list", json!({})).await?);
            }
            out.rows(&all, &["playbook", "version", "contractor", "trigger", "steps"])?;
            Ok(Ending::Ok)
        }
        Command::Show { name } => {
            let client = connection.connect().await?;
            for at in [Party::Infrastructure, Party::Talos] {
                match client.query::<PlaybookView>(at, "playbooks.show", json!({ "playbook": name })).await {
                    Ok(view) if out.is_table() => {
                        out.text(view.text.unwrap_or_default().trim_end())?;
                        return Ok(Ending::Ok);
                    }
                    Ok(view) => {
                        out.value(&view)?;
                        return Ok(Ending::Ok);
                    }
                    Err(client::Error::Refused(refusal)) if refusal.kind == RefusalKind::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(Failure::Other(format!("no contractor has a playbook {name}")))
        }
        Command::Check { files } => check(&files, out),
    }
}

fn check(files: &[PathBuf], out: &mut Output) -> Outcome {
    let mut sound = true;
    for file in files {
        let shown = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| Failure::Usage(format!("{shown}: {error}")))?;
        match Playbook::parse(&shown, &text) {
            Ok(playbook) => out.note(&format!("{shown}: {} v{} reads well", playbook.name.value, playbook.version)),
            Err(problems) => {
                sound = false;
                out.text(&problems.to_string())?;
            }
        }
    }
    Ok(if sound { Ending::Ok } else { Ending::Failed })
}
