//! `decommission_request`: a cluster and everything it holds is to go. Request and handoff alike.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Approval;
use crate::name::{ClusterName, Period};

/// Asks for a cluster to be taken away: its machines, disks, addresses, ids and secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct DecommissionRequest {
    /// Always `decommission_request`; optional in a request, where the subject says it.
    #[serde(default = "handoff_type")]
    #[schemars(extend("const" = "decommission_request"))]
    pub handoff_type: String,
    /// The cluster.
    pub cluster_name: ClusterName,
    /// The incarnation that is meant; refused if the name belongs to another by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<Uuid>,
    /// Why, for the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub reason: Option<String>,
    /// How long the flow may take over all waits; default `1h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Period>,
    /// Consent to the plan shown before. Without it the flow waits for an approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
}

fn handoff_type() -> String {
    "decommission_request".to_owned()
}
