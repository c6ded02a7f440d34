//! `cargo demo`: starts the whole platform as separate processes, asks for a cluster, shows what happens.

mod summary;

pub use summary::leftovers;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bus::{Tail, identity::Identity};
use clap::{Parser, Subcommand};
use cortexctl::{
    cli::{Ending, Failure},
    client::{Client, Submission},
    watch::{self, Told, seconds},
};
use messages::subject::Party;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    interruption::{Interrupted, Interruption},
    world::{World, WorldOptions},
};

/// Shows the platform at work on a simulated datacenter, on loopback only.
#[derive(Parser)]
#[command(name = "demo")]
struct Arguments {
    #[command(subcommand)]
    story: Option<Story>,
    /// Leave everything running and say how to reach it, until Ctrl-C.
    #[arg(long, global = true)]
    keep: bool,
    /// Number of workers.
    #[arg(long, global = true)]
    nodes: Option<u32>,
    /// ha, single, edge or hybrid.
    #[arg(long, global = true, default_value = "ha")]
    pattern: String,
    /// How many times as fast as real hardware the datacenter is.
    #[arg(long, global = true, default_value_t = 20.0)]
    speed: f64,
    /// Seed of everything random in the datacenter.
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
    /// A fault of the datacenter: `pve POST /nodes/*/qemu#2=error:500:text`; may be given several times.
    #[arg(long = "fault", global = true)]
    faults: Vec<String>,
    /// Print every event.
    #[arg(long, short, global = true)]
    verbose: bool,
}

#[derive(Subcommand, Clone, Copy, PartialEq, Eq)]
enum Story {
    /// Create a cluster, scale it to four workers, take it away; the datacenter must be as before.
    Life,
}

/// Runs the demo's command line.
pub fn main() -> ExitCode {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed before");
    }
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let interruption = Interruption::listen(&runtime)?;
    let shown = show(arguments, &runtime, interruption.stop());
    match (shown, interruption.exit_code()) {
        (Ok(()), _) => Ok(ExitCode::SUCCESS),
        (Err(error), Some(code)) if error.is::<Interrupted>() => {
            say("interrupted; everything that was started has ended");
            Ok(ExitCode::from(code))
        }
        (Err(error), _) => Err(error),
    }
}

/// The whole demo; whatever it started has ended when this returns.
fn show(arguments: &Arguments, runtime: &Runtime, stop: &CancellationToken) -> anyhow::Result<()> {
    let begun = Instant::now();
    let folder = tempfile::Builder::new().prefix("cortex-demo-").tempdir()?;
    let shown = start(arguments, folder.path(), stop).and_then(|world| {
        say(&format!("ready after {}", seconds(millis(begun))));
        let told = runtime.block_on(async {
            tokio::select! {
                told = tell(arguments, &world) => told,
                () = stop.cancelled() => Err(Interrupted.into()),
            }
        });
        if arguments.keep && told.is_ok() {
            say(&exports(&world)?);
            say("everything runs until Ctrl-C");
            runtime.block_on(stop.cancelled());
        }
        // A contractor that did not end well is what the rest suffered from.
        world.end().and(told)
    });
    match shown {
        Ok(()) => say(&format!("done after {}", seconds(millis(begun)))),
        Err(error) if error.is::<Interrupted>() => return Err(error),
        Err(error) => return Err(error.context(format!("the logs are in {}", folder.keep().display()))),
    }
    Ok(())
}

fn start(arguments: &Arguments, folder: &Path, stop: &CancellationToken) -> anyhow::Result<World> {
    let start = || {
        say("building what is not built yet …");
        crate::binaries::make(stop)?;
        say("starting nats-server, the lab and both contractors …");
        let options = WorldOptions {
            speed: arguments.speed,
            seed: arguments.seed,
            faults: arguments.faults.clone(),
            stop: stop.clone(),
            ..WorldOptions::default()
        };
        World::start(folder, &options)
    };
    // Whatever it says of itself: what was interrupted did not fail.
    start().map_err(|error| if stop.is_cancelled() { Interrupted.into() } else { error })
}

async fn tell(arguments: &Arguments, world: &World) -> anyhow::Result<()> {
    let coordinator = Client::connect(world.client_options(Identity::Coordinator, "demo")).await?;
    let operator = Client::connect(world.client_options(Identity::Operator, "demo")).await?;
    let before = world.snapshot().await?;

    let mut request = json!({
        "request_type": "provision_cluster", "cluster_name": "prod-k8s", "pattern": arguments.pattern,
    });
    if let Some(nodes) = arguments.nodes {
        request["worker_nodes"] = nodes.into();
    }
    let flow = publish(&coordinator, "provision_cluster", &request, arguments.verbose).await?;
    summary::print(&operator, world, flow).await?;

    if arguments.story == Some(Story::Life) {
        life(&operator, arguments.verbose).await?;
        let after = world.snapshot().await?;
        let left = summary::leftovers(&before, &after);
        if !left.is_empty() {
            bail!("the datacenter is not as before: {}", left.join(", "));
        }
        say("the datacenter is as before: no VM, disk or address is left");
    } else {
        say(&next_steps());
    }
    Ok(())
}

async fn life(operator: &Client, verbose: bool) -> anyhow::Result<()> {
    say("\nan operator asks for a fourth worker");
    let scale = json!({ "cluster_name": "prod-k8s", "pool": "worker", "count": 4 });
    ask(operator, "scale_request", &scale, verbose).await?;
    say("\nan operator takes the cluster away");
    let mut gone = json!({ "cluster_name": "prod-k8s", "reason": "end of the demo" });
    let plan = operator.plan(Party::Infrastructure, "decommission_request", &gone).await?;
    say(cortexctl::plan::text(&plan).trim_end());
    say("and consents to that plan");
    gone["approval"] = json!({ "plan_hash": plan.plan_hash });
    ask(operator, "decommission_request", &gone, verbose).await?;
    Ok(())
}

/// Publishes a request into the stream, as a coordinator does: the word on it comes as an event. Follows it to its end.
async fn publish(client: &Client, name: &str, body: &Value, verbose: bool) -> anyhow::Result<Uuid> {
    let begun = Instant::now();
    let flow = Uuid::now_v7();
    let mut tail = watch::events_from_now(client).await?;
    say(&format!("\na coordinator publishes on cortex.request.{}.{name}: {body}", Party::Infrastructure));
    let message = client.publish(Party::Infrastructure, name, flow, body).await?;
    let word = watch::word(&mut tail, flow, &message, Duration::from_secs(30)).await;
    let word = word.map_err(|failure| refused(name, &failure))?;
    if word.kind == "flow_awaits_approval" {
        bail!("{name} waits for approval");
    }
    say(&format!("accepted as flow {flow}"));
    follow(client, name, flow, tail, verbose).await?;
    say(&format!("{name} succeeded after {}", seconds(millis(begun))));
    Ok(flow)
}

/// What is wrong with a request, line by line.
fn refused(name: &str, failure: &Failure) -> anyhow::Error {
    let details: Vec<String> = failure.details().iter().map(|line| format!("\n  {line}")).collect();
    anyhow::anyhow!("{name}: {failure}{}", details.concat())
}

/// Asks for something as an operator does, who wants an answer at once, and follows it to its end.
async fn ask(client: &Client, name: &str, body: &Value, verbose: bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    let flow = Uuid::now_v7();
    let tail = watch::events_from_now(client).await?;
    match client.submit(Party::Infrastructure, name, flow, body).await {
        Ok(Submission::Accepted(accepted)) => say(&format!("accepted as flow {}", accepted.flow)),
        Ok(Submission::AwaitsApproval { plan, .. }) => bail!("{name} waits for approval of plan {}", plan.plan_hash),
        Err(error) => return Err(refused(name, &error.into())),
    }
    follow(client, name, flow, tail, verbose).await?;
    say(&format!("{name} succeeded after {}", seconds(millis(begun))));
    Ok(())
}

/// Shows what happens until the flow has succeeded.
async fn follow(client: &Client, name: &str, flow: Uuid, tail: Tail, verbose: bool) -> anyhow::Result<()> {
    let tell = |told: &Told| {
        if verbose || worth_telling(told) {
            say(&told.line());
        }
    };
    let (ending, view) = watch::follow(client, flow, tail, tell).await?;
    if ending != Ending::Ok {
        let view = view.context("the flow needs an operator")?;
        bail!("{name} {}: {}", view.state, view.reason.unwrap_or_default());
    }
    Ok(())
}

/// What a person wants to see go by.
fn worth_telling(told: &Told) -> bool {
    const STEPS: [&str; 6] =
        ["step_succeeded", "step_waiting", "step_retrying", "step_failed", "step_undone", "step_undo_failed"];
    let run = told.kind.starts_with("run_") && told.kind != "run_started";
    run || STEPS.contains(&told.kind.as_str()) || told.kind.starts_with("flow_fail")
}

fn exports(world: &World) -> anyhow::Result<String> {
    let cortexctl = crate::binaries::path("cortexctl")?;
    let mut lines = vec![String::new()];
    for (name, value) in world.environment(Identity::Operator) {
        lines.push(format!("export {name}={value}"));
    }
    let kubeconfig: PathBuf = world.folder.join("kubeconfig");
    let talosconfig: PathBuf = world.folder.join("talosconfig");
    lines.push(format!("alias cortexctl={}", cortexctl.display()));
    lines.push(format!("cortexctl kubeconfig prod-k8s > {0}; export KUBECONFIG={0}", kubeconfig.display()));
    lines.push(format!("cortexctl talosconfig prod-k8s > {0}; export TALOSCONFIG={0}", talosconfig.display()));
    lines.push("# then: cortexctl cluster status prod-k8s; cortexctl cluster scale prod-k8s --count 4 --watch; kubectl get nodes".into());
    lines.push(format!("# Proxmox VE: {} (fingerprint {})", world.facts.proxmox, world.facts.fingerprint));
    lines.push(format!("# lab control: {}/v1/status", world.facts.control));
    Ok(lines.join("\n"))
}

fn next_steps() -> String {
    "\nTo try next: `cargo demo -- life` scales the cluster and takes it away; `cargo demo -- --keep` leaves everything\n\
     running for cortexctl, kubectl and talosctl; `cargo demo -- --fault 'pve POST /nodes/*/qemu#2=error:500:no'`\n\
     shows a fault."
        .to_owned()
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
