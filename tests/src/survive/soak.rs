//! Half an hour of lives with faults: memory, file descriptors and disk of the daemons must not climb with them.
//!
//! The store forgets finished runs after minutes here, so that what it forgets shows. The streams keep what they are told
//! for days and are bounded by their size; what a life adds to them is told, not judged.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use cortexctl::{
    client::{Client, Submission},
    commands::flows,
    watch,
};
use messages::subject::Party;
use rand::{SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use simulators::faults::Fault;
use uuid::Uuid;

use crate::{
    demo,
    process::memory,
    world::{World, WorldOptions, consented},
};

/// A life takes no longer, whatever fault it meets.
const PATIENCE: Duration = Duration::from_secs(180);
/// What may go wrong in a life; each passes by itself.
const FAULTS: [&str; 8] = [
    "pve POST /nodes/*/qemu#1=error:500:got no worker upid - start worker failed",
    "pve POST /nodes/*/qemu#1=drop-reply",
    "pve GET /nodes/*/qemu/*/config#2=error:595:No route to host",
    "pve GET /cluster/resources#2=error:500",
    "pve GET /nodes/*/tasks/**#2=drop-request",
    "pve POST /nodes/*/qemu/*/status/start#1=drop-reply",
    "pve PUT /nodes/*/qemu/*/resize=drop-reply",
    "pve task qmcreate *=warnings:2",
];

/// What was seen after a life.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Since the beginning.
    pub after: Duration,
    /// Lives so far.
    pub lives: u32,
    /// Of infrastructure-contractor and talos-contractor.
    pub daemons: [Usage; 2],
    /// Bytes of the bus's files.
    pub streams: u64,
}

/// What a daemon uses.
#[derive(Clone, Copy, Debug)]
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
/// What failed, what is left over, or what climbs.
pub fn play(seed: u64, time: Duration, tell: &mut dyn FnMut(&Sample)) -> anyhow::Result<()> {
    // A second installation fails, and the first is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let options = WorldOptions {
        seed,
        log: "warn".to_owned(),
        store: "keep_runs = \"2m\"\narchive_after = \"1m\"\n".to_owned(),
        ..WorldOptions::default()
    };
    let world = World::start(folder.path(), &options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let operator = runtime.block_on(world.operator())?;
    let before = runtime.block_on(world.snapshot())?;
    let logs = || [&world.infrastructure, &world.talos].map(|process| crate::world::tail(&process.log())).join("\n");
    let (begun, mut random, mut samples) = (Instant::now(), StdRng::seed_from_u64(seed), Vec::<Sample>::new());
    while begun.elapsed() < time {
        let fault = FAULTS.choose(&mut random).context("there are faults")?;
        let lives = u32::try_from(samples.len())? + 1;
        runtime.block_on(async {
            harm(&world, fault).await?;
            let lived = life(&operator, &format!("life-{lives}")).await;
            lived.with_context(|| format!("life {lives} with {fault}\n{}", logs()))
        })?;
        let left = demo::leftovers(&before, &runtime.block_on(world.snapshot())?);
        ensure!(left.is_empty(), "life {lives} with {fault} leaves {}", left.join(", "));
        let sample = Sample {
            after: begun.elapsed(),
            lives,
            daemons: [usage(&world, Party::Infrastructure)?, usage(&world, Party::Talos)?],
            streams: bytes(&world.folder.join("nats/jetstream")),
        };
        tell(&sample);
        samples.push(sample);
    }
    judge(&samples)
}

/// The last third is compared with the second: in the first everything is used for the first time.
fn judge(samples: &[Sample]) -> anyhow::Result<()> {
    let third = samples.len() / 3;
    ensure!(third >= 3, "{} lives say nothing", samples.len());
    let (second, last) = (&samples[third..2 * third], &samples[2 * third..]);
    for (at, name) in ["infrastructure", "talos"].iter().enumerate() {
        for (what, of, slack) in [
            ("resident memory", (|usage| usage.memory) as fn(&Usage) -> u64, 4 << 10),
            ("open file descriptors", |usage| usage.descriptors, 8),
            ("bytes of the store", |usage| usage.store, 16 << 20),
        ] {
            let median = |samples: &[Sample]| {
                let mut values: Vec<u64> = samples.iter().map(|sample| of(&sample.daemons[at])).collect();
                values.sort_unstable();
                values[values.len() / 2]
            };
            let (before, after) = (median(second), median(last));
            ensure!(after <= before + before / 10 + slack, "{name}: {what} climbs from {before} to {after}");
        }
    }
    Ok(())
}

/// A cluster is made, grown and taken away.
async fn life(operator: &Client, name: &str) -> anyhow::Result<()> {
    let create = json!({
        "request_type": "provision_cluster", "cluster_name": name, "pattern": "edge", "worker_nodes": 1,
        "service_account_key": "ecdsa-p256",
    });
    flow(operator, "provision_cluster", &create).await?;
    flow(operator, "scale_request", &json!({ "cluster_name": name, "pool": "worker", "count": 2 })).await?;
    let gone = consented(operator, "decommission_request", json!({ "cluster_name": name })).await?;
    flow(operator, "decommission_request", &gone).await
}

async fn flow(operator: &Client, name: &str, body: &Value) -> anyhow::Result<()> {
    let tail = watch::events_from_now(operator).await?;
    let flow = match operator.submit(Party::Infrastructure, name, Uuid::now_v7(), body).await? {
        Submission::Accepted(accepted) => accepted.flow,
        Submission::AwaitsApproval { .. } => bail!("{name} waits for approval"),
    };
    let followed = watch::follow(operator, flow, tail, |_| {});
    let Ok(followed) = tokio::time::timeout(PATIENCE, followed).await else {
        let view = flows::of(operator, flow).await.with_context(|| format!("{name} does not end"))?;
        bail!("{name} does not end: {}", serde_json::to_string_pretty(&view)?);
    };
    let (_, view) = followed?;
    let view = view.with_context(|| format!("{name} needs an operator"))?;
    ensure!(view.state == "succeeded", "{name} is {}: {}", view.state, view.reason.unwrap_or_default());
    Ok(())
}

/// Faults of the life before that met nothing are taken back.
async fn harm(world: &World, fault: &str) -> anyhow::Result<()> {
    let fault = Fault::parse(fault).map_err(|error| anyhow::anyhow!("{fault}: {error}"))?;
    let (url, client) = (format!("{}/v1/faults", world.facts.control), reqwest::Client::new());
    client.delete(&url).send().await?.error_for_status()?;
    client.post(&url).json(&fault).send().await?.error_for_status()?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(memory: u64, store: u64) -> Sample {
        let usage = Usage { memory, descriptors: 40, store };
        Sample { after: Duration::ZERO, lives: 1, daemons: [usage, usage], streams: 0 }
    }

    #[test]
    fn what_climbs_is_named() {
        let flat: Vec<_> = (0..30).map(|_| sample(50_000, 1 << 20)).collect();
        judge(&flat).unwrap();
        let leak: Vec<_> = (0..30).map(|at| sample(50_000 + at * 1_500, 1 << 20)).collect();
        assert!(judge(&leak).unwrap_err().to_string().starts_with("infrastructure: resident memory climbs"));
        let hoard: Vec<_> = (0..30).map(|at| sample(50_000, at * (4 << 20))).collect();
        assert!(judge(&hoard).unwrap_err().to_string().contains("bytes of the store climbs"));
        assert!(judge(&flat[..5]).is_err(), "too few");
    }
}
