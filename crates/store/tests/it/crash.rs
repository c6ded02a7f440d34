//! Kills, second owners, disks that refuse: nothing acknowledged is lost.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use store::{Commit, InventoryChange, OpenError, Options, RunQuery, Store};

use crate::{
    content::{self, batches, counter, numbered, put},
    open,
};

const CHILD: &str = "crash::child_commits_until_it_is_killed";

/// Not a test of its own: the process that the next one kills. By itself it has nothing to do.
#[test]
fn child_commits_until_it_is_killed() {
    let Some(path) = std::env::var_os("STORE_UNDER_TEST") else { return };
    let store = content::open(Path::new(&path));
    let mut n = counter(&store).map_or(0, |n| n + 1);
    loop {
        put(&store, n);
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nacknowledged {n}").unwrap();
        out.flush().unwrap();
        n += 1;
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kills_at_work_and_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    // Nobody is killed while the key is made.
    content::options(&path);
    let mut acknowledged = None;
    for round in 0..40_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([CHILD, "--exact", "--nocapture"])
            .env("STORE_UNDER_TEST", &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let number = |line: String| line.strip_prefix("acknowledged ").and_then(|n| n.parse::<u64>().ok());
        if round % 2 == 0 {
            // At work: after some acknowledgements.
            let wanted = 1 + round as usize % 7 * 5;
            acknowledged = lines.by_ref().filter_map(|line| number(line.unwrap())).take(wanted).last();
        } else {
            // At start: within its first milliseconds; there is nothing to wait for.
            std::thread::sleep(Duration::from_micros(500 + round * 400));
        }
        child.kill().unwrap();
        acknowledged = lines.filter_map(|line| number(line.ok()?)).last().or(acknowledged);
        child.wait().unwrap();

        let store = content::open(&path);
        let found = counter(&store);
        assert!(found >= acknowledged, "round {round}: acknowledged {acknowledged:?}, found {found:?}");
        let verified = store.reader().verify().unwrap();
        assert_eq!(verified.problems, Vec::<String>::new(), "round {round}");
        if let Some(last) = found {
            let rows = |kind: &str| verified.rows.get(kind).copied().unwrap_or(0);
            assert_eq!(rows("outbox") + rows("parked"), batches(last + 1));
            assert_eq!((rows("inbox"), rows("definition")), (last + 1, last / 10 + 1));
            assert_eq!(store.reader().audit_head().unwrap().seq, last + 1);
            let runs = store.reader().runs(&RunQuery::default()).unwrap();
            assert_eq!(runs.iter().map(|row| row.seq).sum::<u64>(), last + 1);
        }
        store.close_blocking();
    }
    assert!(acknowledged.is_some());
}

#[test]
fn a_second_owner_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([CHILD, "--exact", "--nocapture"])
        .env("STORE_UNDER_TEST", &path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().starts_with("acknowledged")).unwrap().unwrap();
    let error = Store::open(&path, Options::default()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, OpenError::InUse { .. }) && text.contains(&child.id().to_string()), "{text}");
    child.kill().unwrap();
    child.wait().unwrap();
    open(&path).close_blocking();
}

#[tokio::test]
async fn compaction_gives_space_back_and_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for n in 0..3_000_u64 {
        let value = json!({ "n": n, "text": "y".repeat(4_000) });
        let commit = Commit { inventory: vec![InventoryChange::put("vm/one", value)], ..Commit::default() };
        store.commit(commit).await.unwrap();
    }
    let reader = store.reader();
    let compacted = store.compact().await.unwrap();
    assert!(compacted.after < compacted.before, "{compacted:?}");
    assert_eq!(reader.get::<Value>("vm/one").unwrap().unwrap().value["n"], 2_999);
    let commit = Commit { inventory: vec![InventoryChange::put("vm/two", json!(2))], ..Commit::default() };
    store.commit(commit).await.unwrap();
    store.close().await;
    drop(reader);
    let store = open(folder.path());
    assert_eq!(store.reader().keys("vm/").unwrap().len(), 2);
    assert_eq!(fs::read_dir(folder.path()).unwrap().flatten().filter(|e| e.path().is_dir()).count(), 1);
}

/// From the moment that `format.json` may name the copy, what is written to the old data would be lost.
#[tokio::test]
async fn a_compaction_that_may_have_taken_place_stops_the_store_and_one_that_has_not_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = content::open(&path);
    store.commit(numbered(0)).await.unwrap();
    let (format, aside) = (path.join("format.json"), folder.path().join("aside"));
    let in_the_way = |path: &Path| fs::create_dir_all(path.join("in the way")).unwrap();

    in_the_way(&format.with_extension("new"));
    store.compact().await.unwrap_err();
    store.commit(numbered(1)).await.unwrap();
    fs::remove_dir_all(format.with_extension("new")).unwrap();

    fs::rename(&format, &aside).unwrap();
    in_the_way(&format);
    store.compact().await.unwrap_err();
    let refused = store.commit(numbered(2)).await.unwrap_err();
    assert!(matches!(&refused, store::CommitError::Failed(reason) if reason.contains("compacted")), "{refused}");
    assert!(store.failure().is_some(), "whoever watches over the daemon is told");
    let again = store.compact().await.unwrap_err();
    assert!(matches!(again, store::TransferError::Failed(_)), "{again}");
    store.close().await;

    fs::remove_dir_all(&format).unwrap();
    fs::rename(&aside, &format).unwrap();
    let store = content::open(&path);
    assert_eq!(counter(&store), Some(1));
    store.commit(numbered(2)).await.unwrap();
}

/// The file system refuses to write further: not by our reserve but in the middle of sled's work.
#[test]
fn a_write_that_fails_stops_the_store_and_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    content::open(&path).close_blocking();
    let program = std::env::current_exe().unwrap();
    // In blocks of 512 bytes or 1 KiB, as the shell counts: the limit falls into sled's second or third segment.
    let script = format!("trap '' XFSZ; ulimit -f 10240; exec '{}' {CHILD} --exact --nocapture", program.display());
    let output =
        Command::new("sh").args(["-c", &script]).env("STORE_UNDER_TEST", &path).stdin(Stdio::null()).output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success() && complained.contains("Failed"), "{complained}");
    let acknowledged = said.lines().filter_map(|line| line.strip_prefix("acknowledged ")).next_back();
    let acknowledged: u64 = acknowledged.unwrap().parse().unwrap();

    let store = open(&path);
    assert!(counter(&store) >= Some(acknowledged), "acknowledged {acknowledged}, found {:?}", counter(&store));
    assert_eq!(store.reader().verify().unwrap().problems, Vec::<String>::new());
}
