//! How many slow operations may run at once per host and per storage.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Places by name, handed out fairly; a cheap clone.
///
/// Starting or cloning many VMs at once on one host or storage makes Proxmox's ten-second lock waits time out
/// (proxmox.md 5); queueing here costs nothing.
#[derive(Clone, Debug)]
pub struct Limits {
    places: usize,
    by_name: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Limits {
    /// `places` for every name, at least one.
    pub fn new(places: usize) -> Self {
        Self { places: places.max(1), by_name: Arc::default() }
    }

    /// A place for `name`, or `None` when none became free within `patience`.
    pub async fn take(&self, name: &str, patience: Duration) -> Option<Place> {
        let semaphore = {
            let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(by_name.entry(name.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.places))))
        };
        timeout(patience, semaphore.acquire_owned()).await.ok()?.ok().map(Place)
    }

    /// How many there are per name.
    pub fn places(&self) -> usize {
        self.places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_full_host_makes_the_next_wait_and_another_host_does_not() {
        let limits = Limits::new(1);
        let held = limits.take("pve1", Duration::from_secs(1)).await.unwrap();
        assert!(limits.take("pve1", Duration::from_secs(1)).await.is_none());
        assert!(limits.take("pve2", Duration::ZERO).await.is_some());
        drop(held);
        assert!(limits.take("pve1", Duration::from_secs(1)).await.is_some());
    }
}
