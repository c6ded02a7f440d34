//! Kernel and service logs of one boot (talos.md 3.7).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast;

/// Lines kept per log.
const KEPT: usize = 2000;

/// Log id and line, as they are written.
type Lines = broadcast::Receiver<(String, String)>;

/// The logs of a boot; a cheap handle.
#[derive(Clone)]
pub(crate) struct Logs {
    lines: Arc<Mutex<BTreeMap<String, VecDeque<String>>>>,
    /// Log id and line.
    sender: broadcast::Sender<(String, String)>,
}

/// The id of the kernel's log.
pub(crate) const KERNEL: &str = "kernel";

impl Default for Logs {
    fn default() -> Self {
        Self { lines: Arc::default(), sender: broadcast::channel(1000).0 }
    }
}

impl Logs {
    /// What the console and dmesg show.
    pub(crate) fn kernel(&self, message: &str) {
        let now = jiff::Timestamp::now();
        self.append(KERNEL, format!("user: warning: [{now:.9}]: [talos] {message}"));
    }

    /// A line of a service's log.
    pub(crate) fn service(&self, id: &str, message: &str) {
        let now = jiff::Timestamp::now();
        self.append(id, format!("{now:.3} {message}"));
    }

    fn append(&self, id: &str, line: String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let log = lines.entry(id.to_owned()).or_default();
        if log.len() == KEPT {
            log.pop_front();
        }
        log.push_back(line.clone());
        // Nobody following is fine.
        let _ = self.sender.send((id.to_owned(), line));
    }

    /// The last lines of a log and all that follow; `None` for an unknown log.
    pub(crate) fn follow(&self, id: &str, tail: Option<usize>) -> Option<(Vec<String>, Lines)> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let log = lines.get(id)?;
        let skip = tail.map_or(0, |tail| log.len().saturating_sub(tail));
        Some((log.iter().skip(skip).cloned().collect(), self.sender.subscribe()))
    }

    /// Services that have written something.
    pub(crate) fn ids(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.keys().filter(|id| *id != KERNEL).cloned().collect()
    }
}
