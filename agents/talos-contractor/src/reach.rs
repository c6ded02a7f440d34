//! How this contractor reaches its clusters: credentials from the sealed secrets, connections to allowed targets only.

use std::sync::Arc;

use contractor::action::{StepContext, StepError};
use messages::name::{ClusterName, NodeName};
use secrecy::ExposeSecret;
use store::{Reader, Versioned};
use talos::{
    api::{self, AllowedTargets, Client, Connector, Credentials},
    pki::{Role, Roles},
    secrets::Bundle,
};

use crate::{
    failure::{named, reached, read, unusable},
    inventory::{self, Cluster, Node},
    issued::{self, Issued},
    kubernetes,
    manifest::Fetcher,
    proof,
    settings::{AddonSettings, TalosSettings},
};

/// What actions work with. A cheap clone.
#[derive(Clone)]
pub struct Deps {
    inner: Arc<Inner>,
}

struct Inner {
    settings: TalosSettings,
    addons: AddonSettings,
    allowed: AllowedTargets,
    connector: Connector,
    manifests: Fetcher,
    credentials: Issued<Role, Credentials>,
    kubernetes: Issued<(), kubernetes::Access>,
}

impl Deps {
    /// Works by these settings, and dials `allowed` only.
    pub fn new(settings: TalosSettings, addons: AddonSettings, allowed: AllowedTargets) -> Self {
        let inner = Inner {
            settings,
            addons,
            connector: Connector::new(allowed.clone()),
            manifests: Fetcher::new(allowed.clone()),
            allowed,
            credentials: Issued::default(),
            kubernetes: Issued::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The section `[talos]`.
    pub fn settings(&self) -> &TalosSettings {
        &self.inner.settings
    }

    /// The section `[addons]`.
    pub fn addons(&self) -> &AddonSettings {
        &self.inner.addons
    }

    /// Where connections may go.
    pub fn allowed(&self) -> &AllowedTargets {
        &self.inner.allowed
    }

    /// Dials Talos nodes.
    pub fn connector(&self) -> &Connector {
        &self.inner.connector
    }

    /// Fetches manifests.
    pub fn manifests(&self) -> &Fetcher {
        &self.inner.manifests
    }

    /// A connection to a node of a cluster, with no more rights than `role` gives. One try.
    ///
    /// Whoever answers has the cluster's certificate for that address and is the machine of the node: the address may be
    /// another node's, too, by a mistake of somebody, and that one must not be bootstrapped or wiped in its place.
    pub async fn node(&self, store: &Reader, node: &Node, role: Role) -> Result<Client, StepError> {
        self.try_node(store, node, role).await.map_err(Missed::into_error)
    }

    /// The same, with what cannot pass by itself told apart.
    pub async fn try_node(&self, store: &Reader, node: &Node, role: Role) -> Result<Client, Missed> {
        let credentials = self.credentials(store, &node.cluster, role).map_err(Missed::Wrong)?;
        let client = self.connector().secure(node.ip, &credentials).await.map_err(|error| Missed::of(node, error))?;
        match proof::found(&client).await {
            Ok(found) => proof::same(node, found).map(|()| client).map_err(Missed::Wrong),
            Err(error) => Err(Missed::of(node, error)),
        }
    }

    /// Credentials of the Talos API for a piece of work; short-lived and kept in memory only.
    pub fn credentials(&self, store: &Reader, cluster: &ClusterName, role: Role) -> Result<Credentials, StepError> {
        self.inner.credentials.of(store, cluster, role, |bundle, now| {
            Credentials::issue(&bundle.os, &Roles::from(role), issued::LIFETIME, now)
                .map_err(|error| unusable("the cluster's Talos authority", &error))
        })
    }

    /// An administrator's access to a cluster's Kubernetes API, as short-lived.
    pub fn kubernetes(&self, store: &Reader, cluster: &ClusterName) -> Result<kubernetes::Access, StepError> {
        self.inner.kubernetes.of(store, cluster, (), kubernetes::Access::issue)
    }
}

/// Why a node was not reached.
pub enum Missed {
    /// Nobody answers, or a machine that has no configuration yet: it may be booting.
    Away(StepError),
    /// Whoever answers is somebody else, has another time, or refuses.
    Wrong(StepError),
}

impl Missed {
    fn of(node: &Node, error: api::Error) -> Self {
        let wrong = match &error {
            api::Error::Stranger { seen, .. } => !seen.is_unconfigured(),
            error => !error.is_unreachable() || matches!(error, api::Error::Clock(_)),
        };
        let error = named(node, reached(error));
        if wrong { Self::Wrong(error) } else { Self::Away(error) }
    }

    /// What it comes to for a step.
    pub fn into_error(self) -> StepError {
        match self {
            Self::Away(error) | Self::Wrong(error) => error,
        }
    }
}

/// The cluster's secrets and which generation they are.
pub fn bundle(store: &Reader, cluster: &ClusterName) -> Result<(u64, Bundle), StepError> {
    let name = inventory::bundle_name(cluster);
    let secret = store.secret(&name).map_err(read)?;
    let secret = secret.ok_or_else(|| StepError::fail(format!("there are no secrets of cluster {cluster}")))?;
    let text =
        std::str::from_utf8(secret.plain.expose_secret()).map_err(|error| unusable("the cluster's secrets", &error))?;
    let bundle = Bundle::from_yaml(text).map_err(|error| unusable("the cluster's secrets", &error))?;
    Ok((secret.generation, bundle))
}

/// The record of a cluster that must be known.
pub fn known_cluster(cx: &StepContext, name: &ClusterName) -> Result<Versioned<Cluster>, StepError> {
    let known = inventory::cluster(&cx.store, name).map_err(read)?;
    known.ok_or_else(|| StepError::fail(format!("cluster {name} is not known here")))
}

/// The record of a node that must be known.
pub fn known_node(cx: &StepContext, cluster: &ClusterName, name: &NodeName) -> Result<Versioned<Node>, StepError> {
    let known = cx.store.get(&inventory::node_key(cluster, name)).map_err(read)?;
    known.ok_or_else(|| StepError::fail(format!("node {name} of cluster {cluster} is not known here")))
}

/// The control planes of a cluster, in the order of their names.
pub fn control_planes(store: &Reader, cluster: &ClusterName) -> Result<Vec<Node>, StepError> {
    let nodes = inventory::nodes(store, cluster).map_err(read)?;
    Ok(nodes.into_iter().map(|node| node.value).filter(Node::is_control_plane).collect())
}
