//! `cortexctl cluster create|scale|decommission|list|show|status`

use std::{
    io::{BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use messages::{
    catalogue::Family,
    query::{Accepted, PlanView, RefusalKind},
    schema,
    subject::Party,
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    cli::{Connection, Ending, Failure, Outcome},
    client::{self, Client, Submission},
    document, moxxie,
    output::Output,
    plan, status, watch as watching,
};

/// What to do with clusters.
#[derive(Subcommand)]
pub enum Command {
    /// Create a cluster.
    Create(Create),
    /// Give a pool another number of nodes.
    Scale(Scale),
    /// Take a cluster away with everything it holds.
    Decommission(Decommission),
    /// All clusters.
    List,
    /// What is known of a cluster.
    Show {
        /// Its name.
        name: String,
    },
    /// How a cluster is, asked of it now: VMs, hosts, Talos, etcd, Kubernetes, system pods.
    Status {
        /// Its name.
        name: String,
    },
}

/// How to go about it.
#[derive(Args, Clone, Copy)]
pub struct Manner {
    /// Show the plan of both contractors and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Follow the flow until it ends.
    #[arg(long, short)]
    watch: bool,
}

/// `cluster create`
#[derive(Args)]
pub struct Create {
    /// File with a provision_cluster request (YAML or JSON), or with a Moxxie request, which is translated; - is
    /// standard input.
    #[arg(short, long, conflicts_with = "name")]
    file: Option<PathBuf>,
    /// The cluster's name.
    #[arg(long)]
    name: Option<String>,
    /// ha, single, edge or hybrid.
    #[arg(long, requires = "name")]
    pattern: Option<String>,
    /// Number of control planes.
    #[arg(long, requires = "name")]
    control_planes: Option<u32>,
    /// Number of workers.
    #[arg(long, requires = "name")]
    workers: Option<u32>,
    #[command(flatten)]
    manner: Manner,
}

/// `cluster scale`
#[derive(Args)]
pub struct Scale {
    /// The cluster.
    name: String,
    /// The pool.
    #[arg(long, default_value = "worker")]
    pool: String,
    /// How many nodes it should have.
    #[arg(long)]
    count: u32,
    /// Consent to the plan without being asked.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    manner: Manner,
}

/// `cluster decommission`
#[derive(Args)]
pub struct Decommission {
    /// The cluster.
    name: String,
    /// Why, for the record.
    #[arg(long)]
    reason: Option<String>,
    /// Consent to the plan without being asked.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    manner: Manner,
}

/// Does it.
pub async fn run(command: Command, connection: &Connection, out: &mut Output) -> Outcome {
    match command {
        Command::Create(create) => {
            let body = create_body(&create, out)?;
            let client = connection.connect().await?;
            ask(&client, "provision_cluster", body, create.manner, true, out).await
        }
        Command::Scale(scale) => {
            let body = json!({ "cluster_name": scale.name, "pool": scale.pool, "count": scale.count });
            let client = connection.connect().await?;
            ask(&client, "scale_request", body, scale.manner, scale.yes, out).await
        }
        Command::Decommission(decommission) => {
            let mut body = json!({ "cluster_name": decommission.name });
            if let Some(reason) = decommission.reason {
                body["reason"] = reason.into();
            }
            let client = connection.connect().await?;
            ask(&client, "decommission_request", body, decommission.manner, decommission.yes, out).await
        }
        Command::List => {
            let client = connection.connect().await?;
            let rows = client.list(Party::Infrastructure, "clusters.list", json!({})).await?;
            out.rows(&rows, &["cluster", "state", "endpoint", "control_planes", "workers", "talos", "created"])?;
            Ok(Ending::Ok)
        }
        Command::Show { name } => show(&connection.connect().await?, &name, out).await,
        Command::Status { name } => status(&connection.connect().await?, &name, out).await,
    }
}

/// A cluster that one contractor does not know (yet, or any more) still has a status.
async fn status(client: &Client, name: &str, out: &mut Output) -> Outcome {
    let machines: Value = client.query(Party::Infrastructure, "clusters.status", json!({ "cluster": name })).await?;
    let asked = client.query::<Value>(Party::Talos, "clusters.status", json!({ "cluster": name })).await;
    let cluster = match asked {
        Ok(cluster) => cluster,
        Err(client::Error::Refused(refusal)) => json!({ "error": refusal.message }),
        Err(error) => return Err(error.into()),
    };
    let healthy = cluster.get("status").and_then(Value::as_str) == Some("healthy");
    if out.is_table() {
        status::print(&machines, &cluster, out)?;
    } else {
        out.value(&json!({ "machines": machines, "cluster": cluster }))?;
    }
    Ok(if healthy { Ending::Ok } else { Ending::Failed })
}

/// What both contractors know; one of them may not know it (yet, or any more).
async fn show(client: &Client, name: &str, out: &mut Output) -> Outcome {
    let mut whole = Map::new();
    for at in [Party::Infrastructure, Party::Talos] {
        match client.query::<Value>(at, "clusters.show", json!({ "cluster": name })).await {
            Ok(part) => drop(whole.insert(at.to_string(), part)),
            Err(client::Error::Refused(refusal)) if refusal.kind == RefusalKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    if whole.is_empty() {
        return Err(Failure::Other(format!("neither contractor knows a cluster {name}")));
    }
    out.value(&whole)?;
    Ok(Ending::Ok)
}

fn create_body(create: &Create, out: &Output) -> Result<Value, Failure> {
    let body = match (&create.file, &create.name) {
        (Some(file), _) => read_request(file, out)?,
        (None, Some(name)) => {
            let mut body = json!({ "request_type": "provision_cluster", "cluster_name": name });
            let fields = [
                ("pattern", create.pattern.clone().map(Value::from)),
                ("control_plane_nodes", create.control_planes.map(Value::from)),
                ("worker_nodes", create.workers.map(Value::from)),
            ];
            for (field, value) in fields {
                if let Some(value) = value {
                    body[field] = value;
                }
            }
            body
        }
        (None, None) => return Err(Failure::Usage("either --file or --name must be given".into())),
    };
    if let Err(violations) = schema::validate(Family::Request, "provision_cluster", &body) {
        let lines: Vec<String> = violations.iter().map(|violation| format!("  {violation}")).collect();
        return Err(Failure::Usage(format!("the request does not validate:\n{}", lines.join("\n"))));
    }
    Ok(body)
}

fn read_request(file: &Path, out: &Output) -> Result<Value, Failure> {
    let (body, _) = document::read(file)?;
    if !moxxie::recognises(&body) {
        return Ok(body);
    }
    match moxxie::translate(&body) {
        Ok(request) => {
            out.note("translated from a Moxxie request; what it does not name is as for pattern ha: storage_backend longhorn");
            Ok(request)
        }
        Err(refused) => {
            let lines: Vec<String> = refused.iter().map(|refused| format!("  {refused}")).collect();
            Err(Failure::Usage(format!("the Moxxie request cannot be translated:\n{}", lines.join("\n"))))
        }
    }
}

async fn ask(client: &Client, name: &str, mut body: Value, manner: Manner, consent: bool, out: &mut Output) -> Outcome {
    if manner.dry_run {
        let shown = client.plan(Party::Infrastructure, name, &body).await?;
        show_plan(&shown, out)?;
        return Ok(Ending::Ok);
    }
    if name != "provision_cluster" {
        let plan = client.plan(Party::Infrastructure, name, &body).await?;
        if plan.needs_approval {
            if !consent && !prompt(&plan, out)? {
                return Err(Failure::Other("not approved; nothing was done".into()));
            }
            body["approval"] = json!({ "plan_hash": plan.plan_hash });
        }
    }
    let flow = Uuid::now_v7();
    let tail = if manner.watch { Some(watching::events_from_now(client).await?) } else { None };
    let submission = client.submit(Party::Infrastructure, name, flow, &body).await?;
    match &submission {
        Submission::Accepted(_) if manner.watch && !out.is_table() => {}
        Submission::Accepted(accepted) => show_accepted(accepted, out)?,
        Submission::AwaitsApproval { flow, plan } => {
            show_plan(plan, out)?;
            out.note(&format!(
                "flow {flow} waits for approval: cortexctl flows approve {flow} --plan-hash {}",
                plan.plan_hash
            ));
            return Ok(Ending::NeedsOperator);
        }
    }
    let Some(tail) = tail else { return Ok(Ending::Ok) };
    watching::to_the_end(client, submission.flow(), tail, out).await
}

fn show_accepted(accepted: &Accepted, out: &mut Output) -> Result<(), Failure> {
    if out.is_table() {
        return out.text(&accepted.flow.to_string());
    }
    out.value(accepted)
}

fn show_plan(plan: &PlanView, out: &mut Output) -> Result<(), Failure> {
    if !out.is_table() {
        return out.value(plan);
    }
    out.text(&plan::text(plan))
}

fn prompt(plan: &PlanView, out: &Output) -> Result<bool, Failure> {
    out.note(&plan::text(plan));
    if !std::io::stdin().is_terminal() {
        return Err(Failure::NeedsOperator("this needs consent: --yes, or a terminal to ask on".into()));
    }
    let _ = write!(std::io::stderr().lock(), "Go ahead? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(Failure::other)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
