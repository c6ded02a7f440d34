//! Damaged, foreign, newer and rolled back folders: nothing damaged is believed, and what is said to help helps.

use std::{
    fs,
    path::{Path, PathBuf},
};

use store::{Loss, OpenError, Options, ReadError, Store, TransferError};

use crate::{
    content::{Unfit, batches, copy_folder, filled, open, put, read_all, snapshot, wait},
    open as open_without_key,
};

/// Commits of the store that is damaged.
const COUNT: u64 = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Rows,
    Snapshot,
    Format,
    Watermark,
}

impl Target {
    fn file(self, store: &Path) -> PathBuf {
        match self {
            Self::Rows => store.join("data-1/db"),
            Self::Snapshot => snapshot(store).unwrap(),
            Self::Format => store.join("format.json"),
            Self::Watermark => store.join("acknowledged"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip,
    Truncate,
    Zero,
    Empty,
}

impl Damage {
    /// Does it to a file; `place` says where, of all that holds anything.
    fn strike(self, file: &Path, place: u64) {
        let mut bytes = fs::read(file).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let at = place as usize % used;
        match self {
            Self::Flip => bytes[at] ^= 1 << (place >> 32 & 7),
            Self::Truncate => bytes.truncate(at),
            Self::Zero => bytes.iter_mut().skip(at).take(512).for_each(|byte| *byte = 0),
            Self::Empty => bytes.clear(),
        }
        fs::write(file, bytes).unwrap();
    }
}

#[test]
fn damage_is_never_silently_wrong_and_what_is_said_to_help_helps() {
    let folder = tempfile::tempdir().unwrap();
    let (original, export) = (folder.path().join("original"), folder.path().join("export"));
    filled(&original, COUNT);
    export_of(&original, &export);
    let mut noticed = 0;
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for target in [Target::Rows, Target::Snapshot, Target::Format, Target::Watermark] {
        for damage in [Damage::Flip, Damage::Truncate, Damage::Zero, Damage::Empty] {
            for trial in 0..5 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let name = format!("{target:?}-{damage:?}-{trial}");
                let path = folder.path().join(&name);
                copy_folder(&original, &path);
                damage.strike(&target.file(&path), random);
                let found = read_all(&path, COUNT);
                match target {
                    Target::Rows => noticed += u64::from(found.is_err()),
                    Target::Snapshot => assert_eq!(found.as_ref().unwrap(), &None, "{name}"),
                    Target::Watermark => assert!(found.as_ref().unwrap().is_some(), "{name} is not told"),
                    Target::Format => assert!(!matches!(found, Err(Unfit::Unreadable(_))), "{name}: {found:?}"),
                }
                if let Err(unfit) = found {
                    helped(&path, &export, unfit);
                }
                fs::remove_dir_all(&path).unwrap();
            }
        }
    }
    assert!(noticed > 9, "only {noticed} of 20 damages were noticed: the test does not hit the data");
}

fn export_of(path: &Path, file: &Path) {
    let store = open(path);
    wait(store.export(file)).unwrap();
    store.close_blocking();
}

/// Does what the refusal says, each thing that it says.
fn helped(path: &Path, export: &Path, unfit: Unfit) {
    match unfit {
        Unfit::Unreadable(error) => assert!(!matches!(error, ReadError::Sealed { .. }), "{error}"),
        Unfit::Refused(error) => refused(path, error),
    }
    let refused = store::import(path, export, false).unwrap_err();
    assert!(matches!(refused, TransferError::NotEmpty { .. } | TransferError::Open(_)), "{refused}");
    assert!(refused.to_string().contains("--replace"), "{refused}");
    store::import(path, export, true).unwrap();
    assert_eq!(read_all(path, COUNT).unwrap(), None);
}

/// What a refusal says is the command that helps; one that accepts the loss does, too.
fn refused(path: &Path, error: OpenError) {
    let text = error.to_string();
    let restoring = format!("`cortexctl store import --folder {} --replace FILE`", path.display());
    assert!(text.contains(&restoring), "{text}");
    let accepting = format!("`cortexctl store accept-loss --folder {}`", path.display());
    assert_eq!(text.contains(&accepting), matches!(error, OpenError::Lost { .. }), "{text}");
    if let OpenError::Lost { acknowledged, found, .. } = error {
        let copy = path.with_file_name("accepted");
        copy_folder(path, &copy);
        assert_eq!(store::accept_loss(&copy).unwrap(), Loss { acknowledged, found });
        let store = open(&copy);
        assert_eq!(store.reader().verify().unwrap().problems, Vec::<String>::new());
        store.close_blocking();
        fs::remove_dir_all(&copy).unwrap();
    }
}

#[test]
fn an_unfinished_snapshot_of_a_killed_start_is_cured() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    filled(&path, COUNT);
    fs::write(path.join("data-1/snap.7FFFFFFFFFFFFFFF.generating"), b"half").unwrap();
    assert_eq!(read_all(&path, COUNT).unwrap(), None);
}

#[test]
fn a_damaged_snapshot_is_moved_aside_and_rebuilt_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    filled(&path, COUNT);
    fs::write(path.join("data-1/snap.7FFFFFFFFFFFFFFF"), b"not a snapshot at all").unwrap();
    assert_eq!(read_all(&path, COUNT).unwrap(), None);
    assert_eq!(fs::read_dir(path.join("quarantine")).unwrap().count(), 1);
}

#[test]
fn newer_and_foreign_folders_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    filled(&path, 20);
    let file = path.join("format.json");
    let format = fs::read_to_string(&file).unwrap();
    fs::write(&file, format.replace("\"format\": 1", "\"format\": 2")).unwrap();
    let error = Store::open(&path, Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 2, supported: 1, .. }), "{error}");
    fs::remove_file(&file).unwrap();
    let error = Store::open(&path, Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error}");
    // What a format file does not name is taken for left over: one that names nothing must not cost the rows.
    fs::write(&file, format.replace("data-1", "data-3")).unwrap();
    let error = Store::open(&path, Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error}");
    fs::write(&file, format).unwrap();
    fs::create_dir(path.join("data-of-somebody")).unwrap();
    assert_eq!(read_all(&path, 20).unwrap(), None);
    assert!(path.join("data-of-somebody").exists(), "only folders of ours are taken for left over");
}

#[test]
fn a_store_that_was_rolled_back_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("store"), folder.path().join("old"));
    filled(&path, 20);
    copy_folder(&path.join("data-1"), &old);
    let store = open(&path);
    put(&store, 20);
    store.close_blocking();
    fs::remove_dir_all(path.join("data-1")).unwrap();
    copy_folder(&old, &path.join("data-1"));
    let lost = Loss { acknowledged: Some(batches(21)), found: batches(20) };
    let error = Store::open(&path, Options::default()).unwrap_err();
    let is_lost = |error: &OpenError| {
        matches!(error, OpenError::Lost { acknowledged, found, .. }
            if (*acknowledged, *found) == (lost.acknowledged, lost.found))
    };
    assert!(is_lost(&error), "{error}");
    assert_eq!(store::accept_loss(&path).unwrap(), lost);
    assert_eq!(read_all(&path, 20).unwrap(), None);
    let nothing = Loss { acknowledged: Some(batches(20)), found: batches(20) };
    assert_eq!(store::accept_loss(&path).unwrap(), nothing);
}

/// Of two files that are gone each alone would be noticed by the other.
#[test]
fn a_store_without_rows_and_watermark_is_not_taken_for_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    open_without_key(folder.path()).close_blocking();
    let (rows, watermark) = (folder.path().join("data-1"), folder.path().join("acknowledged"));
    for damaged in [b"".as_slice(), b"more than twelve bytes"] {
        fs::remove_dir_all(&rows).unwrap();
        fs::write(&watermark, damaged).unwrap();
        let error = Store::open(folder.path(), Options::default()).unwrap_err();
        assert!(matches!(error, OpenError::Lost { acknowledged: None, found: 0, .. }), "{error}");
        assert_eq!(store::accept_loss(folder.path()).unwrap(), Loss { acknowledged: None, found: 0 });
        let store = open_without_key(folder.path());
        assert_eq!(store.doubt(), None);
        store.close_blocking();
    }
    // A kill may leave the watermark of a store that has nothing else yet.
    fs::remove_dir_all(&rows).unwrap();
    fs::remove_file(folder.path().join("format.json")).unwrap();
    open_without_key(folder.path()).close_blocking();
}

#[test]
fn what_the_file_system_refuses_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(&file.join("store"), Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }) && error.to_string().contains("move away"), "{error}");
}
