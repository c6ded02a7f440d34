//! Semaphores of this process that actions name: so many at once per host, per storage, per template.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

/// Permits in use by name.
#[derive(Clone)]
pub(super) struct Limits {
    used: Arc<Mutex<BTreeMap<String, usize>>>,
    changed: Arc<watch::Sender<u64>>,
}

/// Permits that go back when this is dropped.
pub(super) struct Permits {
    of: Limits,
    names: Vec<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { used: Arc::default(), changed: Arc::new(watch::Sender::new(0)) }
    }
}

impl Limits {
    /// One permit of each, or none and says why.
    pub(super) fn take(&self, limits: &[(String, usize)]) -> Result<Permits, String> {
        let mut used = self.used();
        let full = limits.iter().find(|(name, most)| used.get(name).is_some_and(|used| used >= most));
        if let Some((name, most)) = full {
            return Err(format!("limit {name}: {most} at work already"));
        }
        for (name, _) in limits {
            *used.entry(name.clone()).or_insert(0) += 1;
        }
        Ok(Permits { of: self.clone(), names: limits.iter().map(|(name, _)| name.clone()).collect() })
    }

    /// Resolves when asking again may help.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn used(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        if self.names.is_empty() {
            return;
        }
        let mut used = self.of.used();
        for name in &self.names {
            if let Some(count) = used.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    used.remove(name);
                }
            }
        }
        drop(used);
        self.of.changed.send_modify(|version| *version += 1);
    }
}
