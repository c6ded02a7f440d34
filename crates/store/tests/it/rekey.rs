//! Secrets under another key: all of them or none, whenever the process is killed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret, SecretSlice};
use serde_json::json;
use store::{
    Commit, InventoryChange, KeyError, OpenError, Options, Recovery, Rekey, RekeyError, RunState, SecretPut, Store,
};
use uuid::Uuid;

use crate::{append, summary};

const CHILD: &str = "rekey::child_seals_again_until_it_is_killed";
/// Secrets of the store, each with so many generations.
const SECRETS: usize = 40;
const GENERATIONS: u64 = 2;

fn with_key(key: &Path, recovery: Option<&str>) -> Options {
    Options {
        key_file: Some(key.to_owned()),
        recovery_recipient: recovery.map(str::to_owned),
        min_free_bytes: 0,
        ..Options::default()
    }
}

/// One that fits in a row, one that needs several.
fn plain(number: usize, generation: u64) -> Vec<u8> {
    let size = if number.is_multiple_of(8) { 150_000 } else { 700 };
    (0..size).map(|at| (at as u64 * 31 + number as u64 * 7 + generation) as u8).collect()
}

fn name(number: usize) -> String {
    format!("cluster/c{number}/secrets")
}

fn fill(path: &Path, key: &Path, recovery: Option<&str>) {
    let store = Store::open(path, with_key(key, recovery)).unwrap();
    for generation in 1..=GENERATIONS {
        for number in 0..SECRETS {
            let plain = Some(SecretSlice::from(plain(number, generation)));
            let run = append(
                Uuid::new_v4(),
                0,
                vec![json!({ "n": number })],
                Some(summary(Uuid::from_u128(7), RunState::Running)),
            );
            let inventory = vec![InventoryChange::put(format!("vm/{number}"), json!(generation))];
            let secrets = vec![SecretPut { name: name(number), plain }];
            store.commit_blocking(Commit { secrets, inventory, ..run }).unwrap();
        }
    }
    // A name whose secret is gone keeps its generations apart for ever.
    let secrets = vec![SecretPut { name: name(1), plain: None }];
    store.commit_blocking(Commit { secrets, ..Commit::default() }).unwrap();
    store.close_blocking();
}

/// Everything is there, opens with this key, and fits together.
fn expect_sound(path: &Path, key: &Path) {
    let store = Store::open(path, with_key(key, None)).unwrap();
    let reader = store.reader();
    assert_eq!(reader.verify().unwrap().problems, Vec::<String>::new());
    assert_eq!(reader.secret_names("").unwrap().len(), SECRETS - 1);
    for number in (0..SECRETS).filter(|number| *number != 1) {
        assert_eq!(reader.get::<u64>(&format!("vm/{number}")).unwrap().unwrap().value, GENERATIONS);
        for generation in 1..=GENERATIONS {
            let secret = reader.secret_generation(&name(number), generation).unwrap().unwrap();
            assert!(secret.plain.expose_secret() == plain(number, generation), "{} has changed", name(number));
        }
    }
    drop(reader);
    store.close_blocking();
}

fn opens(path: &Path, key: &Path) -> bool {
    match Store::open(path, with_key(key, None)) {
        Ok(store) => {
            store.close_blocking();
            true
        }
        Err(OpenError::Key(KeyError::Wrong { .. })) => false,
        Err(other) => panic!("neither its key nor another: {other}"),
    }
}

fn keys(folder: &Path) -> (PathBuf, PathBuf) {
    let keys = (folder.join("one.age"), folder.join("other.age"));
    store::create_key_file(&keys.0).unwrap();
    store::create_key_file(&keys.1).unwrap();
    keys
}

/// Not a test of its own: the process that the next one kills.
#[test]
fn child_seals_again_until_it_is_killed() {
    let paths = ["REKEY_STORE", "REKEY_FROM", "REKEY_TO"].map(std::env::var_os);
    let [Some(store), Some(from), Some(to)] = &paths else { return };
    let how = Rekey { old_key: Path::new(from), new_key: Path::new(to), recovery: Recovery::Unsaid };
    store::rekey(Path::new(store), how).unwrap();
}

#[test]
fn killed_at_any_moment_the_store_opens_with_the_old_or_the_new_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (mut from, mut to) = keys(folder.path());
    fill(&path, &from, None);
    let mut whole = Duration::ZERO;
    let (mut as_before, mut sealed_again) = (0, 0);
    for round in 0..30_u32 {
        let began = Instant::now();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([CHILD, "--exact"])
            .env("REKEY_STORE", &path)
            .env("REKEY_FROM", &from)
            .env("REKEY_TO", &to)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        if round == 0 {
            assert!(child.wait().unwrap().success());
            whole = began.elapsed();
        } else {
            // Spread over the time that all of it takes; there is nothing to wait for.
            std::thread::sleep(whole * round / 26);
            child.kill().unwrap();
            child.wait().unwrap();
        }
        if opens(&path, &to) {
            sealed_again += 1;
            assert!(!opens(&path, &from), "round {round}: both keys open it");
            expect_sound(&path, &to);
            (from, to) = (to, from);
        } else {
            as_before += 1;
            expect_sound(&path, &from);
        }
    }
    assert!(as_before > 0 && sealed_again > 0, "{as_before} rounds changed nothing, {sealed_again} everything");
    let left = fs::read_dir(&path).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
    assert_eq!(left, 1, "an unfinished copy is left behind");
}

#[test]
fn the_recovery_recipient_opens_what_was_sealed_again_and_must_be_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (old, new) = keys(folder.path());
    let offline = folder.path().join("offline.age");
    let recipient = store::create_key_file(&offline).unwrap();
    fill(&path, &old, Some(&recipient));
    let how = Rekey { old_key: &old, new_key: &new, recovery: Recovery::Unsaid };
    assert!(matches!(store::rekey(&path, how), Err(RekeyError::Unsaid(others)) if others == [recipient.clone()]));
    let same = Rekey { new_key: &old, ..how };
    assert!(matches!(store::rekey(&path, same), Err(RekeyError::SameKey)));
    let stranger = Rekey { old_key: &new, new_key: &old, recovery: Recovery::Nobody };
    assert!(matches!(store::rekey(&path, stranger), Err(RekeyError::Key(KeyError::Wrong { .. }))));
    assert!(matches!(store::rekey(folder.path(), how), Err(RekeyError::Open(OpenError::NotAStore { .. }))));
    expect_sound(&path, &old);

    let running = Store::open(&path, with_key(&old, None)).unwrap();
    let named = Rekey { recovery: Recovery::Recipient(&recipient), ..how };
    assert!(matches!(store::rekey(&path, named), Err(RekeyError::Open(OpenError::InUse { .. }))));
    running.close_blocking();

    let rekeyed = store::rekey(&path, named).unwrap();
    assert_eq!(rekeyed.secrets, (SECRETS as u64 - 1) * GENERATIONS);
    assert_eq!(rekeyed.sealed_for.len(), 2);
    assert!(!opens(&path, &old));
    expect_sound(&path, &new);
    expect_sound(&path, &offline);
    // The key file was lost: with the recovery key a new one is made, and this time nobody else is to open it.
    let lost = folder.path().join("third.age");
    store::create_key_file(&lost).unwrap();
    store::rekey(&path, Rekey { old_key: &offline, new_key: &lost, recovery: Recovery::Nobody }).unwrap();
    assert!(!opens(&path, &offline) && !opens(&path, &new));
    expect_sound(&path, &lost);
}

#[test]
fn a_secret_that_the_old_key_does_not_open_is_named_and_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (old, new) = keys(folder.path());
    fill(&path, &old, None);
    // The recovery recipient comes later: what was sealed before does not open with its key.
    let offline = folder.path().join("offline.age");
    let recipient = store::create_key_file(&offline).unwrap();
    Store::open(&path, with_key(&old, Some(&recipient))).unwrap().close_blocking();
    let how = Rekey { old_key: &offline, new_key: &new, recovery: Recovery::Nobody };
    let error = store::rekey(&path, how).unwrap_err();
    assert!(matches!(&error, RekeyError::Secret { .. }), "{error}");
    assert!(error.to_string().contains("cluster/c0/secrets"), "{error}");
    expect_sound(&path, &old);
    // What the old key opens is now sealed for both.
    store::rekey(&path, Rekey { old_key: &old, new_key: &new, recovery: Recovery::Recipient(&recipient) }).unwrap();
    expect_sound(&path, &offline);
}
