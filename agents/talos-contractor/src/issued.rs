//! What was issued from the secrets of clusters for pieces of work: short-lived, kept in memory only, used while it lasts.
//!
//! Opening the secrets and making a key with its certificate costs more than most calls that are made with it.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use contractor::action::StepError;
use jiff::Timestamp;
use messages::name::ClusterName;
use store::Reader;
use talos::secrets::Bundle;

use crate::{failure::read, inventory, reach};

/// Certificates for a piece of work live this long.
pub const LIFETIME: Duration = Duration::from_secs(3600);
/// And are replaced when less than this is left.
const MARGIN: Duration = Duration::from_secs(600);

/// What was issued, one for each cluster and purpose.
pub struct Issued<P, T>(Mutex<Known<P, T>>);

/// By cluster, generation of its secrets, and purpose: when, and what.
type Kept<P, T> = HashMap<(ClusterName, u64, P), (Timestamp, T)>;

struct Known<P, T> {
    kept: Kept<P, T>,
    /// So many make a look for those of clusters that are gone worth it.
    looked_at: usize,
}

impl<P, T> Default for Issued<P, T> {
    fn default() -> Self {
        Self(Mutex::new(Known { kept: HashMap::new(), looked_at: 0 }))
    }
}

impl<P: Eq + Hash + Clone, T: Clone> Issued<P, T> {
    /// What is issued for a purpose from a cluster's newest secrets: what there is if it lasts, or what `issue` makes.
    ///
    /// # Errors
    /// That the secrets cannot be read, or what `issue` says.
    pub fn of(
        &self,
        store: &Reader,
        cluster: &ClusterName,
        purpose: P,
        issue: impl FnOnce(&Bundle, Timestamp) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let now = Timestamp::now();
        let newest = store.newest_generation(&inventory::bundle_name(cluster)).map_err(read)?;
        if let Some(generation) = newest {
            let known = self.known();
            let found = known.kept.get(&(cluster.clone(), generation, purpose.clone()));
            if let Some((_, issued)) = found.filter(|(at, _)| lasts(*at, now)) {
                return Ok(issued.clone());
            }
        }
        let (generation, bundle) = reach::bundle(store, cluster)?;
        let issued = issue(&bundle, now)?;
        let mut known = self.known();
        known.tidy(store, now);
        known.kept.insert((cluster.clone(), generation, purpose), (now, issued.clone()));
        Ok(issued)
    }

    fn known(&self) -> MutexGuard<'_, Known<P, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Eq + Hash, T> Known<P, T> {
    /// Drops what is about to end, and from time to time what belongs to no cluster any more.
    fn tidy(&mut self, store: &Reader, now: Timestamp) {
        self.kept.retain(|_, (at, _)| lasts(*at, now));
        if self.kept.len() > 2 * self.looked_at + 16 {
            self.kept.retain(|(cluster, ..), _| !matches!(inventory::cluster(store, cluster), Ok(None)));
            self.looked_at = self.kept.len();
        }
    }
}

/// Whether what was issued is good for a piece of work.
fn lasts(issued: Timestamp, now: Timestamp) -> bool {
    now.duration_since(issued).unsigned_abs() + MARGIN < LIFETIME
}
