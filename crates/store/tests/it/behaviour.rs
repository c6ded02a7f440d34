//! Commits, preconditions, queries, secrets, outbox and archive.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretSlice};
use serde_json::{Value, json};
use store::{
    Commit, CommitError, Definition, InboxKey, InventoryChange, Known, Lane, OpenError, Options, ReadError, Retention,
    RunQuery, RunState, SecretPut, Store, create_key_file,
};
use uuid::Uuid;

use crate::{append, content::copy_folder, message, open, summary};

#[test]
fn a_commit_is_all_or_nothing_and_checks_what_it_expects() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let reader = store.reader();
    let (run, flow) = (Uuid::new_v4(), Uuid::new_v4());
    let inbox = InboxKey { source: "/operator/ada".to_owned(), id: "1".to_owned() };
    let first = Commit {
        inventory: vec![InventoryChange::create("cluster/a", json!({ "nodes": 3 }))],
        outgoing: vec![message("m1", Lane::Handoff), message("e1", Lane::Event)],
        inbox: Some(inbox.clone()),
        ..append(run, 0, vec![json!({ "type": "run_started" })], Some(summary(flow, RunState::Running)))
    };
    let committed = store.commit_blocking(first.clone()).unwrap();
    assert_eq!((committed.run_seq, committed.outgoing), (Some(1), vec![1, 1]));

    let duplicate = store.commit_blocking(first).unwrap_err();
    assert!(matches!(&duplicate, CommitError::Duplicate { first, .. } if first.run == Some(run)), "{duplicate}");

    let stale =
        Commit { inventory: vec![InventoryChange::put("cluster/b", json!(1))], ..append(run, 0, vec![json!(2)], None) };
    let error = store.commit_blocking(stale).unwrap_err();
    assert!(matches!(error, CommitError::Sequence { expected: 0, actual: 1, .. }), "{error}");
    assert_eq!(reader.get::<Value>("cluster/b").unwrap(), None);

    let seen = reader.get::<Value>("cluster/a").unwrap().unwrap();
    assert_eq!((seen.revision, seen.value), (committed.revision, json!({ "nodes": 3 })));
    let update = |revision| Commit {
        inventory: vec![InventoryChange::update("cluster/a", revision, json!({ "nodes": 4 }))],
        outgoing: vec![message("m2", Lane::Handoff)],
        ..Commit::default()
    };
    store.commit_blocking(update(seen.revision)).unwrap();
    let error = store.commit_blocking(update(seen.revision)).unwrap_err();
    assert!(matches!(error, CommitError::Precondition { actual: Some(_), .. }), "{error}");
    assert_eq!(reader.outbox(Lane::Handoff, 10).unwrap().len(), 2);

    let large = append(run, 1, vec![json!("x".repeat(70_000))], None);
    let error = store.commit_blocking(large).unwrap_err();
    assert!(matches!(error, CommitError::TooLarge { cap: 61_440, .. }), "{error}");
    assert_eq!(reader.journal(run, 0).unwrap(), vec![json!({ "type": "run_started" })]);
}

#[test]
fn whoever_looks_again_reads_what_changed_and_whoever_looks_for_some_reads_those() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let put = |key: &str, of: &str| InventoryChange::put(key, json!({ "of": of, "more": [1, 2] }));
    let commit = |inventory| store.commit_blocking(Commit { inventory, ..Commit::default() }).unwrap();
    commit(vec![put("vm/1", "a"), put("vm/2", "b"), put("vm/3", "a"), put("vn/1", "a")]);
    let reader = store.reader();
    let of = |value: &Value| value["of"].as_str().unwrap().to_owned();
    let first = reader.scan_again::<Value>("vm/", Known::new()).unwrap();
    assert_eq!(
        first.iter().map(|(key, known)| (key.as_str(), of(&known.value))).collect::<Vec<_>>(),
        [("vm/1", "a".to_owned()), ("vm/2", "b".to_owned()), ("vm/3", "a".to_owned())]
    );
    commit(vec![put("vm/2", "a"), InventoryChange::delete("vm/3"), put("vm/4", "c")]);
    let second = reader.scan_again("vm/", first.clone()).unwrap();
    assert_eq!(second.keys().collect::<Vec<_>>(), ["vm/1", "vm/2", "vm/4"]);
    assert!(Arc::ptr_eq(&first["vm/1"].value, &second["vm/1"].value), "it has not changed");
    assert_eq!(of(&second["vm/2"].value), "a");

    #[derive(serde::Deserialize)]
    struct Of {
        of: String,
    }
    let found = reader.scan_where::<Of, Value>("vm/", |part| part.of == "a").unwrap();
    assert_eq!(found, reader.scan::<Value>("vm/").unwrap()[..2]);
}

#[tokio::test]
async fn the_outbox_drains_in_order_and_a_poisonous_message_holds_up_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut head = store.outbox_head(Lane::Handoff);
    for id in ["a", "b", "c"] {
        let commit = Commit { outgoing: vec![message(id, Lane::Handoff)], ..Commit::default() };
        store.commit(commit).await.unwrap();
    }
    assert_eq!(*head.borrow_and_update(), 3);
    let reader = store.reader();
    let ids = || reader.outbox(Lane::Handoff, 10).unwrap().into_iter().map(|row| row.message.id).collect::<Vec<_>>();
    assert_eq!(ids(), ["a", "b", "c"]);
    store.mark_published(Lane::Handoff, 1).await.unwrap();
    store.park(Lane::Handoff, 2, "maximum payload exceeded").await.unwrap();
    assert_eq!(ids(), ["c"]);
    let parked = reader.parked().unwrap();
    assert_eq!((parked[0].row.seq, parked[0].reason.as_str()), (2, "maximum payload exceeded"));
    assert_eq!(store.retry_parked(Lane::Handoff, 2).await.unwrap(), Some(4));
    assert_eq!(ids(), ["c", "b"]);
    assert!(reader.parked().unwrap().is_empty());
    // As a crash would leave it: what is durable has taken with it that `a` was published.
    let crashed = tempfile::tempdir().unwrap();
    copy_folder(folder.path(), crashed.path());
    let left = open(crashed.path()).reader().outbox(Lane::Handoff, 10).unwrap();
    assert_eq!(left.into_iter().map(|row| row.message.id).collect::<Vec<_>>(), ["c", "b"]);
}

#[tokio::test]
async fn events_that_nobody_fetches_do_not_fill_the_disk_and_handoffs_stay() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { min_free_bytes: 0, event_backlog: 100, ..Options::default() };
    let store = Store::open(folder.path(), options).unwrap();
    for n in 0..70 {
        let events = (0..10).map(|e| message(&format!("{n}.{e}"), Lane::Event));
        let outgoing = events.chain([message(&n.to_string(), Lane::Handoff)]).collect();
        store.commit(Commit { outgoing, ..Commit::default() }).await.unwrap();
    }
    let reader = store.reader();
    let events = reader.outbox(Lane::Event, 1_000).unwrap();
    assert!(events.len() < 100 + 256 + 10, "{} events are left", events.len());
    assert_eq!(events.last().unwrap().message.id, "69.9");
    assert_eq!(reader.outbox(Lane::Handoff, 1_000).unwrap().len(), 70);
}

#[test]
fn secrets_are_sealed_keep_generations_and_open_only_with_their_key() {
    let folder = tempfile::tempdir().unwrap();
    let (key, recovery, other) =
        (folder.path().join("key"), folder.path().join("recovery"), folder.path().join("other"));
    create_key_file(&key).unwrap();
    let recovery_public = create_key_file(&recovery).unwrap();
    create_key_file(&other).unwrap();
    let path = folder.path().join("store");
    let with = |key: &std::path::Path, recovery: Option<&str>| Options {
        key_file: Some(key.to_owned()),
        recovery_recipient: recovery.map(str::to_owned),
        min_free_bytes: 0,
        ..Options::default()
    };
    let put = |plain: Option<Vec<u8>>| Commit {
        secrets: vec![SecretPut { name: "cluster/a/secrets".to_owned(), plain: plain.map(SecretSlice::from) }],
        ..Commit::default()
    };
    let canary = b"canary-4f1d".repeat(20_000);
    let store = Store::open(&path, with(&key, Some(&recovery_public))).unwrap();
    store.commit_blocking(put(Some(b"first".to_vec()))).unwrap();
    let second = store.commit_blocking(put(Some(canary.clone()))).unwrap();
    assert_eq!(second.generations["cluster/a/secrets"], 2);
    store.close_blocking();

    assert!(matches!(Store::open(&path, with(&other, None)).unwrap_err(), OpenError::Key(_)));
    // The recovery key opens what the daemon's key sealed.
    let store = Store::open(&path, with(&recovery, None)).unwrap();
    let reader = store.reader();
    let secret = reader.secret("cluster/a/secrets").unwrap().unwrap();
    assert_eq!((secret.generation, secret.plain.expose_secret()), (2, canary.as_slice()));
    let first = reader.secret_generation("cluster/a/secrets", 1).unwrap().unwrap();
    assert_eq!(first.plain.expose_secret(), b"first");
    assert_eq!(reader.secret_names("cluster/").unwrap(), [("cluster/a/secrets".to_owned(), 2)]);
    let on_disk = std::fs::read(path.join("data-1/db")).unwrap();
    assert!(!on_disk.windows(11).any(|window| window == b"canary-4f1d"));

    store.commit_blocking(put(None)).unwrap();
    assert!(reader.secret("cluster/a/secrets").unwrap().is_none());
    let third = store.commit_blocking(put(Some(b"third".to_vec()))).unwrap();
    assert_eq!(third.generations["cluster/a/secrets"], 3, "a generation never means two secrets");
    store.close_blocking();
    drop(reader);

    let store = open(&path);
    let error = store.reader().secret("cluster/a/secrets").unwrap_err();
    assert!(matches!(error, ReadError::Sealed { .. }), "{error}");
}

#[tokio::test]
async fn an_ended_flow_is_one_row_per_run_and_reads_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let reader = store.reader();
    let (run, flow) = (Uuid::new_v4(), Uuid::new_v4());
    let events: Vec<_> = (0..60).map(|n| json!({ "step": n, "output": "x".repeat(400) })).collect();
    store.commit(append(run, 0, events.clone(), Some(summary(flow, RunState::Running)))).await.unwrap();
    let early = store.commit(Commit { archive: vec![run], ..Commit::default() }).await.unwrap_err();
    assert!(matches!(early, CommitError::Invalid(_)), "{early}");

    let last = json!({ "type": "finished" });
    let end = append(run, 60, vec![last.clone()], Some(summary(flow, RunState::Succeeded)));
    store.commit(Commit { archive: vec![run], ..end }).await.unwrap();
    let all = events.into_iter().chain([last.clone()]).collect::<Vec<_>>();
    assert_eq!(reader.journal(run, 0).unwrap(), all);
    assert_eq!(reader.journal(run, 60).unwrap(), [last]);
    assert!(reader.run(run).unwrap().unwrap().archived);
    let late = store.commit(append(run, 61, vec![json!(1)], None)).await.unwrap_err();
    assert!(matches!(late, CommitError::Invalid(_)), "{late}");

    let listed = |query: &RunQuery| reader.runs(query).unwrap().into_iter().map(|row| row.run).collect::<Vec<_>>();
    assert_eq!(listed(&RunQuery::flow(flow)), [run]);
    assert_eq!(listed(&RunQuery { cluster: Some("prod-k8s".to_owned()), ..RunQuery::default() }), [run]);
    assert!(listed(&RunQuery::unfinished()).is_empty());

    let everything = Retention { runs: std::time::Duration::ZERO, inbox: std::time::Duration::ZERO };
    assert_eq!(store.prune(everything).await.unwrap().runs, 1);
    assert!(listed(&RunQuery::default()).is_empty());
    assert_eq!(reader.verify().unwrap().problems, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_not_archived_is_found_without_a_look_at_what_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let reader = store.reader();
    let unarchived = || {
        let mut found = Vec::new();
        reader.each_unarchived(|run, row| found.push((run, row.unwrap().summary.state))).unwrap();
        found
    };
    assert_eq!(unarchived(), []);
    let runs: Vec<_> = (1..=5).map(Uuid::from_u128).collect();
    for run in &runs {
        let events = (0..30).map(|n| json!({ "step": n })).collect();
        store.commit(append(*run, 0, events, Some(summary(Uuid::new_v4(), RunState::Succeeded)))).await.unwrap();
    }
    assert_eq!(unarchived(), runs.iter().map(|run| (*run, RunState::Succeeded)).collect::<Vec<_>>());
    store.commit(Commit { archive: vec![runs[0], runs[2], runs[4]], ..Commit::default() }).await.unwrap();
    assert_eq!(unarchived(), [(runs[1], RunState::Succeeded), (runs[3], RunState::Succeeded)]);
}

#[tokio::test]
async fn a_long_runs_archive_is_in_small_rows_and_reads_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (run, flow) = (Uuid::new_v4(), Uuid::new_v4());
    // Random text does not compress: some 120 KiB of archive.
    let events: Vec<_> =
        (0..10).map(|_| json!((0..300).map(|_| Uuid::new_v4().to_string()).collect::<String>())).collect();
    let end = append(run, 0, events.clone(), Some(summary(flow, RunState::Succeeded)));
    store.commit(Commit { archive: vec![run], ..end }).await.unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("export.jsonl");
    store.export(&file).await.unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let parts = rows.iter().filter(|row| row["k"].as_str().is_some_and(|key| key.starts_with("archive/")));
    let sizes: Vec<_> = parts.map(|row| row["b"].as_str().unwrap().len() * 3 / 4).collect();
    assert!(sizes.len() > 5 && sizes.iter().all(|size| *size <= 8 * 1024), "{sizes:?}");
    assert_eq!(store.reader().journal(run, 0).unwrap(), events);
    assert_eq!(store.reader().verify().unwrap().problems, Vec::<String>::new());
}

#[test]
fn a_disk_without_room_refuses_commits_until_there_is_some() {
    // A file system of its own, where there is one, that nothing else writes to.
    let shared_memory = std::path::Path::new("/dev/shm");
    let folder = if shared_memory.is_dir() { tempfile::tempdir_in(shared_memory) } else { tempfile::tempdir() };
    let folder = folder.unwrap();
    let free = fs4::available_space(folder.path()).unwrap();
    let slack = 24 << 20;
    let options = Options { min_free_bytes: free.saturating_sub(slack), ..Options::default() };
    let store = Store::open(&folder.path().join("store"), options).unwrap();
    let put = |n: u64| Commit { inventory: vec![InventoryChange::put("n", json!(n))], ..Commit::default() };
    store.commit_blocking(put(1)).unwrap();

    let filler = folder.path().join("filler");
    std::fs::write(&filler, vec![1; 2 * slack as usize]).unwrap();
    let error = store.commit_blocking(put(2)).unwrap_err();
    assert!(matches!(error, CommitError::DiskFull { .. }) && error.is_transient(), "{error}");
    assert!(error.to_string().starts_with("the disk is full ("), "{error}");
    assert_eq!(store.reader().get::<u64>("n").unwrap().unwrap().value, 1, "what is there can be read");

    std::fs::remove_file(&filler).unwrap();
    store.commit_blocking(put(3)).unwrap();
    assert_eq!(store.reader().get::<u64>("n").unwrap().unwrap().value, 3);
    assert_eq!(store.failure(), None);
}

#[test]
fn playbook_texts_are_kept_under_their_hash() {
    use sha2::{Digest, Sha256};
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let text = "playbook: provision-vms".to_owned();
    let hash = hex::encode(Sha256::digest(&text));
    let put = |hash: &str| Commit {
        definitions: vec![Definition { hash: hash.to_owned(), text: text.clone() }],
        ..Commit::default()
    };
    store.commit_blocking(put(&hash)).unwrap();
    store.commit_blocking(put(&hash)).unwrap();
    assert!(matches!(store.commit_blocking(put("00")).unwrap_err(), CommitError::Invalid(_)));
    assert_eq!(store.reader().definition(&hash).unwrap().as_deref(), Some(text.as_str()));
}

#[test]
fn a_full_disk_refuses_commits_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), Options { min_free_bytes: u64::MAX, ..Options::default() }).unwrap();
    let commit = Commit { inventory: vec![InventoryChange::put("a", json!(1))], ..Commit::default() };
    let error = store.commit_blocking(commit).unwrap_err();
    assert!(matches!(error, CommitError::DiskFull { .. }) && error.is_transient(), "{error}");
    assert_eq!(store.reader().get::<Value>("a").unwrap(), None);
    assert_eq!(store.failure(), None);
}
