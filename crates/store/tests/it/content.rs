//! A store with every kind of row, and how all of it is read back.

use std::{fs, path::Path};

use secrecy::{ExposeSecret, SecretSlice};
use serde_json::json;
use sha2::{Digest, Sha256};
use store::{
    Commit, Deed, Definition, InboxKey, InventoryChange, Lane, OpenError, Options, ReadError, Reader, RunQuery,
    RunState, SecretPut, Store, create_key_file,
};
use uuid::Uuid;

use crate::{append, message, summary};

/// With the key that is beside the store's folder, made where there is none.
pub(crate) fn options(path: &Path) -> Options {
    let key_file = path.with_file_name("key");
    if !key_file.exists() {
        create_key_file(&key_file).unwrap();
    }
    Options { key_file: Some(key_file), min_free_bytes: 0, ..Options::default() }
}

/// Opens a store that can seal.
pub(crate) fn open(path: &Path) -> Store {
    Store::open(path, options(path)).unwrap()
}

fn run_of(n: u64) -> Uuid {
    Uuid::from_u128(u128::from(n / 10) + 1)
}

fn text(n: u64) -> String {
    format!("playbook: number-{n}")
}

fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

fn inbox(n: u64) -> InboxKey {
    InboxKey { source: "/operator/ada".to_owned(), id: n.to_string() }
}

fn secret(n: u64) -> Vec<u8> {
    format!("the keys of cluster {n}").into_bytes()
}

/// Commit number `n`: run `n / 10`, event `n % 10`. Every tenth begins with a secret and a playbook's text, has an event to
/// publish at 4, and ends its run and archives it.
pub(crate) fn numbered(n: u64) -> Commit {
    let (first, fifth, last) = (n.is_multiple_of(10), n % 10 == 4, n % 10 == 9);
    let state = if last { RunState::Succeeded } else { RunState::Running };
    let mut outgoing = vec![message(&n.to_string(), Lane::Handoff)];
    outgoing.extend(fifth.then(|| message(&format!("event-{n}"), Lane::Event)));
    let secrets = first.then(|| SecretPut { name: format!("cluster/{n}"), plain: Some(SecretSlice::from(secret(n))) });
    Commit {
        definitions: first.then(|| Definition { hash: hash(&text(n)), text: text(n) }).into_iter().collect(),
        inventory: vec![InventoryChange::put("counter", json!(n)), InventoryChange::put(format!("vm/{n}"), json!(n))],
        secrets: secrets.into_iter().collect(),
        outgoing,
        inbox: Some(inbox(n)),
        archive: if last { vec![run_of(n)] } else { vec![] },
        audit: vec![Deed { who: "/operator/ada".to_owned(), did: n.to_string(), ..Deed::default() }],
        ..append(
            run_of(n),
            n % 10,
            vec![json!({ "n": n, "text": "x".repeat(300) })],
            Some(summary(Uuid::from_u128(7), state)),
        )
    }
}

/// Waits for what the store does.
pub(crate) fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

/// Commits number `n`; the bus refuses its event, if it has one.
pub(crate) fn put(store: &Store, n: u64) {
    let committed = store.commit_blocking(numbered(n)).unwrap();
    if let Some(seq) = committed.outgoing.get(1) {
        wait(store.park(Lane::Event, *seq, "nobody may have it")).unwrap();
    }
}

/// The number of the last commit.
pub(crate) fn counter(store: &Store) -> Option<u64> {
    store.reader().get::<u64>("counter").unwrap().map(|found| found.value)
}

/// Batches that `count` commits come to: a parked message is one more.
pub(crate) fn batches(count: u64) -> u64 {
    count + (count + 5) / 10
}

/// A closed store of `count` commits, with a snapshot of sled's. They are a multiple of ten.
pub(crate) fn filled(path: &Path, count: u64) {
    let store = open(path);
    (0..count).for_each(|n| put(&store, n));
    store.close_blocking();
    // One is written when the log is read.
    open(path).close_blocking();
    assert!(snapshot(path).is_some(), "there is no snapshot");
}

/// The newest snapshot of a store whose data was never moved.
pub(crate) fn snapshot(path: &Path) -> Option<std::path::PathBuf> {
    let files = fs::read_dir(path.join("data-1")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("snap.")).max()
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
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

/// Why a store's content is not to be had.
#[derive(Debug)]
pub(crate) enum Unfit {
    Refused(OpenError),
    Unreadable(ReadError),
}

/// Reads everything; `Ok` only when all of it is there and right, with what the store doubts itself.
pub(crate) fn read_all(path: &Path, count: u64) -> Result<Option<String>, Unfit> {
    let store = Store::open(path, options(path)).map_err(Unfit::Refused)?;
    let doubt = store.doubt().map(str::to_owned);
    let reader = store.reader();
    let read = (0..count).try_for_each(|n| read_one(&reader, n)).and_then(|()| read_lists(&reader, count));
    let problems = reader.verify().map(|verified| verified.problems.len()).unwrap_or(1);
    assert!(read.is_ok() || problems > 0, "verify does not see what a read sees: {read:?}");
    drop(reader);
    store.close_blocking();
    read.map(|()| doubt).map_err(Unfit::Unreadable)
}

fn read_one(reader: &Reader, n: u64) -> Result<(), ReadError> {
    let vm = reader.get::<u64>(&format!("vm/{n}"))?.map(|found| found.value);
    assert_eq!(vm, Some(n), "vm/{n} is wrong and nobody said so");
    assert_eq!(reader.inbox(&inbox(n))?.and_then(|row| row.run), Some(run_of(n)), "message {n} is wrong");
    if n.is_multiple_of(10) {
        let journal = reader.journal(run_of(n), 0)?;
        assert_eq!(journal.len(), 10);
        assert_eq!(journal[3]["n"], n + 3);
        assert_eq!(reader.definition(&hash(&text(n)))?, Some(text(n)));
        let plain = reader.secret(&format!("cluster/{n}"))?.map(|secret| secret.plain.expose_secret().to_vec());
        assert_eq!(plain, Some(secret(n)), "secret {n} is wrong");
    }
    Ok(())
}

fn read_lists(reader: &Reader, count: u64) -> Result<(), ReadError> {
    assert_eq!(reader.outbox(Lane::Handoff, 1_000)?.len() as u64, count);
    assert_eq!(reader.outbox(Lane::Event, 1_000)?.len(), 0);
    let parked: Vec<String> = reader.parked()?.into_iter().map(|parked| parked.row.message.id).collect();
    let events: Vec<String> = (0..count).filter(|n| n % 10 == 4).map(|n| format!("event-{n}")).collect();
    assert_eq!(parked, events);
    assert_eq!(reader.runs(&RunQuery::default())?.len() as u64, count / 10);
    let deeds: Vec<String> = reader.audit(1, usize::MAX)?.into_iter().map(|record| record.deed.did).collect();
    assert_eq!(deeds, (0..count).map(|n| n.to_string()).collect::<Vec<_>>());
    Ok(())
}
