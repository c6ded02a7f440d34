//! Looks at keys and certificates while the daemon runs, and tells of what ends soon: log, health, metrics, events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use messages::event::CertificateExpiring;
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::{Commit, InventoryChange, Outgoing, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Certificate, CredentialFile, Holds, problems};
use crate::{
    herald::{Context, Herald},
    intake::chain,
};

/// How often it looks, and how soon after the start, when servers have been reached.
const EVERY: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_secs(60);
/// A warning is not repeated earlier.
const REPEAT: SignedDuration = SignedDuration::from_hours(24);
/// Inventory of what was told when, so that a restart repeats nothing.
const TOLD: &str = "certificate-warning/";

/// Watches one contractor's keys and certificates.
pub struct Watcher {
    /// Opens what is kept sealed, and says what servers have shown.
    pub kept: Arc<dyn Fn() -> Vec<Certificate> + Send + Sync>,
    /// Remembers what was told.
    pub store: Store,
    /// Makes the events.
    pub herald: Herald,
    /// The files that the configuration names.
    pub files: Vec<CredentialFile>,
    /// How long before its end a certificate is told of.
    pub warn_before: SignedDuration,
    /// What `/healthz` says of them. None of it takes the daemon out of service: it would not start again.
    pub warnings: watch::Sender<Vec<String>>,
}

/// `certificate-warning/<id>`
#[derive(Serialize, Deserialize)]
struct Told {
    at: Timestamp,
}

impl Watcher {
    /// Looks until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let at_start = self.fingerprints();
        let mut pause = SOON;
        loop {
            self.look(Timestamp::now(), &at_start).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = EVERY,
            }
        }
    }

    /// Which certificates each file holds now.
    pub fn fingerprints(&self) -> BTreeMap<&'static str, Vec<String>> {
        let files = self.files.iter().filter(|file| file.holds == Holds::Certificates);
        let read = files.filter_map(|file| {
            let found = file.certificates_in_it().ok()?;
            Some((file.setting, found.into_iter().map(|of| of.dates.fingerprint).collect()))
        });
        read.collect()
    }

    /// One look, at `now`.
    pub async fn look(&self, now: Timestamp, at_start: &BTreeMap<&'static str, Vec<String>>) {
        let mut certificates: Vec<Certificate> =
            self.files.iter().filter(|file| file.holds == Holds::Certificates).flat_map(of_file).collect();
        for of in &certificates {
            let end = of.dates.not_after.as_second();
            metrics::gauge!("contractor_certificate_end_seconds", "setting" => of.object.clone()).set(end as f64);
        }
        let kept = Arc::clone(&self.kept);
        match tokio::task::spawn_blocking(move || kept()).await {
            Ok(kept) => certificates.extend(kept),
            Err(error) => tracing::error!(%error, "the certificates that are kept sealed cannot be looked at"),
        }
        certificates.retain(|certificate| certificate.dates.ends_within(self.warn_before, now));
        metrics::gauge!("contractor_certificates_ending").set(certificates.len() as f64);
        let mut warnings: Vec<String> = certificates.iter().map(|certificate| certificate.told(now)).collect();
        warnings.extend(changed(at_start, &self.fingerprints()));
        warnings.extend(problems(&self.files, now).into_iter().map(|finding| finding.problem));
        self.warnings.send_replace(warnings);
        if let Err(reason) = self.tell(&certificates, now).await {
            tracing::warn!(reason, "a certificate that ends soon could not be told of");
        }
    }

    /// Tells of each certificate at most once a day, and forgets those that are no longer of interest.
    async fn tell(&self, certificates: &[Certificate], now: Timestamp) -> Result<(), String> {
        let reader = self.store.reader();
        let known = reader.scan::<Told>(TOLD).map_err(|error| chain(&error))?;
        let known: BTreeMap<String, Timestamp> = known.into_iter().map(|row| (row.key, row.value.at)).collect();
        let mut commit = Commit::default();
        let mut wanted = BTreeSet::new();
        for certificate in certificates {
            let key = format!("{TOLD}{}", certificate.id());
            let is_due = known.get(&key).is_none_or(|at| now.duration_since(*at) >= REPEAT);
            // The same certificate may stand twice in one file.
            if wanted.insert(key.clone()) && is_due {
                tracing::warn!(certificate = certificate.told(now), "a certificate ends soon");
                commit.outgoing.push(self.event(certificate, now)?);
                commit.inventory.push(InventoryChange::put(key, json!(Told { at: now })));
            }
        }
        let gone = known.into_keys().filter(|key| !wanted.contains(key));
        commit.inventory.extend(gone.map(InventoryChange::delete));
        if commit.is_empty() {
            return Ok(());
        }
        self.store.commit(commit).await.map(drop).map_err(|error| chain(&error))
    }

    fn event(&self, certificate: &Certificate, now: Timestamp) -> Result<Outgoing, String> {
        let Certificate { object, cluster, file, dates, mend } = certificate;
        let body = CertificateExpiring {
            event_type: String::new(),
            object: object.clone(),
            file: file.as_ref().map(|file| file.display().to_string()),
            subject: dates.subject.clone(),
            fingerprint: dates.fingerprint.clone(),
            not_after: dates.not_after,
            days_left: dates.days_left(now),
            hint: mend.clone(),
        };
        let context = Context { cluster: cluster.clone(), ..Context::default() };
        let event = self.herald.event(Uuid::now_v7(), "certificate_expiring", &context, &body);
        event.map_err(|failure| failure.message)
    }
}

/// A file that cannot be read now is among the problems already.
fn of_file(file: &CredentialFile) -> Vec<Certificate> {
    file.certificates_in_it().unwrap_or_default()
}

/// Files that were renewed on the disk: what this process read at its start is what it uses.
fn changed<'f>(
    before: &'f BTreeMap<&'static str, Vec<String>>,
    now: &'f BTreeMap<&'static str, Vec<String>>,
) -> impl Iterator<Item = String> + 'f {
    let other = |setting: &&&'static str| now.get(**setting).is_some_and(|found| Some(found) != before.get(**setting));
    before.keys().filter(other).map(|setting| {
        format!("{setting} holds other certificates than at the start: start the daemon again to use them")
    })
}
