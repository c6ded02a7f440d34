//! Ready service-account keys: as many as asked for, each taken once, never in the open on disk.

use std::{collections::HashSet, fs, path::Path};

use contractor::action::Effects;
use secrecy::ExposeSecret;
use store::{Commit, CommitError, Store};
use talos::pki::ServiceAccountKey;
use talos_contractor::key_pool;

const ROWS: &str = "service-account-key/";

fn open(folder: &Path) -> Store {
    let key_file = folder.join("age.key");
    if !key_file.exists() {
        store::create_key_file(&key_file).unwrap();
    }
    let options = store::Options { key_file: Some(key_file), ..store::Options::default() };
    Store::open(&folder.join("store"), options).unwrap()
}

async fn take(store: &Store) -> (String, Effects) {
    let mut effects = Effects::default();
    let key = key_pool::take(&store.reader(), ServiceAccountKey::Rsa4096, &mut effects).await.unwrap();
    (key.expose_secret().to_owned(), effects)
}

async fn commit(store: &Store, effects: Effects) -> Result<(), CommitError> {
    let with = Commit { inventory: effects.inventory, secrets: effects.secrets, ..Commit::default() };
    store.commit(with).await.map(drop)
}

fn ready(store: &Store) -> usize {
    store.reader().keys(ROWS).unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_ahead_taken_once_and_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    key_pool::refill(&store, 2).await;
    assert_eq!(ready(&store), 2);
    key_pool::refill(&store, 2).await;
    assert_eq!(ready(&store), 2, "a full pool is left alone");
    // Flows that reach for keys at the same time do not all want the same: 64 would by a chance of one in 2^63.
    let mut wanted = HashSet::new();
    for _ in 0..64 {
        wanted.insert(take(&store).await.0);
    }
    assert_eq!(wanted.len(), 2);

    let (first, mine) = take(&store).await;
    commit(&store, mine).await.unwrap();
    // Two flows reach for the same key: one of them has to reach again.
    let ((second, mine), (same, theirs)) = (take(&store).await, take(&store).await);
    assert!(second == same, "there is no other");
    commit(&store, mine).await.unwrap();
    assert!(commit(&store, theirs).await.is_err(), "a key that is gone cannot be taken");
    assert_eq!(ready(&store), 0);
    // An empty pool delays, and does not refuse.
    let (third, nothing) = take(&store).await;
    assert!(nothing.inventory.is_empty() && nothing.secrets.is_empty());
    let keys = HashSet::from([first, second, third]);
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| key.starts_with("-----BEGIN RSA PRIVATE KEY-----")));

    key_pool::refill(&store, 1).await;
    store.close().await;
    let mut files = Vec::new();
    collect(folder.path(), &mut files);
    assert!(!files.is_empty());
    for file in files {
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.windows(15).any(|window| window == b"RSA PRIVATE KEY"), "{}", file.display());
    }
    assert_eq!(ready(&open(folder.path())), 1, "the pool outlives a restart");
}

fn collect(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}

#[tokio::test]
async fn an_elliptic_key_needs_no_pool() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut effects = Effects::default();
    let key = key_pool::take(&store.reader(), ServiceAccountKey::EcdsaP256, &mut effects).await.unwrap();
    assert!(key.expose_secret().starts_with("-----BEGIN EC PRIVATE KEY-----"));
    assert!(effects.inventory.is_empty() && effects.secrets.is_empty());
}
