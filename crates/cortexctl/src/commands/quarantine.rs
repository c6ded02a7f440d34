//! `cortexctl quarantine list|lift`

use clap::Subcommand;
use messages::subject::Party;
use serde_json::{Value, json};

use crate::{
    cli::{Connection, Ending, Outcome},
    output::Output,
};

/// What to do with what is kept from use.
#[derive(Subcommand)]
pub enum Command {
    /// Everything that is kept from use, with the reason.
    List,
    /// Give it back to use; look first that nothing else has it.
    Lift {
        /// What, as the list names it: `vmid/104`, `address/192.168.1.20`.
        what: String,
    },
}

/// Does it.
pub async fn run(command: Command, connection: &Connection, out: &mut Output) -> Outcome {
    let client = connection.connect().await?;
    match command {
        Command::List => {
            let rows = client.list(Party::Infrastructure, "quarantine.list", json!({})).await?;
            out.rows(&rows, &["what", "since", "reason"])?;
        }
        Command::Lift { what } => {
            let _: Value = client.command(Party::Infrastructure, "quarantine.lift", json!({ "what": what })).await?;
            out.note(&format!("{what} may be used again"));
        }
    }
    Ok(Ending::Ok)
}
