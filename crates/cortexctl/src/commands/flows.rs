//! `cortexctl flows list|show|watch|cancel|resume|approve`

use std::collections::BTreeMap;

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
    plan, watch as watching,
};

/// What to do with flows.
#[derive(Subcommand)]
pub enum Command {
    /// Flows, newest first.
    List {
        /// Only of this cluster.
        #[arg(long)]
        cluster: Option<String>,
        /// Only in this state.
        #[arg(long)]
        state: Option<String>,
        /// At most so many of each contractor: those that are open, and the newest of those that have ended.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=300))]
        limit: u16,
    },
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
        Command::List { cluster, state, limit } => {
            let mut flows = list(&client, cluster.as_deref(), limit, out).await?;
            flows.retain(|flow| state.as_ref().is_none_or(|state| flow.state == *state));
            out.rows(&flows, &["flow", "kind", "cluster", "state", "source", "started", "ended", "reason"])?;
            Ok(Ending::Ok)
        }
        Command::Show { flow } => show(&client, flow, out).await,
        Command::Watch { flow } => watch(&client, flow, out).await,
        Command::Cancel { flow } => cancel(&client, flow, out).await,
        Command::Resume { flow } => {
            let runs = order(&client, "flows.resume", flow, out).await?;
            out.note(&format!("flow {flow} goes on ({runs} resumed)"));
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
            Ok(view) => {
                whole = Some(match whole {
                    Some(whole) => whole.join(view),
                    None => view,
                });
            }
            Err(client::Error::Refused(refusal)) if refusal.kind == RefusalKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    whole.ok_or_else(|| Failure::Other(format!("neither contractor knows flow {flow}")))
}

/// Flows as both contractors see them, newest first.
async fn list(client: &Client, cluster: Option<&str>, limit: u16, out: &mut Output) -> Result<Vec<FlowView>, Failure> {
    let (mut all, mut is_cut): (BTreeMap<Uuid, FlowView>, _) = (BTreeMap::new(), false);
    for at in [Party::Infrastructure, Party::Talos] {
        let asked = json!({ "cluster": cluster, "limit": limit });
        let views = client.query::<Vec<FlowView>>(at, "flows.list", asked).await?;
        is_cut |= views.len() >= usize::from(limit);
        for view in views {
            let joined = match all.remove(&view.flow) {
                Some(known) => known.join(view),
                None => view,
            };
            all.insert(joined.flow, joined);
        }
    }
    if is_cut {
        out.note(&format!("not all flows that have ended are looked at; --limit looks at more than {limit}"));
    }
    let mut all: Vec<FlowView> = all.into_values().collect();
    all.sort_by_key(|flow| std::cmp::Reverse(flow.started));
    Ok(all)
}

async fn show(client: &Client, flow: Uuid, out: &mut Output) -> Outcome {
    let view = of(client, flow).await?;
    if out.is_table() {
        let mut head = view.clone();
        head.runs.clear();
        let waits_with = head.plan.take();
        out.value(&head)?;
        if let Some(waits_with) = waits_with {
            out.text(&format!("\n{}", plan::text(&waits_with).trim_end()))?;
        }
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
    watching::to_the_end(client, flow, tail, out).await
}

/// Cancels a flow at both contractors.
pub async fn cancel(client: &Client, flow: Uuid, out: &mut Output) -> Outcome {
    order(client, "flows.cancel", flow, out).await?;
    out.note(&format!("flow {flow} is being cancelled"));
    Ok(Ending::Ok)
}

/// Tells both contractors what is to become of a flow, and returns how many runs that is about. It is enough if one of
/// them has work of it; the other's word counts only if neither has. One that does not answer keeps nobody from telling the
/// other.
async fn order(client: &Client, what: &str, flow: Uuid, out: &Output) -> Result<usize, Failure> {
    let (mut done, mut runs, mut refused, mut missed) = (false, 0, None, None);
    for at in [Party::Talos, Party::Infrastructure] {
        match client.command::<Value>(at, what, json!({ "flow": flow })).await {
            Ok(told) => {
                done = true;
                runs += told["runs"].as_array().map_or(0, Vec::len);
            }
            Err(client::Error::Refused(refusal)) if refusal.kind == RefusalKind::NotFound => {}
            Err(client::Error::Refused(refusal)) if refusal.kind == RefusalKind::Conflict => refused = Some(refusal),
            Err(error) => missed = Some((at, error)),
        }
    }
    match (done, refused, missed) {
        (true, _, None) => Ok(runs),
        (true, _, Some((at, error))) => {
            out.note(&format!("{at}-contractor was not told: {error}"));
            Ok(runs)
        }
        (false, Some(refusal), _) => Err(client::Error::Refused(refusal).into()),
        (false, None, Some((_, error))) => Err(error.into()),
        (false, None, None) => Err(Failure::Other(format!("neither contractor knows flow {flow}"))),
    }
}

fn ending(view: &FlowView) -> Ending {
    match view.state.as_str() {
        "failed" | "cancelled" => Ending::Failed,
        "paused" | "stuck" | "awaiting_approval" => Ending::NeedsOperator,
        _ => Ending::Ok,
    }
}
