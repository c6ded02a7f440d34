//! `cortexctl runs list|show|watch|cancel|resume`

use clap::Subcommand;
use messages::{
    query::{RefusalKind, RunView},
    subject::Party,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::flows;
use crate::{
    cli::{Connection, Ending, Failure, Outcome},
    client::{self, Client},
    output::Output,
};

/// What to do with runs.
#[derive(Subcommand)]
pub enum Command {
    /// Runs of both contractors, newest first.
    List {
        /// Only of this flow.
        #[arg(long)]
        flow: Option<Uuid>,
        /// Only of this cluster.
        #[arg(long)]
        cluster: Option<String>,
        /// Only in this state.
        #[arg(long)]
        state: Option<String>,
    },
    /// One run with its steps.
    Show {
        /// The run.
        run: Uuid,
    },
    /// Follow the flow of a run until it ends.
    Watch {
        /// The run.
        run: Uuid,
    },
    /// Cancel the flow of a run.
    Cancel {
        /// The run.
        run: Uuid,
    },
    /// Let a paused or stuck run go on.
    Resume {
        /// The run.
        run: Uuid,
    },
}

/// Does it.
pub async fn run(command: Command, connection: &Connection, out: &mut Output) -> Outcome {
    let client = connection.connect().await?;
    match command {
        Command::List { flow, cluster, state } => {
            let arguments = json!({ "flow": flow, "cluster": cluster, "state": state });
            let mut all = Vec::new();
            for at in [Party::Infrastructure, Party::Talos] {
                all.extend(client.query::<Vec<RunView>>(at, "runs.list", arguments.clone()).await?);
            }
            all.sort_by_key(|run| std::cmp::Reverse(run.started));
            out.rows(&all, &["run", "contractor", "playbook", "cluster", "state", "started", "reason"])?;
            Ok(Ending::Ok)
        }
        Command::Show { run } => {
            let (_, view) = find(&client, run).await?;
            if out.is_table() {
                let mut head = view.clone();
                head.steps.clear();
                out.value(&head)?;
                out.rows(&view.steps, &["step", "action", "state", "attempts", "started", "ended", "reason"])?;
            } else {
                out.value(&view)?;
            }
            Ok(if matches!(view.state.as_str(), "paused" | "stuck") { Ending::NeedsOperator } else { Ending::Ok })
        }
        Command::Watch { run } => {
            let (_, view) = find(&client, run).await?;
            flows::watch(&client, view.flow, out).await
        }
        Command::Cancel { run } => {
            let (_, view) = find(&client, run).await?;
            flows::cancel(&client, view.flow, out).await
        }
        Command::Resume { run } => {
            let (at, _) = find(&client, run).await?;
            let _: Value = client.command(at, "runs.resume", json!({ "run": run })).await?;
            out.note(&format!("run {run} goes on"));
            Ok(Ending::Ok)
        }
    }
}

async fn find(client: &Client, run: Uuid) -> Result<(Party, RunView), Failure> {
    for at in [Party::Infrastructure, Party::Talos] {
        match client.query::<RunView>(at, "runs.show", json!({ "run": run })).await {
            Ok(view) => return Ok((at, view)),
            Err(client::Error::Refused(refusal)) if refusal.kind == RefusalKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::Other(format!("neither contractor knows run {run}")))
}
