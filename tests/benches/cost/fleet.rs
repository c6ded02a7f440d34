//! Many single-node clusters asked for at once, without simulated delays: seconds, memory and CPU time of each process.
//!
//! `FLEET` says how many with service-account keys of ECDSA on P-256, default `100,1000`; `RSA_FLEET` how many with RSA-4096
//! keys, the default of a cluster, default `100`. One of those takes about a second of CPU, so talos-contractor's pool is
//! filled with as many before the clock starts, which is measured by itself; it is not filled again meanwhile. Where `perf` is
//! installed, it samples the processes (see [`profile`](crate::profile)).

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

use crate::{
    figures::{Figures, cpu_seconds, scratch},
    profile::Profile,
};

const NAME: &str = "fleet";
/// More than so long, and the bench gives up.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// More than so long for a key, and it gives up too.
const PATIENCE_PER_KEY: Duration = Duration::from_secs(60);

/// Which service-account keys the clusters get.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    Ecdsa,
    Rsa,
}

impl Keys {
    fn name(self) -> &'static str {
        match self {
            Self::Ecdsa => "ecdsa-p256",
            Self::Rsa => "rsa4096",
        }
    }
}

pub(crate) fn measure(figures: &mut Figures) -> anyhow::Result<()> {
    for (variable, default, keys) in [("FLEET", "100,1000", Keys::Ecdsa), ("RSA_FLEET", "100", Keys::Rsa)] {
        let sizes = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
        for size in sizes.split(',').map(str::trim).filter(|size| !size.is_empty()) {
            let size = size.parse().with_context(|| format!("{variable}: {size} is no number"))?;
            fleet(figures, size, keys)?;
        }
    }
    Ok(())
}

fn fleet(figures: &mut Figures, size: usize, keys: Keys) -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(scratch()?)?;
    let options = WorldOptions {
        speed: f64::INFINITY,
        log: "error".to_owned(),
        lab_arguments: ["--host-memory", "65536", "--host-cpus", "16384", "--hosts", "8"].map(str::to_owned).into(),
        service_account_keys: 0,
        ..WorldOptions::default()
    };
    let mut world = World::start(folder.path(), &options)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let label = format!("{size} clusters, {}", keys.name());
    if keys == Keys::Rsa {
        let [seconds, cpu] = fill_pool(&mut world, &runtime, size)?;
        figures.note(NAME, format!("{label}: to fill the pool"), seconds, "s");
        figures.note(NAME, format!("{label}: CPU time per key"), cpu / size as f64, "s");
    }
    let processes = [
        ("infrastructure", world.infrastructure.id()),
        ("talos", world.talos.id()),
        ("lab", world.lab.id()),
        ("nats-server", world.nats.id()),
    ];
    let running = processes.map(|(name, id)| id.map(|id| (name, id)));
    let processes: Vec<(&str, u32)> = running.into_iter().collect::<Option<_>>().context("everything runs")?;
    let before = processes.iter().map(|(_, id)| cpu_seconds(*id)).collect::<anyhow::Result<Vec<f64>>>()?;
    let profile = Profile::begin(folder.path(), processes.clone())?;
    let seconds = runtime.block_on(all(&world, size, keys))?;
    match size {
        1_000 => figures.against(300.0, NAME, format!("{label}: seconds"), (seconds, "s")),
        _ => figures.note(NAME, format!("{label}: seconds"), seconds, "s"),
    }
    for ((name, id), before) in processes.iter().zip(before) {
        let most = memory(*id)?[1] as f64 / 1024.0;
        figures.note(NAME, format!("{label}: most memory of {name}"), most, "MiB");
        figures.note(NAME, format!("{label}: CPU time of {name}"), cpu_seconds(*id)? - before, "s");
    }
    if let Some(profile) = profile {
        profile.finish(figures, &label)?;
    }
    Ok(())
}

/// Has talos-contractor make `size` keys, and then no more: seconds, and seconds of CPU, which that took.
fn fill_pool(world: &mut World, runtime: &tokio::runtime::Runtime, size: usize) -> anyhow::Result<[f64; 2]> {
    let begun = Instant::now();
    keep_keys(world, 0, size)?;
    while runtime.block_on(ready_keys(&world.health[1]))? < size {
        if begun.elapsed() > PATIENCE_PER_KEY * u32::try_from(size)? {
            bail!("the key pool is not full after {:?}", begun.elapsed());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let filled = [begun.elapsed().as_secs_f64(), cpu_seconds(world.talos.id().context("talos-contractor runs")?)?];
    keep_keys(world, size, 0)?;
    Ok(filled)
}

/// Starts talos-contractor again with another number of keys to keep ready.
fn keep_keys(world: &mut World, before: usize, from_now: usize) -> anyhow::Result<()> {
    world.talos.stop(Duration::from_secs(20))?;
    let file = world.folder.join("talos-contractor.toml");
    let setting = |keys: usize| format!("service_account_keys = {keys}\n");
    let text = std::fs::read_to_string(&file)?.replace(&setting(before), &setting(from_now));
    std::fs::write(&file, text)?;
    world.talos.start(false)?;
    world.wait_ready()
}

/// How many keys talos-contractor says that it has ready.
async fn ready_keys(url: &str) -> anyhow::Result<usize> {
    let text = reqwest::get(format!("{url}/metrics")).await?.error_for_status()?.text().await?;
    let value = text.lines().find_map(|line| line.strip_prefix("contractor_ready_keys "));
    Ok(value.map_or(0.0, |value| value.trim().parse::<f64>().unwrap_or_default()) as usize)
}

/// Asks for all of them at once and waits until every flow has succeeded.
async fn all(world: &World, size: usize, keys: Keys) -> anyhow::Result<f64> {
    let client = Client::connect(world.client_options(Identity::Coordinator, "bench")).await?;
    let ends = ["flow_succeeded", "flow_failed", "flow_cancelled"];
    let ends = ends.map(|end| format!("cortex.event.infrastructure.*.{end}"));
    let mut tail = client.bus().tail(bus::streams::EVENTS, TailFrom::Now, &ends).await?;
    let begun = Instant::now();
    let asked = (0..size).map(|number| ask(&client, number, keys)).collect::<Vec<_>>();
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

async fn ask(client: &Client, number: usize, keys: Keys) -> anyhow::Result<Uuid> {
    let request = json!({
        "request_type": "provision_cluster", "cluster_name": format!("edge-{number}"), "pattern": "single",
        "network_cni": "flannel", "service_account_key": keys.name(),
    });
    match client.submit(Party::Infrastructure, "provision_cluster", Uuid::now_v7(), &request).await? {
        Submission::Accepted(accepted) => Ok(accepted.flow),
        Submission::AwaitsApproval { .. } => bail!("a creation needs no approval"),
    }
}
