//! Exports: what becomes one, what may become of a file, and the way back.

use std::{fs, os::unix::fs::PermissionsExt};

use store::TransferError;

use crate::content::{counter, filled, open, put, read_all, wait};

const COUNT: u64 = 40;

#[test]
fn export_wipe_import_gives_the_same_store() {
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = (folder.path().join("store"), folder.path().join("export.jsonl"));
    filled(&path, COUNT);
    let store = open(&path);
    let exported = wait(store.export(&file)).unwrap();
    let revision = store.reader().revision();
    store.close_blocking();
    let refused = store::import(&path, &file, false).unwrap_err();
    assert!(matches!(refused, TransferError::NotEmpty { .. }), "{refused}");
    fs::remove_dir_all(&path).unwrap();
    // What fails leaves nothing in the way of what is right.
    let missing = store::import(&path, &folder.path().join("missing"), false).unwrap_err();
    assert!(matches!(missing, TransferError::Io { .. }), "{missing}");
    assert_eq!(store::import(&path, &file, false).unwrap(), exported);

    assert_eq!(read_all(&path, COUNT).unwrap(), None);
    let store = open(&path);
    assert_eq!(store.reader().revision(), revision);
    assert_eq!(store.reader().verify().unwrap().problems, Vec::<String>::new());
    let again = folder.path().join("again.jsonl");
    assert_eq!(wait(store.export(&again)).unwrap(), exported);
    put(&store, COUNT);
    store.close_blocking();

    // A damaged export changes nothing.
    let text = fs::read_to_string(&file).unwrap();
    let changed = text.replacen("\"value\":7}", "\"value\":8}", 1);
    assert_ne!(text, changed);
    for damaged in [&changed, &text[..text.len() / 2], ""] {
        fs::write(&file, damaged).unwrap();
        let refused = store::import(&path, &file, true).unwrap_err();
        assert!(matches!(refused, TransferError::DamagedExport { .. }), "{refused}");
    }
    let newer = text.replacen("\"cortex_store_export\":1", "\"cortex_store_export\":2", 1);
    fs::write(&file, newer).unwrap();
    let refused = store::import(&path, &file, true).unwrap_err();
    assert!(matches!(refused, TransferError::Newer { found: 2, supported: 1, .. }), "{refused}");
    assert!(refused.to_string().contains("import it with the version that wrote it"), "{refused}");
    assert_eq!(counter(&open(&path)), Some(COUNT));
}

#[tokio::test]
async fn an_export_takes_the_place_of_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let path = at("store");
    let store = open(&path);
    std::os::unix::fs::symlink(at("nowhere"), at("dangling")).unwrap();
    std::os::unix::fs::symlink(at("key"), at("to-the-key")).unwrap();
    std::os::unix::fs::symlink(&path, at("to-the-store")).unwrap();
    let key = fs::read(at("key")).unwrap();
    let format = fs::read(path.join("format.json")).unwrap();
    for (file, reason) in [
        ("key", "something is there"),
        ("dangling", "something is there"),
        ("to-the-key", "something is there"),
        ("store", "something is there"),
        ("store/format.json", "in the folder of the store"),
        ("store/data-1/db", "in the folder of the store"),
        ("store/new", "in the folder of the store"),
        ("to-the-store/new", "in the folder of the store"),
        ("store/../store/new", "in the folder of the store"),
        ("missing/new", "does not exist"),
        ("key/new", "its folder is none"),
        ("..", "names no file"),
    ] {
        let refused = store.export(&at(file)).await.unwrap_err();
        assert!(matches!(refused, TransferError::Target { .. }), "{file}: {refused}");
        assert!(refused.to_string().contains(reason), "{file}: {refused}");
    }
    assert_eq!((fs::read(at("key")).unwrap(), fs::read(path.join("format.json")).unwrap()), (key, format));
    assert!(!at("nowhere").exists());

    store.export(&at("one")).await.unwrap();
    store.export(&at("store/../two")).await.unwrap();
    let mut left: Vec<String> =
        fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["dangling", "key", "one", "store", "to-the-key", "to-the-store", "two"]);
    assert_eq!(fs::metadata(at("one")).unwrap().permissions().mode() & 0o777, 0o600);
    store.close().await;
}
