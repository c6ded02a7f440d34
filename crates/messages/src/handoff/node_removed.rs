//! `node_removed`: these machines have left their cluster; they may be destroyed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Unknown;
use crate::name::{ClusterName, NodeName, PoolName};

/// talos → infrastructure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeRemoved {
    /// Always `node_removed`.
    #[schemars(extend("const" = "node_removed"))]
    pub handoff_type: String,
    /// The cluster.
    pub cluster_name: ClusterName,
    /// The cluster's incarnation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<Uuid>,
    /// The nodes that left.
    #[schemars(length(min = 1))]
    pub nodes: Vec<RemovedNode>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A node that left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RemovedNode {
    /// Its name.
    pub hostname: NodeName,
    /// Its own id, part of the ownership proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_uid: Option<Uuid>,
    /// Its pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}
