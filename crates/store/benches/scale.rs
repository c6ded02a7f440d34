//! The numbers that the design asks for, at its size; `cargo bench -p store` prints them.
//!
//! With `STORE_UNDER_TEST=FOLDER` the store is kept, and `cargo bench -p store -- open` measures opening it anew.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement prints its numbers and fails loudly")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use store::{Commit, InventoryChange, Lane, Options, Outgoing, RunAppend, RunQuery, RunState, RunSummary, Store};
use uuid::Uuid;

fn main() {
    if std::env::args().any(|argument| argument == "open") {
        return opening_a_store();
    }
    tokio::runtime::Runtime::new().unwrap().block_on(ten_thousand_finished_runs_and_five_thousand_nodes());
}

fn rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

fn disk_mib(path: &std::path::Path) -> f64 {
    let entries = std::fs::read_dir(path).unwrap().flatten();
    let bytes: u64 = entries.map(|entry| entry.metadata().unwrap().len()).sum();
    bytes as f64 / 1024.0 / 1024.0
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    format!("p50 {:?} p99 {:?} max {:?}", at(0.5), at(0.99), times[times.len() - 1])
}

async fn ten_thousand_finished_runs_and_five_thousand_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("STORE_UNDER_TEST").map(std::path::PathBuf::from);
    let path = kept.unwrap_or_else(|| folder.path().to_owned());
    let store = open(&path);
    let flow = Uuid::new_v4();
    let began = Instant::now();
    for n in 0..10_000_u128 {
        let run = Uuid::from_u128(n);
        let events: Vec<Value> = (0..60)
            .map(|e| {
                json!({ "type": "step_succeeded", "step": format!("apply[{e}]"),
            "output": { "node": Uuid::from_u128(n * 60 + e), "text": "z".repeat(250) } })
            })
            .collect();
        for (at, chunk) in events.chunks(20).enumerate() {
            let first = at as u64 * 20;
            let state = if at == 2 { RunState::Succeeded } else { RunState::Running };
            let archive = if at == 2 { vec![run] } else { vec![] };
            let commit = append(run, first, chunk.to_vec(), Some(summary(flow, state)));
            store.commit(Commit { archive, ..commit }).await.unwrap();
        }
    }
    println!("30,000 commits of 20 events: {:?}", began.elapsed());
    for cluster in 0..1_000 {
        let inventory = (0..5).map(|node| {
            let key = format!("node/cluster-{cluster:04}/cp-{node}");
            InventoryChange::put(key, json!({ "address": "10.0.0.1", "pool": "cp", "text": "n".repeat(600) }))
        });
        store.commit(Commit { inventory: inventory.collect(), ..Commit::default() }).await.unwrap();
    }
    println!("full: rss {:.1} MiB, disk {:.1} MiB", rss_mib(), disk_mib(&path.join("data-1")));
    let reader = store.reader();
    let mut gets = Vec::new();
    for n in 0..5_000 {
        let began = Instant::now();
        let key = format!("node/cluster-{:04}/cp-{}", n * 7 % 1_000, n % 5);
        assert!(reader.get::<Value>(&key).unwrap().is_some());
        gets.push(began.elapsed());
    }
    println!("get: {}", percentiles(gets));
    let mut scans = Vec::new();
    for n in 0..500 {
        let began = Instant::now();
        assert_eq!(reader.scan::<Value>(&format!("node/cluster-{n:04}/")).unwrap().len(), 5);
        scans.push(began.elapsed());
    }
    println!("scan of a cluster: {}", percentiles(scans));
    let began = Instant::now();
    assert_eq!(reader.scan::<Value>("node/").unwrap().len(), 5_000);
    println!("scan of 5,000 nodes: {:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(reader.runs(&RunQuery { limit: 50, ..RunQuery::default() }).unwrap().len(), 50);
    println!("newest 50 of 10,000 runs: {:?}", began.elapsed());
    let mut commits = Vec::new();
    for n in 0..1_000_u64 {
        let outgoing = vec![message(&n.to_string(), Lane::Handoff)];
        let commit =
            append(Uuid::from_u128(1 << 100), n, vec![json!({ "n": n })], Some(summary(flow, RunState::Running)));
        let began = Instant::now();
        store.commit(Commit { outgoing, ..commit }).await.unwrap();
        commits.push(began.elapsed());
    }
    println!("one commit at a time: {}", percentiles(commits));
    let began = Instant::now();
    let tasks = (0..64_u128).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..100 {
                let run = Uuid::from_u128((2 << 100) + task);
                store
                    .commit(append(run, n, vec![json!(n)], Some(summary(Uuid::nil(), RunState::Running))))
                    .await
                    .unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    println!("64 at a time: {:.0} commits/s", 6_400.0 / began.elapsed().as_secs_f64());
    let began = Instant::now();
    let verified = reader.verify().unwrap();
    println!("verify of {} rows: {:?}", verified.rows.values().sum::<u64>(), began.elapsed());
    assert!(verified.problems.is_empty());
    let began = Instant::now();
    println!("compact: {:?} in {:?}", store.compact().await.unwrap(), began.elapsed());
    store.close().await;
    drop(reader);
    let began = Instant::now();
    let store = open(&path);
    println!("open after close: {:?}", began.elapsed());
    assert_eq!(store.reader().runs(&RunQuery::unfinished()).unwrap().len(), 65);
    println!("rss at the end {:.1} MiB", rss_mib());
}

fn opening_a_store() {
    let Some(path) = std::env::var_os("STORE_UNDER_TEST") else { return };
    let began = Instant::now();
    let store = open(std::path::Path::new(&path));
    let unfinished = store.reader().runs(&RunQuery::unfinished()).unwrap().len();
    println!("open with {unfinished} unfinished runs: {:?}, rss {:.1} MiB", began.elapsed(), rss_mib());
}

/// Opens without a reserve, as test machines may be full.
fn open(path: &std::path::Path) -> Store {
    Store::open(path, Options { min_free_bytes: 0, ..Options::default() }).unwrap()
}

fn summary(flow: Uuid, state: RunState) -> RunSummary {
    RunSummary {
        flow,
        playbook: "provision-vms".to_owned(),
        cluster: Some("prod-k8s".to_owned()),
        state,
        detail: Value::Null,
    }
}

fn append(run: Uuid, expected_seq: u64, events: Vec<Value>, summary: Option<RunSummary>) -> Commit {
    Commit { run: Some(RunAppend { run, expected_seq, events, summary }), ..Commit::default() }
}

fn message(id: &str, lane: Lane) -> Outgoing {
    Outgoing {
        id: id.to_owned(),
        lane,
        subject: "cortex.handoff.talos.vm_provisioned".to_owned(),
        headers: [("ce-id".to_owned(), id.to_owned())].into(),
        body: json!({ "handoff_type": "vm_provisioned" }).to_string(),
    }
}
