//! Many single-node clusters asked for at once, without simulated delays: seconds, memory and CPU time of each process.
//!
//! `FLEET` says how many, default `100,1000`. Service-account keys are ECDSA on P-256 here: an RSA-4096 key, the default, is
//! about a second of CPU, which a filled key pool only moves to another time.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bus::{TailFrom, identity::Identity};
use cortexctl::client::{Client, Submission};
use cortexctl::watch::Told;
use futures::StreamExt;
use messages::subject::Party;
use serde_json::json;
use tests::{
    process::memory,
    world::{World, WorldOptions},
};
use uuid::Uuid;

use crate::figures::{Figures, cpu_seconds, scratch};

const NAME: &str = "fleet";
/// More than so long, and the bench gives up.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

pub(crate) fn measure(figures: &mut Figures) -> anyhow::Result<()> {
    let sizes = std::env::var("FLEET").unwrap_or_else(|_| "100,1000".to_owned());
    for size in sizes.split(',') {
        fleet(figures, size.trim().parse().with_context(|| format!("FLEET: {size} is no number"))?)?;
    }
    Ok(())
}

fn fleet(figures: &mut Figures, size: usize) -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(scratch()?)?;
    let options = WorldOptions {
        speed: f64::INFINITY,
        log: "error".to_owned(),
        lab_arguments: ["--host-memory", "65536", "--host-cpus", "16384", "--hosts", "8"].map(str::to_owned).into(),
        ..WorldOptions::default()
    };
    let world = World::start(folder.path(), &options)?;
    let seconds = tokio::runtime::Runtime::new()?.block_on(all(&world, size))?;
    let target = if size == 1_000 { "< 300" } else { "" };
    figures.against(target, NAME, format!("{size} clusters of one node"), (seconds, "s"));
    let nats = world.nats.id();
    let processes = [
        ("infrastructure", world.infrastructure.id()),
        ("talos", world.talos.id()),
        ("lab", world.lab.id()),
        ("nats-server", nats),
    ];
    for (name, process) in processes {
        let process = process.with_context(|| format!("{name} runs"))?;
        figures.note(
            NAME,
            format!("{size} clusters: most memory of {name}"),
            memory(process)?[1] as f64 / 1024.0,
            "MiB",
        );
        figures.note(NAME, format!("{size} clusters: CPU time of {name}"), cpu_seconds(process)?, "s");
    }
    Ok(())
}

/// Asks for all of them at once and waits until every flow has succeeded.
async fn all(world: &World, size: usize) -> anyhow::Result<f64> {
    let client = Client::connect(world.client_options(Identity::Coordinator, "bench")).await?;
    let ends = ["flow_succeeded", "flow_failed", "flow_cancelled"];
    let ends = ends.map(|end| format!("cortex.event.infrastructure.*.{end}"));
    let mut tail = client.bus().tail(bus::streams::EVENTS, TailFrom::Now, &ends).await?;
    let begun = Instant::now();
    let asked = (0..size).map(|number| ask(&client, number)).collect::<Vec<_>>();
    let flows: Vec<anyhow::Result<Uuid>> = futures::stream::iter(asked).buffer_unordered(32).collect().await;
    let mut open = flows.into_iter().collect::<anyhow::Result<BTreeSet<Uuid>>>()?;
    while !open.is_empty() {
        if begun.elapsed() > PATIENCE {
            bail!("{} of {size} clusters are not there after {PATIENCE:?}", open.len());
        }
        let Some(recorded) = tail.next_within(Duration::from_secs(300)).await? else {
            bail!("no flow has ended for five minutes; {} of {size} clusters are missing", open.len());
        };
        let Some(told) = Told::read(&recorded) else { continue };
        let flow = told.body.get("flow").and_then(serde_json::Value::as_str).and_then(|flow| flow.parse().ok());
        match (told.kind.as_str(), flow) {
            ("flow_succeeded", Some(flow)) => drop(open.remove(&flow)),
            ("flow_failed" | "flow_cancelled", _) => bail!("a flow failed: {}", told.body),
            (_, None) => bail!("an end of a flow names none: {}", told.body),
            _ => {}
        }
    }
    Ok(begun.elapsed().as_secs_f64())
}

async fn ask(client: &Client, number: usize) -> anyhow::Result<Uuid> {
    let request = json!({
        "request_type": "provision_cluster", "cluster_name": format!("edge-{number}"), "pattern": "single",
        "network_cni": "flannel", "service_account_key": "ecdsa-p256",
    });
    match client.submit(Party::Infrastructure, "provision_cluster", Uuid::now_v7(), &request).await? {
        Submission::Accepted(accepted) => Ok(accepted.flow),
        Submission::AwaitsApproval { .. } => bail!("a creation needs no approval"),
    }
}
