//! `cancel_request`: a flow is to stop; what was done for it follows its failure policy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Unknown;
use crate::{name::ClusterName, request::FailurePolicy};

/// infrastructure → talos. The flow is the message's correlation id; `cluster_failed` is the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CancelRequest {
    /// Always `cancel_request`.
    #[schemars(extend("const" = "cancel_request"))]
    pub handoff_type: String,
    /// The cluster.
    pub cluster_name: ClusterName,
    /// Who asked for it, for example `/operator/ada`.
    pub by: String,
    /// Nobody asked, its time is over: what waits for an operator goes on waiting.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub expired: bool,
    /// What the flow's request wants to become of what was made.
    pub failure_policy: FailurePolicy,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}
