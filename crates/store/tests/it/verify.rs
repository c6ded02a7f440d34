//! A check of the whole store beside a contractor at work.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use secrecy::SecretSlice;
use serde_json::json;
use store::{Commit, Deed, InboxKey, InventoryChange, Lane, Options, RunState, SecretPut, Store, create_key_file};
use uuid::Uuid;

use crate::{append, message, summary};

/// A store with a key and some 20,000 rows.
fn filled(folder: &Path) -> Store {
    let key_file = folder.join("key");
    create_key_file(&key_file).unwrap();
    let options = Options { key_file: Some(key_file), min_free_bytes: 0, ..Options::default() };
    let store = Store::open(&folder.join("store"), options).unwrap();
    for part in 0..10 {
        let put = |n| InventoryChange::put(format!("vm/{part}-{n}"), json!({ "n": n, "text": "x".repeat(40) }));
        store.commit_blocking(Commit { inventory: (0..2_000).map(put).collect(), ..Commit::default() }).unwrap();
    }
    store
}

/// One of every kind of row, in step `n % 3` of the life of run `n / 3`.
fn busy(n: u64) -> Commit {
    let run = Uuid::from_u128(u128::from(n / 3) + 1);
    let (state, is_last) = if n % 3 == 2 { (RunState::Succeeded, true) } else { (RunState::Running, false) };
    Commit {
        secrets: vec![SecretPut { name: "cluster/a/secrets".to_owned(), plain: Some(SecretSlice::from(vec![7; 90])) }],
        outgoing: vec![message(&n.to_string(), Lane::Handoff)],
        inbox: Some(InboxKey { source: "/operator/ada".to_owned(), id: n.to_string() }),
        archive: if is_last { vec![run] } else { vec![] },
        audit: vec![Deed { who: "/operator/ada".to_owned(), did: "it".to_owned(), ..Deed::default() }],
        ..append(run, n % 3, vec![json!({ "n": n })], Some(summary(Uuid::from_u128(7), state)))
    }
}

#[test]
fn a_check_finds_no_fault_with_what_commits_change_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path());
    let (done, commits) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                store.commit_blocking(busy(commits.load(Ordering::SeqCst))).unwrap();
                commits.fetch_add(1, Ordering::SeqCst);
            }
        });
        let beside = || commits.load(Ordering::SeqCst);
        let (mut checks, mut found) = (0, Ok(Vec::new()));
        while found == Ok(Vec::new()) && checks < 1_000 && (checks < 4 || beside() <= 4) {
            found = store.reader().verify().map(|verified| verified.problems).map_err(|error| error.to_string());
            checks += 1;
        }
        done.store(true, Ordering::SeqCst);
        assert_eq!(found, Ok(Vec::new()));
        assert!(beside() > 4, "{} commits went on beside {checks} checks", beside());
    });
    store.close_blocking();
}
