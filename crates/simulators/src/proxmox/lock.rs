//! The lock files of a node and of the cluster, with the waits and texts of PVE (proxmox.md 5).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::pace::Pace;

/// Locks by path, made when first asked for.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    by_path: Mutex<HashMap<String, Arc<RwLock<()>>>>,
}

/// Holds a lock until dropped.
#[derive(Debug)]
pub(crate) enum Held {
    Exclusive(#[expect(dead_code, reason = "held for its drop")] OwnedRwLockWriteGuard<()>),
    Shared(#[expect(dead_code, reason = "held for its drop")] OwnedRwLockReadGuard<()>),
}

/// What is locked, and how long callers wait for it.
#[derive(Clone, Debug)]
pub(crate) struct LockName {
    path: String,
    timeout_text: String,
    wait: Duration,
}

impl LockName {
    /// The configuration file of a VM.
    pub(crate) fn guest(host: &str, vmid: u32) -> Self {
        Self::file(host, &format!("/var/lock/qemu-server/lock-{vmid}.conf"), 10)
    }

    /// A storage: a file on the node when local, a cluster lock when shared.
    pub(crate) fn storage(host: &str, storage: &str, shared: bool) -> Self {
        if shared {
            let text = format!("cfs-lock 'storage-{storage}' error: got lock request timeout");
            return Self {
                path: format!("cluster:storage-{storage}"),
                timeout_text: text,
                wait: Duration::from_secs(10),
            };
        }
        Self::file(host, &format!("/var/lock/pve-manager/pve-storage-{storage}"), 10)
    }

    fn file(host: &str, file: &str, seconds: u64) -> Self {
        let timeout_text = format!("can't lock file '{file}' - got timeout");
        Self { path: format!("{host}:{file}"), timeout_text, wait: Duration::from_secs(seconds) }
    }

    pub(crate) fn waiting(mut self, seconds: u64) -> Self {
        self.wait = Duration::from_secs(seconds);
        self
    }
}

impl Locks {
    fn lock(&self, path: &str) -> Arc<RwLock<()>> {
        let mut by_path = self.by_path.lock().unwrap_or_else(PoisonError::into_inner);
        by_path.entry(path.to_owned()).or_default().clone()
    }

    /// Waits for a lock alone; the error is PVE's time-out text.
    pub(crate) async fn exclusive(&self, name: &LockName, pace: &Pace) -> Result<Held, String> {
        let lock = self.lock(&name.path);
        if let Ok(guard) = lock.clone().try_write_owned() {
            return Ok(Held::Exclusive(guard));
        }
        let waited = tokio::time::timeout(patience(name, pace), lock.write_owned()).await;
        waited.map(Held::Exclusive).map_err(|_| name.timeout_text.clone())
    }

    /// Waits for a lock together with other readers.
    pub(crate) async fn shared(&self, name: &LockName, pace: &Pace) -> Result<Held, String> {
        let lock = self.lock(&name.path);
        let waited = tokio::time::timeout(patience(name, pace), lock.read_owned()).await;
        waited.map(Held::Shared).map_err(|_| name.timeout_text.clone())
    }
}

/// Real work behind a lock takes a little time even when simulated delays are off, so waits have a floor.
fn patience(name: &LockName, pace: &Pace) -> Duration {
    pace.scale(name.wait).max(Duration::from_millis(250))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_busy_lock_times_out_with_the_text_of_its_kind() {
        let (locks, pace) = (Locks::default(), Pace::default());
        let name = LockName::guest("pve1", 100);
        let held = locks.exclusive(&name, &pace).await.unwrap();
        let error = locks.shared(&name, &pace).await.unwrap_err();
        assert_eq!(error, "can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout");
        drop(held);
        let first = locks.shared(&name, &pace).await;
        assert!(first.is_ok() && locks.shared(&name, &pace).await.is_ok());
    }
}
