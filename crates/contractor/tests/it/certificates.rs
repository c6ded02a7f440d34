//! Certificates that end soon are told of once a day, also by a daemon that was started again.

use std::sync::Arc;

use contractor::{
    credentials::{Certificate, CredentialFile, Dates, Watcher},
    herald::Herald,
};
use jiff::{SignedDuration, Timestamp};
use messages::{event::CertificateExpiring, subject::Party};
use rcgen::{CertificateParams, DnType, KeyPair};
use store::{Lane, Options, Store};
use tokio::sync::{mpsc, watch};

/// The end of the certificate in the file; that which is kept sealed ends a year later.
const END: (i32, u8, u8) = (2030, 6, 30);

struct Watch {
    folder: tempfile::TempDir,
    store: Store,
    watcher: Watcher,
    warnings: watch::Receiver<Vec<String>>,
}

fn pem(name: &str, (year, month, day): (i32, u8, u8)) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(year, month, day);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

fn open(folder: &tempfile::TempDir) -> Store {
    let options = Options { min_free_bytes: 0, ..Options::default() };
    Store::open(&folder.path().join("store"), options).unwrap()
}

fn watch_over(folder: tempfile::TempDir, store: Store, kept: &str) -> Watch {
    let [dates] = &Dates::read(kept.as_bytes()).unwrap()[..] else { panic!("one certificate") };
    let kept = Certificate {
        object: "the Talos API authority".into(),
        cluster: Some("prod".into()),
        file: None,
        dates: dates.clone(),
        mend: "plan its rotation".into(),
    };
    let (warnings, seen) = watch::channel(Vec::new());
    let watcher = Watcher {
        kept: Arc::new(move || vec![kept.clone()]),
        store: store.clone(),
        herald: Herald::new(Party::Talos, mpsc::unbounded_channel().0),
        files: vec![CredentialFile::certificates("bus.ca_file", &folder.path().join("ca.pem"))],
        warn_before: SignedDuration::from_hours(30 * 24),
        warnings,
    };
    Watch { folder, store, watcher, warnings: seen }
}

/// Subject and body of the events so far.
fn told(store: &Store) -> Vec<(String, CertificateExpiring)> {
    let rows = store.reader().outbox(Lane::Event, 100).unwrap().into_iter();
    rows.map(|row| (row.message.subject, serde_json::from_str(&row.message.body).unwrap())).collect()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_certificate_that_ends_soon_is_told_of_once_a_day() {
    let folder = tempfile::tempdir().unwrap();
    let kept = pem("talos", (2031, 6, 30));
    std::fs::write(folder.path().join("ca.pem"), pem("bus", END)).unwrap();
    let store = open(&folder);
    let on = watch_over(folder, store, &kept);
    let start = on.watcher.fingerprints();

    on.watcher.look(at("2030-05-30T00:00:00Z"), &start).await;
    assert_eq!((told(&on.store).len(), on.warnings.borrow().len()), (0, 0), "31 days before");
    for (now, count) in [
        ("2030-06-01T00:00:00Z", 1),
        ("2030-06-01T01:00:00Z", 1),
        ("2030-06-01T23:59:59Z", 1),
        ("2030-06-02T00:00:00Z", 2),
    ] {
        on.watcher.look(at(now), &start).await;
        assert_eq!(told(&on.store).len(), count, "at {now}");
    }
    let (subject, body) = told(&on.store).pop().unwrap();
    assert_eq!(subject, "cortex.event.talos._.certificate_expiring");
    assert_eq!((body.object.as_str(), body.subject.contains("CN=bus"), body.days_left), ("bus.ca_file", true, 28));
    assert!(body.file.unwrap().ends_with("ca.pem") && body.hint.contains("start the daemon again"));
    assert!(on.warnings.borrow()[0].contains("expires in 28 days, at 2030-06-30T00:00:00Z"), "{:?}", on.warnings);

    // Another life of the daemon knows what was told.
    let Watch { folder, store, watcher, .. } = on;
    drop(watcher);
    store.close().await;
    let again = open(&folder);
    let on = watch_over(folder, again, &kept);
    on.watcher.look(at("2030-06-02T12:00:00Z"), &start).await;
    assert_eq!(told(&on.store).len(), 2);

    // A renewed file is no longer told of, but this process does not use it yet; what has ended still is told of.
    std::fs::write(on.folder.path().join("ca.pem"), pem("bus", (2040, 1, 1))).unwrap();
    on.watcher.look(at("2031-07-02T00:00:00Z"), &start).await;
    let (subject, body) = told(&on.store).pop().unwrap();
    assert_eq!(subject, "cortex.event.talos.prod.certificate_expiring");
    assert_eq!((body.file, body.days_left), (None, -2));
    let warnings = on.warnings.borrow().join("\n");
    for wanted in ["the Talos API authority of cluster prod", "expired at 2031-06-30", "bus.ca_file holds other"] {
        assert!(warnings.contains(wanted), "{wanted}: {warnings}");
    }
    let remembered = on.store.reader().keys("certificate-warning/").unwrap();
    assert_eq!(remembered.len(), 1, "what is no longer told of is forgotten");
    on.store.close().await;
}
