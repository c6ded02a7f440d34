//! What a daemon needs to stand there: memory, and the time from its start to ready, with an empty and with a full store.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, bail, ensure};
use contractor::flows::{self, FlowRecord};
use jiff::Timestamp;
use messages::request::FailurePolicy;
use serde_json::{Value, json};
use store::{Commit, Deed, InboxKey, InventoryChange, Options, RunAppend, RunState, RunSummary, Store};
use tests::{
    process::memory,
    world::{World, WorldOptions, is_ready},
};
use uuid::Uuid;

use crate::{
    engine::entry,
    figures::{Figures, percentile, scratch},
};

const NAME: &str = "daemons";
const FINISHED: u128 = 10_000;
const STARTS: usize = 5;
/// A store in which nothing changed for so long has settled.
const SETTLED: Duration = Duration::from_secs(3);

pub(crate) fn measure(figures: &mut Figures) -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(scratch()?)?;
    let mut world = World::start(folder.path(), &WorldOptions { log: "warn".to_owned(), ..WorldOptions::default() })?;
    starts(figures, &mut world, "empty")?;
    world.infrastructure.stop(Duration::from_secs(20))?;
    world.talos.stop(Duration::from_secs(20))?;
    for party in ["infrastructure", "talos"] {
        let key_file = Some(folder.path().join(format!("{party}.age")));
        let store =
            Store::open(&folder.path().join(format!("{party}-store")), Options { key_file, ..Options::default() })?;
        tokio::runtime::Runtime::new()?.block_on(fill(&store))?;
        store.close_blocking();
    }
    world.infrastructure.start(false)?;
    world.talos.start(false)?;
    world.wait_ready()?;
    for party in ["infrastructure", "talos"] {
        settle(&folder.path().join(format!("{party}-store")))?;
    }
    starts(figures, &mut world, "10,000 finished runs")
}

/// Waits until nothing changes in a store any more: of ten thousand runs that were put in at once, sled moves pages together
/// for seconds, and a daemon that does so keeps up to 15 MiB more until its next start.
fn settle(store: &Path) -> anyhow::Result<()> {
    let (mut last, mut since, began) = (Vec::new(), Instant::now(), Instant::now());
    while since.elapsed() < SETTLED {
        ensure!(began.elapsed() < Duration::from_secs(120), "{} does not settle", store.display());
        std::thread::sleep(Duration::from_millis(100));
        let now = changed(store)?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// When each file below a folder was changed.
fn changed(folder: &Path) -> anyhow::Result<Vec<(PathBuf, SystemTime)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => files.extend(changed(&path)?),
            Ok(found) => files.push((path, found.modified()?)),
            // sled removes its own snapshots.
            Err(_) => {}
        }
    }
    files.sort();
    Ok(files)
}

/// Starts each daemon some times; notes how long it took at the median, and what it needs when it has nothing to do.
fn starts(figures: &mut Figures, world: &mut World, with: &str) -> anyhow::Result<()> {
    let health = world.health.clone();
    for (process, url) in [(&mut world.infrastructure, &health[0]), (&mut world.talos, &health[1])] {
        let address = url.trim_start_matches("http://");
        let mut times = Vec::new();
        for _ in 0..STARTS {
            process.stop(Duration::from_secs(20))?;
            let begun = Instant::now();
            process.start(false)?;
            while !is_ready(address) {
                if begun.elapsed() > Duration::from_secs(60) {
                    bail!("{} is not ready", process.name());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            times.push(begun.elapsed());
        }
        let name = process.name().to_owned();
        figures.against(100.0, NAME, format!("{name}, {with}: start to ready"), (percentile(&mut times, 0.5), "ms"));
        // A measurement, not a synchronisation: what is left when the start is over.
        std::thread::sleep(Duration::from_secs(3));
        let [now, _] = memory(process.id().context("it runs")?)?;
        figures.against(32.0, NAME, format!("{name}, {with}: resident when idle"), (now as f64 / 1024.0, "MiB"));
    }
    Ok(())
}

/// Each run with all that a message which is done leaves behind: its inbox row, its flow, its lines of the audit log.
async fn fill(store: &Store) -> anyhow::Result<()> {
    for first in (0..FINISHED).step_by(250) {
        let commits = (first..first + 250).map(|number| {
            let run = Uuid::from_u128((3 << 100) + number);
            let flow = Uuid::from_u128((4 << 100) + number);
            let summary = RunSummary {
                flow,
                playbook: "provision-vms".to_owned(),
                cluster: Some("prod-k8s".to_owned()),
                state: RunState::Succeeded,
                detail: json!({ "steps": { "succeeded": 40 } }),
            };
            let events: Vec<Value> = (0..60).map(|at| entry(&format!("make.create[node-{at}]"))).collect();
            let append = RunAppend { run, expected_seq: 0, events, summary: Some(summary) };
            store.commit(Commit {
                run: Some(append),
                archive: vec![run],
                inbox: Some(InboxKey { source: "/coordinator/cortex".to_owned(), id: flow.to_string() }),
                inventory: over(flow),
                audit: ["run_started", "run_succeeded"].map(|did| deed(did, flow, run)).to_vec(),
                ..Commit::default()
            })
        });
        futures::future::try_join_all(commits).await?;
    }
    Ok(())
}

/// What is kept of a flow that is over.
fn over(flow: Uuid) -> Vec<InventoryChange> {
    let now = Timestamp::now();
    let record = FlowRecord {
        flow,
        kind: "provision_cluster".to_owned(),
        cluster: Some("prod-k8s".to_owned()),
        trace: None,
        source: "/coordinator/cortex".to_owned(),
        started: now,
        deadline: now,
        state: flows::State::Succeeded,
        ended: Some(now),
        failing: None,
        failure_policy: FailurePolicy::Rollback,
        cancelled: None,
        reason: None,
        hint: None,
    };
    let mut changes = vec![InventoryChange::create(flows::key(flow), record.to_value())];
    changes.extend(flows::ended(flow, now));
    changes
}

fn deed(did: &str, flow: Uuid, run: Uuid) -> Deed {
    Deed {
        who: "/coordinator/cortex".to_owned(),
        did: did.to_owned(),
        cluster: Some("prod-k8s".to_owned()),
        flow: Some(flow),
        run: Some(run),
        ..Deed::default()
    }
}
