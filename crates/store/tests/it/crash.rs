//! Kills, damage and foreign folders: nothing acknowledged is lost, nothing damaged is believed.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use store::{Commit, InventoryChange, Lane, OpenError, Options, RunQuery, RunState, Store};
use uuid::Uuid;

use crate::{append, message, open, summary};

const CHILD: &str = "crash::child_commits_until_it_is_killed";

/// Commit number `n` of the child: run `n / 10`, event `n % 10`; every tenth ends its run and archives it.
fn numbered(n: u64) -> Commit {
    let run = Uuid::from_u128(u128::from(n / 10) + 1);
    let state = if n % 10 == 9 { RunState::Succeeded } else { RunState::Running };
    let event = json!({ "n": n, "text": "x".repeat(300) });
    Commit {
        inventory: vec![InventoryChange::put("counter", json!(n)), InventoryChange::put(format!("vm/{n}"), json!(n))],
        outgoing: vec![message(&n.to_string(), Lane::Handoff)],
        archive: if n % 10 == 9 { vec![run] } else { vec![] },
        ..append(run, n % 10, vec![event], Some(summary(Uuid::from_u128(7), state)))
    }
}

fn counter(store: &Store) -> Option<u64> {
    store.reader().get::<u64>("counter").unwrap().map(|found| found.value)
}

/// Not a test of its own: the process that the next one kills. By itself it has nothing to do.
#[test]
fn child_commits_until_it_is_killed() {
    let Some(path) = std::env::var_os("STORE_UNDER_TEST") else { return };
    let store = open(Path::new(&path));
    let mut n = counter(&store).map_or(0, |n| n + 1);
    loop {
        store.commit_blocking(numbered(n)).unwrap();
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

        let store = open(&path);
        let found = counter(&store);
        assert!(found >= acknowledged, "round {round}: acknowledged {acknowledged:?}, found {found:?}");
        let verified = store.reader().verify().unwrap();
        assert_eq!(verified.problems, Vec::<String>::new(), "round {round}");
        if let Some(last) = found {
            assert_eq!(verified.rows["outbox"], last + 1);
            let runs = store.reader().runs(&RunQuery::default()).unwrap();
            assert_eq!(runs.iter().map(|row| row.seq).sum::<u64>(), last + 1);
        }
        store.close_blocking();
    }
    assert!(acknowledged.is_some());
}

/// A closed store with known content.
fn filled(path: &Path) -> u64 {
    let store = open(path);
    for n in 0..400 {
        store.commit_blocking(numbered(n)).unwrap();
    }
    store.close_blocking();
    400
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Reads everything; `Ok` only when all of it is there and right.
fn read_all(path: &Path, count: u64) -> Result<(), String> {
    let options = Options { min_free_bytes: 0, ..Options::default() };
    let store = Store::open(path, options).map_err(|error| error.to_string())?;
    let reader = store.reader();
    let read = || -> Result<(), store::ReadError> {
        for n in 0..count {
            let vm = reader.get::<u64>(&format!("vm/{n}"))?.map(|found| found.value);
            assert_eq!(vm, Some(n), "vm/{n} is wrong and nobody said so");
            if n % 10 == 0 {
                let journal = reader.journal(Uuid::from_u128(u128::from(n / 10) + 1), 0)?;
                assert_eq!(journal.len(), 10);
                assert_eq!(journal[3]["n"], n + 3);
            }
        }
        let outbox = reader.outbox(Lane::Handoff, 1_000)?;
        assert_eq!(outbox.len() as u64, count);
        let runs = reader.runs(&RunQuery::default())?;
        assert_eq!(runs.len() as u64, count / 10);
        Ok(())
    };
    let result = read().map_err(|error| error.to_string());
    let problems = reader.verify().map(|verified| verified.problems.len()).unwrap_or(1);
    assert!(result.is_ok() || problems > 0, "verify does not see what a read sees: {result:?}");
    drop(reader);
    store.close_blocking();
    result
}

#[test]
fn damage_is_never_silently_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    let count = filled(&original);
    let used = fs::read(original.join("data-1/db")).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    let mut noticed = 0;
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for trial in 0..60 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let path = folder.path().join(format!("trial-{trial}"));
        copy_folder(&original, &path);
        let target = match trial % 6 {
            5 => fs::read_dir(path.join("data-1"))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .find(|path| path.to_string_lossy().contains("snap."))
                .unwrap_or_else(|| path.join("data-1/db")),
            _ => path.join("data-1/db"),
        };
        let mut bytes = fs::read(&target).unwrap();
        let at = random as usize % bytes.len().min(used + 1);
        match trial % 3 {
            0 => bytes[at] ^= 1 << (random % 8),
            1 => bytes.truncate(at),
            _ => bytes.iter_mut().skip(at).take(512).for_each(|byte| *byte = 0),
        }
        fs::write(&target, bytes).unwrap();
        if let Err(error) = read_all(&path, count) {
            assert!(!error.is_empty());
            noticed += 1;
        }
        fs::remove_dir_all(&path).unwrap();
    }
    assert!(noticed > 20, "only {noticed} of 60 damages were noticed: the test does not hit the data");
}

#[test]
fn an_unfinished_snapshot_of_a_killed_start_is_cured() {
    let folder = tempfile::tempdir().unwrap();
    let count = filled(folder.path());
    fs::write(folder.path().join("data-1/snap.7FFFFFFFFFFFFFFF.generating"), b"half").unwrap();
    read_all(folder.path(), count).unwrap();
}

#[test]
fn a_damaged_snapshot_is_moved_aside_and_rebuilt_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let count = filled(folder.path());
    fs::write(folder.path().join("data-1/snap.7FFFFFFFFFFFFFFF"), b"not a snapshot at all").unwrap();
    read_all(folder.path(), count).unwrap();
    let quarantined = fs::read_dir(folder.path().join("quarantine")).unwrap().count();
    assert_eq!(quarantined, 1);
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

#[test]
fn newer_and_foreign_folders_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let file = folder.path().join("format.json");
    let format = fs::read_to_string(&file).unwrap();
    fs::write(&file, format.replace("\"format\": 1", "\"format\": 2")).unwrap();
    let error = Store::open(folder.path(), Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 2, supported: 1, .. }), "{error}");
    fs::remove_file(&file).unwrap();
    let error = Store::open(folder.path(), Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error}");
    fs::write(&file, format).unwrap();
    open(folder.path()).close_blocking();
}

#[test]
fn a_store_that_was_rolled_back_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("store"), folder.path().join("old"));
    filled(&path);
    copy_folder(&path.join("data-1"), &old);
    let store = open(&path);
    store.commit_blocking(numbered(400)).unwrap();
    store.close_blocking();
    fs::remove_dir_all(path.join("data-1")).unwrap();
    copy_folder(&old, &path.join("data-1"));
    let error = Store::open(&path, Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Lost { acknowledged: 401, found: 400, .. }), "{error}");
    let accepted = Options { accept_loss: true, min_free_bytes: 0, ..Options::default() };
    Store::open(&path, accepted).unwrap().close_blocking();
    open(&path).close_blocking();
}

#[tokio::test]
async fn export_wipe_import_gives_the_same_store() {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = (folder.path().join("store"), folder.path().join("export.jsonl"));
    let filling = path.clone();
    tokio::task::spawn_blocking(move || filled(&filling)).await.unwrap();
    let store = open(&path);
    let exported = store.export(&file).await.unwrap();
    let revision = store.reader().revision();
    store.close().await;
    let refused = store::import(&path, &file, false).unwrap_err();
    assert!(matches!(refused, store::TransferError::NotEmpty { .. }), "{refused}");
    fs::remove_dir_all(&path).unwrap();
    assert_eq!(store::import(&path, &file, false).unwrap(), exported);

    let store = open(&path);
    assert_eq!(store.reader().revision(), revision);
    assert_eq!(store.reader().verify().unwrap().problems, Vec::<String>::new());
    let again = folder.path().join("again.jsonl");
    assert_eq!(store.export(&again).await.unwrap(), exported);
    store.commit(numbered(400)).await.unwrap();
    store.close().await;

    // A damaged export changes nothing.
    let text = fs::read_to_string(&file).unwrap();
    let changed = text.replacen("\"value\":7}", "\"value\":8}", 1);
    assert_ne!(text, changed);
    fs::write(&file, changed).unwrap();
    assert!(store::import(&path, &file, true).is_err());
    fs::write(&file, &text[..text.len() / 2]).unwrap();
    assert!(store::import(&path, &file, true).is_err());
    assert_eq!(counter(&open(&path)), Some(400));
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
    let store = open(folder.path());
    store.commit(numbered(0)).await.unwrap();
    let (format, aside) = (folder.path().join("format.json"), folder.path().join("aside"));
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
    let store = open(folder.path());
    assert_eq!(counter(&store), Some(1));
    store.commit(numbered(2)).await.unwrap();
}

/// The file system refuses to write further: not by our reserve but in the middle of sled's work.
#[test]
fn a_write_that_fails_stops_the_store_and_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    open(&path).close_blocking();
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
