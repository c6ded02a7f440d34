//! What the datacenter took its time for: which machine, with what, from when to when.

use std::{
    fmt::{self, Display},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// Every delay that was waited for to its end, where they are recorded; clones are the same record. The default records nothing.
#[derive(Clone, Debug, Default)]
pub struct Delays(Option<Arc<Mutex<Vec<Delay>>>>);

/// A stretch of time that a machine needed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delay {
    /// `qemu/101` or `node/pve1`, as Proxmox calls them, or `cluster`.
    pub machine: String,
    /// The type of a Proxmox task (`qmstart`), what a node is at (`etcd member`), or of a pod `pull`, `start` or `run` with its
    /// name: `pull kube-system/cilium-x7k2p`.
    pub what: String,
    /// Unix time in seconds.
    pub begin: f64,
    /// Unix time in seconds.
    pub end: f64,
}

/// Who takes time.
#[derive(Clone, Copy, Debug)]
pub enum Who<'a> {
    /// A VM, or the guest in it.
    Vm(u32),
    /// A hypervisor.
    Host(&'a str),
    /// Whichever of the hypervisors was asked.
    Cluster,
}

impl Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vm(vmid) => write!(f, "qemu/{vmid}"),
            Self::Host(name) => write!(f, "node/{name}"),
            Self::Cluster => f.write_str("cluster"),
        }
    }
}

/// The record of one VM's guest. The default records nothing.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    delays: Delays,
    vmid: u32,
}

impl Delays {
    /// A record that is kept.
    pub fn kept() -> Self {
        Self(Some(Arc::default()))
    }

    /// Everything so far, in the order in which it ended.
    pub fn list(&self) -> Vec<Delay> {
        let lock = |kept: &Arc<Mutex<Vec<Delay>>>| kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.0.as_ref().map(lock).unwrap_or_default()
    }

    /// A delay that ends now and took so long.
    pub fn note(&self, who: Who<'_>, what: impl Display, took: Duration) {
        let Some(kept) = &self.0 else { return };
        let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let delay = Delay {
            machine: who.to_string(),
            what: what.to_string(),
            begin: end.saturating_sub(took).as_secs_f64(),
            end: end.as_secs_f64(),
        };
        kept.lock().unwrap_or_else(PoisonError::into_inner).push(delay);
    }

    /// The record of one VM's guest.
    pub(crate) fn of(&self, vmid: u32) -> Recorder {
        Recorder { delays: self.clone(), vmid }
    }
}

impl Recorder {
    /// A delay of this guest that ends now and took so long.
    pub(crate) fn note(&self, what: impl Display, took: Duration) {
        self.delays.note(Who::Vm(self.vmid), what, took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::Pace;

    #[tokio::test]
    async fn what_was_waited_for_is_recorded_and_what_took_no_time_is_not() {
        let pace = Pace::recording(100.0, Delays::kept());
        pace.pass(Who::Host("pve1"), "download", Duration::from_secs(2)).await;
        pace.set_speed(f64::INFINITY);
        pace.pass(Who::Vm(101), "firmware", Duration::from_secs(8)).await;
        pace.delays().of(102).note("pod", Duration::from_secs(1));
        let recorded = pace.delays().list();
        let shown: Vec<_> = recorded.iter().map(|delay| (&*delay.machine, &*delay.what)).collect();
        assert_eq!(shown, [("node/pve1", "download"), ("qemu/102", "pod")]);
        assert!(recorded[0].end - recorded[0].begin >= 0.02);
    }

    #[test]
    fn nothing_is_kept_by_default() {
        Delays::default().note(Who::Vm(101), "qmstart", Duration::from_secs(2));
        assert!(Delays::default().list().is_empty());
    }
}
