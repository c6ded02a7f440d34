//! `cortexctl playbooks list|show|check`

use std::{collections::BTreeMap, path::PathBuf};

use clap::Subcommand;
use engine::playbook::Playbook;
use messages::{
    query::{PlaybookView, RefusalKind},
    subject::Party,
};
use serde_json::{Value, json};

use crate::{
    cli::{Connection, Ending, Failure, Outcome},
    client::{self, Client},
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
    /// Check playbook files as the contractor would that loads them: with its actions, messages and other playbooks.
    Check {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Only read the files; ask no contractor whether what they refer to is there.
        #[arg(long)]
        offline: bool,
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
        Command::Check { files, offline } => {
            let (texts, mut problems) = read(&files)?;
            if problems.is_empty() && !offline {
                problems = ask(&connection.connect().await?, &texts).await?;
            }
            if out.is_table() {
                problems.iter().try_for_each(|problem| out.text(problem))?;
            } else {
                out.value(&problems)?;
            }
            if problems.is_empty() {
                let how = if offline { "reads well" } else { "would load" };
                texts.keys().for_each(|name| out.note(&format!("{name} {how}")));
            }
            Ok(if problems.is_empty() { Ending::Ok } else { Ending::Failed })
        }
    }
}

/// The files' texts by name, and what is wrong with each by itself.
fn read(files: &[PathBuf]) -> Result<(BTreeMap<String, String>, Vec<String>), Failure> {
    let (mut texts, mut problems) = (BTreeMap::new(), Vec::new());
    for file in files {
        let shown = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| Failure::Usage(format!("{shown}: {error}")))?;
        if let Err(found) = Playbook::parse(&shown, &text) {
            problems.extend(found.0.iter().map(ToString::to_string));
        }
        texts.insert(shown, text);
    }
    Ok((texts, problems))
}

/// Whether a problem, `node.yaml:7:3: …`, is one of that file: another's name may end in it.
fn is_about(problem: &str, name: &str) -> bool {
    problem.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'))
}

/// Asks the contractor whose actions each file names; files without actions must suit one of them.
async fn ask(client: &Client, texts: &BTreeMap<String, String>) -> Result<Vec<String>, Failure> {
    let names = |text: &str, party: Party| text.contains(&format!("action: {party}."));
    let mut problems = Vec::new();
    for party in [Party::Infrastructure, Party::Talos] {
        let other = if party == Party::Talos { Party::Infrastructure } else { Party::Talos };
        let own = |text: &str| names(text, party) || !names(text, other);
        let files: BTreeMap<&String, &String> = texts.iter().filter(|(_, text)| own(text)).collect();
        if files.is_empty() {
            continue;
        }
        let told: Value = client.query(party, "playbooks.check", json!({ "files": files })).await?;
        let found = told["problems"].as_array().cloned().unwrap_or_default();
        problems.push(found.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>());
    }
    // A file that both were asked about is well where one of them has no problem with it.
    let of = |problems: &[Vec<String>], name: &str| {
        problems.iter().all(|found| found.iter().any(|problem| is_about(problem, name)))
    };
    let shared = |text: &str| names(text, Party::Infrastructure) == names(text, Party::Talos);
    let fine: Vec<&String> =
        texts.iter().filter(|(name, text)| shared(text) && !of(&problems, name)).map(|(name, _)| name).collect();
    let mut all: Vec<String> = problems.into_iter().flatten().collect();
    all.retain(|problem| !fine.iter().any(|name| is_about(problem, name)));
    all.dedup();
    Ok(all)
}
