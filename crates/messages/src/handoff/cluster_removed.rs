//! `cluster_removed`: the cluster is given up on the Talos side; its machines may be destroyed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Unknown;
use crate::name::ClusterName;

/// talos → infrastructure, the answer to `decommission_request`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterRemoved {
    /// Always `cluster_removed`.
    #[schemars(extend("const" = "cluster_removed"))]
    pub handoff_type: String,
    /// The cluster.
    pub cluster_name: ClusterName,
    /// The cluster's incarnation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<Uuid>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}
