//! The level-triggered loops that act on the object store while an API server is up and etcd has quorum.

mod certificates;
mod cron_jobs;
mod daemon_sets;
pub(crate) mod definitions;
mod deployments;
pub(crate) mod disruption;
mod endpoints;
mod garbage;
mod jobs;
mod namespaces;
mod node_lifecycle;
mod replica_sets;
mod scheduler;
mod stateful_sets;
mod templates;
mod volumes;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(super) use self::node_lifecycle::least_grace;
use super::cluster::Cluster;
use crate::crowd;

/// How often the controllers look without being woken, for what only time changes; in a fast world not more often than is
/// bearable.
const TICK: Duration = Duration::from_secs(1);
const LEAST_TICK: Duration = Duration::from_millis(100);
/// How often they look at everything although nothing has changed, as informers resync: events, for one, only grow old.
const RESYNC: Duration = Duration::from_secs(10);
/// How long changes gather before the controllers look at them.
const GATHER: Duration = Duration::from_millis(3);

/// Starts the controllers; they end with the token.
pub(super) fn start(cluster: &Arc<Cluster>, stop: CancellationToken) {
    let cluster = Arc::clone(cluster);
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = run(cluster) => {}
        }
    });
}

async fn run(cluster: Arc<Cluster>) {
    let mut activity = cluster.store.activity();
    let mut nodes = node_lifecycle::Observer::default();
    let _member = crowd::join();
    // The revision that the last look at everything began with, and when; its own writes are looked at once more.
    let mut seen = None;
    loop {
        let now = (*activity.borrow_and_update(), Instant::now());
        let resync = crowd::spread(RESYNC);
        let is_seen = seen.is_some_and(|(revision, at)| revision == now.0 && now.1 - at < resync);
        if !cluster.is_available() {
            // Nobody could renew a lease meanwhile; silence counts from when somebody can again.
            nodes = node_lifecycle::Observer::default();
            seen = None;
        } else if is_seen {
            watch_the_clock(&cluster, &mut nodes);
        } else {
            reconcile(&cluster, &mut nodes);
            seen = Some(now);
        }
        let tick = cluster.scaled(TICK).max(crowd::spread(LEAST_TICK));
        tokio::select! {
            _ = activity.changed() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(tick) => {}
        }
    }
}

/// What can be to do although nothing has changed.
fn watch_the_clock(cluster: &Arc<Cluster>, nodes: &mut node_lifecycle::Observer) {
    nodes.sync(cluster);
    cron_jobs::sync(cluster);
    jobs::sync(cluster);
}

/// One look at everything; each controller is idempotent and writes nothing when nothing is to be done.
fn reconcile(cluster: &Arc<Cluster>, nodes: &mut node_lifecycle::Observer) {
    namespaces::sync(cluster);
    definitions::remove_orphans(cluster);
    nodes.sync(cluster);
    certificates::sync(cluster);
    cron_jobs::sync(cluster);
    jobs::sync(cluster);
    deployments::sync(cluster);
    replica_sets::sync(cluster);
    stateful_sets::sync(cluster);
    daemon_sets::sync(cluster);
    volumes::sync(cluster);
    scheduler::sync(cluster);
    endpoints::sync(cluster);
    disruption::sync(cluster);
    garbage::sync(cluster);
}
