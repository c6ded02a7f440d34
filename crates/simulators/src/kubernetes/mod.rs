//! A simulated Kubernetes cluster: object store, API servers, controllers and kubelets, for kubectl and client-go.
//!
//! [`ControlPlane`] is what etcd holds plus the controllers that act on it; it lives as long as the etcd membership does.
//! [`ApiServer`] is one frontend on one control-plane address and may come and go. [`Kubelet`] is one node's agent.

mod api;
mod bootstrap;
mod cluster;
mod controllers;
mod defaults;
mod drain;
mod kubelet;
mod object;
mod patch;
mod pod_security;
mod quantity;
mod resources;
mod selectors;
mod settings;
mod storage;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::api::server::Server;
use self::cluster::Cluster;
pub use self::kubelet::Kubelet;
pub(crate) use self::kubelet::containers::log_lines as container_log;
pub use self::settings::{
    ApiServerOptions, BootstrapManifests, ClusterIdentity, Cni, KubeletOptions, ServingIdentity, StaticPod, Taint,
};

/// The state of one cluster as its etcd holds it, with the controllers that act on it while an API server is up.
///
/// A cheap handle; all clones are the same cluster. Two bootstraps make two of these.
#[derive(Clone)]
pub struct ControlPlane {
    cluster: Arc<Cluster>,
    /// Ends the controllers with the last handle.
    _controllers: Arc<DropGuard>,
}

/// Finds the control plane that a node's kubelet reaches at its configured endpoint now, if any.
pub type FindControlPlane = Arc<dyn Fn() -> Option<ControlPlane> + Send + Sync>;

impl ControlPlane {
    /// Makes an empty cluster. `speed` divides every waiting time: 60.0 makes a minute pass in a second.
    ///
    /// Must be called within a tokio runtime; the controllers end when the last handle is dropped.
    pub fn new(identity: ClusterIdentity, speed: f64) -> Self {
        let cluster = Arc::new(Cluster::new(identity, speed));
        let stop = CancellationToken::new();
        controllers::start(&cluster, stop.clone());
        Self { cluster, _controllers: Arc::new(stop.drop_guard()) }
    }

    /// Lets calls fail as planned: `kube PATCH /api/v1/nodes/a`, and `kube ready DaemonSet kube-system/cilium-x` for a
    /// pod of a daemon set that is about to become ready.
    pub fn obey(&self, faults: crate::faults::Faults) {
        self.cluster.obey(faults);
    }

    /// Says whether etcd has quorum. Without it nothing can be written and only cached reads are answered.
    pub fn set_quorum(&self, quorum: bool) {
        self.cluster.set_quorum(quorum);
    }

    /// Creates what Talos applies at bootstrap: CoreDNS, kube-proxy, the CNI, bootstrap token, roles. Idempotent.
    pub fn apply_bootstrap_manifests(&self, manifests: &BootstrapManifests) {
        bootstrap::apply(&self.cluster, manifests);
    }

    /// The objects of every manifest that Talos renders from these settings, by the manifest's id.
    pub fn bootstrap_objects(
        identity: &ClusterIdentity,
        manifests: &BootstrapManifests,
    ) -> Vec<(&'static str, Vec<Value>)> {
        bootstrap::rendered(identity, manifests)
    }

    /// Starts an API server on `options.address` (port 0 picks one).
    ///
    /// # Errors
    /// When the address cannot be bound or the serving certificate is not usable.
    pub async fn start_api_server(&self, options: ApiServerOptions) -> io::Result<ApiServer> {
        bootstrap::system_objects(&self.cluster);
        let (server, address) = Server::start(Arc::clone(&self.cluster), &options).await?;
        Ok(ApiServer { server, address })
    }

    /// How many API servers are up.
    pub fn api_servers(&self) -> usize {
        self.cluster.api_servers()
    }

    /// True when an API server is up and etcd has quorum.
    pub fn is_available(&self) -> bool {
        self.cluster.is_available()
    }

    /// One object by plural resource (`nodes`, `deployments.apps`), as the API would show it.
    pub fn get(&self, resource: &str, namespace: Option<&str>, name: &str) -> Option<Arc<Value>> {
        self.cluster.store.get(resource, namespace.unwrap_or_default(), name)
    }

    /// All objects of a plural resource, of one namespace or of all.
    pub fn list(&self, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        self.cluster.store.list(resource, namespace)
    }

    /// All objects by plural resource, as the API would show them.
    pub fn objects(&self) -> BTreeMap<String, Vec<Arc<Value>>> {
        self.cluster.store.all()
    }

    /// Wakes with every write, for waiting until an object is as wanted.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.cluster.store.writes()
    }

    /// Cordons the node and evicts its pods, as Talos does for a graceful reset, reboot or upgrade; true when it is empty.
    ///
    /// Ends with the drain's deadline (five minutes, scaled) when budgets do not let every pod go.
    pub async fn drain_node(&self, name: &str) -> bool {
        drain::drain(&self.cluster, name).await
    }

    /// Undoes the cordon of [`Self::drain_node`].
    pub fn uncordon_node(&self, name: &str) {
        drain::set_unschedulable(&self.cluster, name, false);
    }

    /// Everything in the store, for an etcd snapshot.
    pub fn snapshot(&self) -> Vec<u8> {
        self.cluster.store.snapshot()
    }

    /// Replaces the store by a snapshot, as `etcd recover` does.
    ///
    /// # Errors
    /// When the bytes are not a snapshot made by [`Self::snapshot`].
    pub fn restore(&self, snapshot: &[u8]) -> Result<(), serde_json::Error> {
        self.cluster.store.restore(snapshot)?;
        controllers::definitions::sync(&self.cluster);
        Ok(())
    }
}

/// One running API server; dropping it closes its listeners and cuts every open connection, as a power loss would.
pub struct ApiServer {
    server: Server,
    address: SocketAddr,
}

impl ApiServer {
    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Also listens on this address: the VIP arrived here.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn add_listener(&self, address: SocketAddr) -> io::Result<()> {
        self.server.listen(address).await
    }

    /// Keeps every request waiting, as a server does whose machine stands still.
    pub fn set_frozen(&self, frozen: bool) {
        self.server.set_frozen(frozen);
    }

    /// Stops listening on this address and cuts the connections made through it: the VIP moved away.
    pub fn remove_listener(&self, address: SocketAddr) {
        self.server.leave(address);
    }
}
