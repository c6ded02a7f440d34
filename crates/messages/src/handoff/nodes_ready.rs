//! `nodes_ready`: new nodes have joined their cluster; record them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Unknown;
use crate::name::{ClusterName, NodeName, PoolName};

/// talos → infrastructure, after a `vm_provisioned` whose purpose was `scale` or `replace`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodesReady {
    /// Always `nodes_ready`.
    #[schemars(extend("const" = "nodes_ready"))]
    pub handoff_type: String,
    /// The cluster.
    pub cluster_name: ClusterName,
    /// The cluster's incarnation.
    pub cluster_uid: Uuid,
    /// The nodes that are Ready.
    #[schemars(length(min = 1))]
    pub nodes: Vec<ReadyNode>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A node that is Ready.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReadyNode {
    /// Its name.
    pub hostname: NodeName,
    /// Its own id.
    pub node_uid: Uuid,
    /// Its pool.
    pub pool: PoolName,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}
