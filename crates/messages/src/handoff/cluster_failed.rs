//! `cluster_failed`: the machines could not be made a cluster; apply the flow's failure policy to them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Unknown;
use crate::{name::ClusterName, request::FailurePolicy};

/// talos → infrastructure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterFailed {
    /// Always `cluster_failed`.
    #[schemars(extend("const" = "cluster_failed"))]
    pub handoff_type: String,
    /// The cluster.
    pub cluster_name: ClusterName,
    /// The cluster's incarnation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<Uuid>,
    /// The step that failed, for example `bootstrap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What went wrong, for the operator; never a secret.
    pub reason: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What is to become of the machines.
    pub failure_policy: FailurePolicy,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}
