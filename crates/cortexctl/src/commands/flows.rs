//! `cortexctl flows list|show|watch|cancel|resume|approve`

use clap::Subcommand;
use messages::{
    query::{Accepted, FlowView, RefusalKind},
    subject::Party,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    cli::{Connection, Ending, Failure, Outcome},
    client::{self, Client},
    output::Output,
    watch as watching,
};

/// What to do with flows.
#[derive(Subcommand)]
pub enum Command {
    /// Flows, newest first.
    List,
    /// One flow with the runs of both contractors and their steps.
    Show {
        /// The flow.
        flow: Uuid,
    },
    /// Follow a flow until it ends.
    Watch {
        /// The flow.
        flow: Uuid,
    },
    /// Cancel a flow: running steps end, then the failure policy.
    Cancel {
        /// The flow.
        flow: Uuid,
    },
    /// Let the paused and stuck runs of a flow go on.
    Resume {
        /// The flow.
        flow: Uuid,
    },
    /// Consent to the plan that a flow waits with.
    Approve {
        /// The flow.
        flow: Uuid,
        /// The plan's hash, as it was shown.
        #[arg(long)]
        plan_hash: String,
    },
}

/// Does it.
pub async fn run(command: Command, connection: &Connection, out: &mut Output) -> Outcome {
    let client = connection.connect().await?;
    match command {
        Command::List => {
            let flows: Vec<FlowView> = client.query(Party::Infrastructure, "flows.list", json!({})).await?;
            out.rows(&flows, &["flow", "kind", "cluster", "state", "source", "started", "ended", "reason"])?;
            Ok(Ending::Ok)
        }
        Command::Show { flow } => show(&client, flow, out).await,
        Command::Watch { flow } => watch(&client, flow, out).await,
        Command::Cancel { flow } => cancel(&client, flow, out).await,
        Command::Resume { flow } => {
            for at in [Party::Infrastructure, Party::Talos] {
                let _: Value = client.command(at, "flows.resume", json!({ "flow": flow })).await?;
            }
            out.note(&format!("flow {flow} goes on"));
            Ok(Ending::Ok)
        }
        Command::Approve { flow, plan_hash } => {
            let arguments = json!({ "flow": flow, "plan_hash": plan_hash });
            let accepted: Accepted = client.command(Party::Infrastructure, "approve", arguments).await?;
            out.value(&accepted)?;
            Ok(Ending::Ok)
        }
    }
}

/// One flow as both contractors see it.
pub async fn of(client: &Client, flow: Uuid) -> Result<FlowView, Failure> {
    let mut whole: Option<FlowView> = None;
    for at in [Party::Infrastructure, Party::Talos] {
        match client.query::<FlowView>(at, "flows.show", json!({ "flow": flow })).await {
            Ok(view) => match &mut whole {
                Some(whole) => whole.runs.extend(view.runs),
                None => whole = Some(view),
            },
            Err(client::Error::Refused(refusal)) if refusal.kind == RefusalKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut whole = whole.ok_or_else(|| Failure::Other(format!("neither contractor knows flow {flow}")))?;
    whole.runs.sort_by_key(|run| run.started);
    Ok(whole)
}

async fn show(client: &Client, flow: Uuid, out: &mut Output) -> Outcome {
    let view = of(client, flow).await?;
    if out.is_table() {
        let mut head = view.clone();
        head.runs.clear();
        out.value(&head)?;
        for run in &view.runs {
            out.text(&format!("\n{} {} ({})", run.contractor, run.playbook, run.state))?;
            out.rows(&run.steps, &["step", "action", "state", "attempts", "started", "ended", "reason"])?;
        }
    } else {
        out.value(&view)?;
    }
    Ok(ending(&view))
}

/// Follows a flow until it ends.
pub async fn watch(client: &Client, flow: Uuid, out: &mut Output) -> Outcome {
    let tail = watching::events_from_now(client).await?;
    let view = of(client, flow).await?;
    if !matches!(view.state.as_str(), "running" | "waiting" | "undoing" | "open") {
        out.value(&view)?;
        return Ok(ending(&view));
    }
    let (ending, view) = watching::follow(client, flow, tail, |told| out.note(&told.line())).await?;
    if let Some(view) = view {
        out.note(&format!("flow {flow} {}", view.state));
    }
    Ok(ending)
}

/// Cancels a flow at both contractors.
pub async fn cancel(client: &Client, flow: Uuid, out: &mut Output) -> Outcome {
    let mut known = false;
    for at in [Party::Talos, Party::Infrastructure] {
        match client.command::<Value>(at, "flows.cancel", json!({ "flow": flow })).await {
            Ok(_) => known = true,
            Err(client::Error::Refused(refusal)) if refusal.kind == RefusalKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    if !known {
        return Err(Failure::Other(format!("neither contractor knows flow {flow}")));
    }
    out.note(&format!("flow {flow} is being cancelled"));
    Ok(Ending::Ok)
}

fn ending(view: &FlowView) -> Ending {
    match view.state.as_str() {
        "failed" | "cancelled" => Ending::Failed,
        "paused" | "stuck" => Ending::NeedsOperator,
        _ => Ending::Ok,
    }
}
