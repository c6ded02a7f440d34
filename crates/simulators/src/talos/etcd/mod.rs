//! etcd clusters of the lab: membership, the Kubernetes objects they hold, and who holds each virtual address.

mod model;
mod service;
pub(crate) mod snapshot;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::{Duration, Instant};
use uuid::Uuid;

pub(crate) use self::model::{Membership, Refusal};
pub(crate) use self::service::{Bootstrap, Service, run};
use crate::kubernetes::ControlPlane;

/// One etcd cluster with what it stores; lives as long as a disk or a running member knows it.
#[derive(Clone)]
pub(crate) struct Cluster(Arc<Shared>);

struct Shared {
    /// Certificate of the etcd CA: only members that trust it can join.
    ca: String,
    /// Certificate of the Kubernetes CA.
    kubernetes_ca: String,
    membership: Mutex<Membership>,
    control_plane: ControlPlane,
    leases: Mutex<HashMap<IpAddr, Lease>>,
    /// Which boot runs each member: the end of an earlier boot must not stop its successor.
    runners: Mutex<HashMap<u64, Uuid>>,
    changed: watch::Sender<u64>,
}

#[derive(Clone, Copy)]
struct Lease {
    holder: u64,
    until: Instant,
}

/// The part of a data directory that says whose it is.
#[derive(Clone)]
pub(crate) struct Data {
    pub(crate) cluster: Cluster,
    pub(crate) member: u64,
}

impl Cluster {
    /// Bootstraps a new cluster with one member; `authorities` are the certificates of the etcd and Kubernetes CAs.
    pub(crate) fn bootstrap(
        seed: u64,
        authorities: (&str, &str),
        founder: (&str, IpAddr),
        control_plane: ControlPlane,
    ) -> (Self, u64) {
        let (membership, member) = Membership::bootstrap(seed, founder.0, founder.1);
        control_plane.set_quorum(false);
        let shared = Shared {
            ca: authorities.0.to_owned(),
            kubernetes_ca: authorities.1.to_owned(),
            membership: Mutex::new(membership),
            control_plane,
            leases: Mutex::default(),
            runners: Mutex::default(),
            changed: watch::Sender::new(0),
        };
        (Self(Arc::new(shared)), member)
    }

    pub(crate) fn trusts(&self, ca: &str) -> bool {
        self.0.ca.trim() == ca.trim()
    }

    /// Whether its API servers' certificates come from this CA.
    pub(crate) fn serves_ca(&self, ca: &str) -> bool {
        self.0.kubernetes_ca.trim() == ca.trim()
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn control_plane(&self) -> &ControlPlane {
        &self.0.control_plane
    }

    /// Looks at the membership.
    pub(crate) fn read<T>(&self, reader: impl FnOnce(&Membership) -> T) -> T {
        reader(&self.lock())
    }

    /// Changes the membership; the API servers learn at once whether there is quorum.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Membership) -> T) -> T {
        let (result, quorum) = {
            let mut membership = self.lock();
            let result = change(&mut membership);
            (result, membership.has_quorum())
        };
        self.0.control_plane.set_quorum(quorum);
        self.0.changed.send_modify(|count| *count += 1);
        result
    }

    /// A boot runs the member now; false when the member was removed for good.
    pub(crate) fn member_started(&self, member: u64, name: &str, boot: Uuid) -> bool {
        self.0.runners.lock().unwrap_or_else(PoisonError::into_inner).insert(member, boot);
        self.change(|membership| membership.started(member, name))
    }

    /// A boot no longer runs the member.
    pub(crate) fn member_stopped(&self, member: u64, boot: Uuid) {
        let ours = self.0.runners.lock().unwrap_or_else(PoisonError::into_inner).get(&member) == Some(&boot);
        if ours {
            self.change(|membership| membership.stopped(member));
        }
    }

    /// Wakes whoever waits for a membership change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Takes or keeps a virtual address for `lifetime`; needs quorum. False when another member holds it.
    pub(crate) fn hold(&self, address: IpAddr, member: u64, lifetime: Duration) -> bool {
        let may = self.read(|membership| {
            membership.has_quorum() && membership.member(member).is_some_and(|member| member.running && !member.learner)
        });
        if !may {
            return false;
        }
        let now = Instant::now();
        let mut leases = self.0.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let lease = leases.entry(address).or_insert(Lease { holder: member, until: now });
        if lease.holder != member && lease.until > now {
            return false;
        }
        *lease = Lease { holder: member, until: now + lifetime };
        true
    }

    /// Gives a virtual address up, as a graceful stop does.
    pub(crate) fn release(&self, address: IpAddr, member: u64) {
        let mut leases = self.0.leases.lock().unwrap_or_else(PoisonError::into_inner);
        if leases.get(&address).is_some_and(|lease| lease.holder == member) {
            leases.remove(&address);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Membership> {
        self.0.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
