//! Half an hour of lives with faults: memory, file descriptors and disk of the daemons must not climb with them.
//!
//! The store forgets finished runs after minutes here, and the streams forget what they were told, so that what is forgotten
//! shows: nothing but what is kept for good (the audit log, and who was heard before) may grow.

mod climb;
mod harm;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bus::{Bus, identity::Identity, streams};
use bytes::Bytes;
use cortexctl::{
    client::{Client, Submission},
    commands::flows,
    watch,
};
use messages::{query::FlowView, subject::Party};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

pub use self::{climb::Climb, harm::Harm};
use crate::{
    demo,
    process::memory,
    world::{World, WorldOptions, consented, tail},
};

/// A life takes no longer, whatever fault it meets.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long the streams keep what they are told.
const KEPT: Duration = Duration::from_secs(120);

/// What was seen after a life.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Seconds since the beginning.
    pub after: f64,
    /// Lives so far.
    pub lives: u32,
    /// What went wrong in this life.
    pub harm: String,
    /// Whether it met anything.
    pub met: bool,
    /// Of infrastructure-contractor and talos-contractor.
    pub daemons: [Usage; 2],
    /// Bytes of the messages that the streams hold.
    pub streams: u64,
}

/// What a daemon uses.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Usage {
    /// Resident memory in KiB.
    pub memory: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// Bytes of its store.
    pub store: u64,
}

/// Plays lives for so long; each sample is told.
///
/// # Errors
/// What failed, or what is left over.
pub fn play(seed: u64, time: Duration, tell: &mut dyn FnMut(&Sample)) -> anyhow::Result<Vec<Climb>> {
    // A second installation fails, and the first is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let options = WorldOptions {
        seed,
        log: "warn".to_owned(),
        store: "keep_runs = \"2m\"\narchive_after = \"1m\"\n".to_owned(),
        ..WorldOptions::default()
    };
    let mut world = World::start(folder.path(), &options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (operator, admin) = runtime.block_on(async {
        let admin = world.nats.connect(Identity::Admin).await?;
        forget_soon(&admin).await?;
        anyhow::Ok((world.operator().await?, admin))
    })?;
    let before = runtime.block_on(world.snapshot())?;
    let (begun, mut random, mut samples) = (Instant::now(), StdRng::seed_from_u64(seed), Vec::<Sample>::new());
    while begun.elapsed() < time {
        let harm = Harm::draw(&mut random);
        let lives = u32::try_from(samples.len())? + 1;
        let name = format!("life-{lives}");
        let lived = runtime.block_on(life(&mut world, &operator, &name, &harm, &mut random));
        let met = lived.with_context(|| {
            let logs = [&world.infrastructure, &world.talos].map(|process| tail(&process.log())).join("\n");
            format!("life {lives} with {harm}\n{logs}")
        })?;
        let left = demo::leftovers(&before, &runtime.block_on(world.snapshot())?);
        anyhow::ensure!(left.is_empty(), "life {lives} with {harm} leaves {}", left.join(", "));
        let sample = Sample {
            after: begun.elapsed().as_secs_f64(),
            lives,
            harm: harm.to_string(),
            met,
            daemons: [usage(&world, Party::Infrastructure)?, usage(&world, Party::Talos)?],
            streams: runtime.block_on(held(&admin))?,
        };
        tell(&sample);
        samples.push(sample);
    }
    climb::judge(&samples)
}

/// A cluster is made while something goes wrong, grown and taken away. Whether what went wrong met anything.
async fn life(
    world: &mut World,
    operator: &Client,
    name: &str,
    harm: &Harm,
    random: &mut impl Rng,
) -> anyhow::Result<bool> {
    let create = json!({
        "request_type": "provision_cluster", "cluster_name": name, "pattern": "edge", "worker_nodes": 1,
        "service_account_key": "ecdsa-p256",
    });
    harm.prepare(world).await?;
    let making = submit(operator, "provision_cluster", &create).await?;
    harm.strike(world, random)?;
    end(operator, "provision_cluster", making).await?;
    let grow = json!({ "cluster_name": name, "pool": "worker", "count": 2 });
    end(operator, "scale_request", submit(operator, "scale_request", &grow).await?).await?;
    let gone = consented(operator, "decommission_request", json!({ "cluster_name": name })).await?;
    end(operator, "decommission_request", submit(operator, "decommission_request", &gone).await?).await?;
    harm.has_met(world).await
}

async fn submit(operator: &Client, name: &str, body: &Value) -> anyhow::Result<Uuid> {
    match operator.submit(Party::Infrastructure, name, Uuid::now_v7(), body).await? {
        Submission::Accepted(accepted) => Ok(accepted.flow),
        Submission::AwaitsApproval { .. } => bail!("{name} waits for approval"),
    }
}

/// The flow succeeds.
async fn end(operator: &Client, name: &str, flow: Uuid) -> anyhow::Result<()> {
    let followed = async {
        let tail = watch::events_from_now(operator).await?;
        anyhow::Ok(watch::follow(operator, flow, tail, |_| {}).await?.1)
    };
    let Ok(view) = tokio::time::timeout(PATIENCE, followed).await else {
        let view = flows::of(operator, flow).await.with_context(|| format!("{name} does not end"))?;
        bail!("{name} does not end: {}", serde_json::to_string_pretty(&view)?);
    };
    let view: FlowView = view?.with_context(|| format!("{name} needs an operator"))?;
    anyhow::ensure!(view.state == "succeeded", "{name} is {}: {}", view.state, view.reason.unwrap_or_default());
    Ok(())
}

/// Lets every stream forget within minutes what it keeps for days.
async fn forget_soon(admin: &Bus) -> anyhow::Result<()> {
    for spec in streams::streams() {
        let mut info = ask(admin, &format!("STREAM.INFO.{}", spec.name), &Value::Null).await?;
        let mut config = info["config"].take();
        config["max_age"] = json!(u64::try_from(KEPT.as_nanos())?);
        config["duplicate_window"] = json!(u64::try_from(KEPT.as_nanos())?);
        ask(admin, &format!("STREAM.UPDATE.{}", spec.name), &config).await?;
    }
    Ok(())
}

/// Bytes of the messages that the streams hold.
async fn held(admin: &Bus) -> anyhow::Result<u64> {
    let mut sum = 0;
    for spec in streams::streams() {
        let info = ask(admin, &format!("STREAM.INFO.{}", spec.name), &Value::Null).await?;
        sum += info["state"]["bytes"].as_u64().with_context(|| format!("{info} tells no bytes"))?;
    }
    Ok(sum)
}

async fn ask(admin: &Bus, call: &str, body: &Value) -> anyhow::Result<Value> {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let subject = format!("$JS.API.{call}");
    let reply = admin.request(&subject, &BTreeMap::new(), body, Duration::from_secs(10)).await?;
    let answer: Value = serde_json::from_slice(&reply.body)?;
    anyhow::ensure!(answer["error"].is_null(), "{call}: {}", answer["error"]);
    Ok(answer)
}

fn usage(world: &World, party: Party) -> anyhow::Result<Usage> {
    let process = if party == Party::Talos { &world.talos } else { &world.infrastructure };
    let id = process.id().with_context(|| format!("{} ended", process.name()))?;
    Ok(Usage {
        memory: memory(id)?[0],
        descriptors: fs::read_dir(format!("/proc/{id}/fd"))?.count() as u64,
        store: bytes(&world.folder.join(format!("{party}-store"))),
    })
}

/// All files below a folder; what vanishes meanwhile counts nothing.
fn bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => bytes(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}
