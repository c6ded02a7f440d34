//! A simulated Kubernetes cluster: object store, API servers, controllers and kubelets, for kubectl and client-go.
//!
//! [`ControlPlane`] is what etcd holds plus the controllers that act on it; it lives as long as the etcd membership does.
//! [`ApiServer`] is one frontend on one control-plane address and may come and go. [`Kubelet`] is one node's agent.

mod settings;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;

pub use self::settings::{
    ApiServerOptions, BootstrapManifests, ClusterIdentity, Cni, KubeletOptions, ServingIdentity, StaticPod, Taint,
};

/// The state of one cluster as its etcd holds it, with the controllers that act on it while an API server is up.
///
/// A cheap handle; all clones are the same cluster. Two bootstraps make two of these.
#[derive(Clone)]
pub struct ControlPlane {
    _identity: Arc<ClusterIdentity>,
}

/// Finds the control plane that a node's kubelet reaches at its configured endpoint now, if any.
pub type FindControlPlane = Arc<dyn Fn() -> Option<ControlPlane> + Send + Sync>;

impl ControlPlane {
    /// Makes an empty cluster. `speed` divides every waiting time: 60.0 makes a minute pass in a second.
    ///
    /// Must be called within a tokio runtime; the controllers end when the last handle is dropped.
    pub fn new(identity: ClusterIdentity, _speed: f64) -> Self {
        Self { _identity: Arc::new(identity) }
    }

    /// Says whether etcd has quorum. Without it nothing can be written and only cached reads are answered.
    pub fn set_quorum(&self, _quorum: bool) {}

    /// Creates what Talos applies at bootstrap: CoreDNS, kube-proxy, the CNI, bootstrap token, roles. Idempotent.
    pub fn apply_bootstrap_manifests(&self, _manifests: &BootstrapManifests) {}

    /// Starts an API server on `options.address` (port 0 picks one).
    ///
    /// # Errors
    /// When the address cannot be bound or the serving certificate is not usable.
    pub async fn start_api_server(&self, options: ApiServerOptions) -> io::Result<ApiServer> {
        Ok(ApiServer { address: options.address })
    }

    /// How many API servers are up.
    pub fn api_servers(&self) -> usize {
        0
    }

    /// One object by plural resource (`nodes`, `deployments.apps`), as the API would show it.
    pub fn get(&self, _resource: &str, _namespace: Option<&str>, _name: &str) -> Option<Arc<Value>> {
        None
    }

    /// All objects of a plural resource, of one namespace or of all.
    pub fn list(&self, _resource: &str, _namespace: Option<&str>) -> Vec<Arc<Value>> {
        Vec::new()
    }

    /// Cordons the node and evicts its pods, as Talos does for a graceful reset, reboot or upgrade; true when it is empty.
    pub async fn drain_node(&self, _name: &str) -> bool {
        true
    }

    /// Undoes the cordon of [`Self::drain_node`].
    pub fn uncordon_node(&self, _name: &str) {}

    /// Everything in the store, for an etcd snapshot.
    pub fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Replaces the store by a snapshot, as `etcd recover` does.
    ///
    /// # Errors
    /// When the bytes are not a snapshot made by [`Self::snapshot`].
    pub fn restore(&self, _snapshot: &[u8]) -> Result<(), serde_json::Error> {
        Ok(())
    }
}

/// One running API server; dropping it closes its listeners and cuts every open connection, as a power loss would.
pub struct ApiServer {
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
    pub async fn add_listener(&self, _address: SocketAddr) -> io::Result<()> {
        Ok(())
    }

    /// Stops listening on this address and cuts the connections made through it: the VIP moved away.
    pub fn remove_listener(&self, _address: SocketAddr) {}
}

/// One node's kubelet: registers the node, heartbeats, runs the pods bound to it. Dropping it is a power loss.
pub struct Kubelet {}

impl Kubelet {
    /// Starts a kubelet; it keeps asking `find` for the control plane it can reach, before and after losing it.
    pub fn start(_options: KubeletOptions, _find: FindControlPlane, _speed: f64) -> Self {
        Self {}
    }

    /// The kubelet as a Talos service: true once the node is registered and the control plane is reachable.
    pub fn is_registered(&self) -> bool {
        true
    }

    /// Whether the node's Ready condition is true, as far as the kubelet knows.
    pub fn is_node_ready(&self) -> bool {
        true
    }

    /// Replaces the static pods (an image or config version changed); mirror pods follow.
    pub fn set_static_pods(&self, _pods: Vec<StaticPod>) {}

    /// The mirror pod names with their phase and readiness, for Talos's `StaticPodStatus`.
    pub fn static_pod_statuses(&self) -> Vec<Arc<Value>> {
        Vec::new()
    }

    /// Changes what the node reports: labels, taints, versions. Takes effect with the next heartbeat.
    pub fn update(&self, _change: impl FnOnce(&mut KubeletOptions)) {}
}
