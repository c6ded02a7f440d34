//! `scale_request`: how many nodes a pool should have. Request and handoff alike.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Approval, provision_cluster::Size};
use crate::name::{ClusterName, NodeName, Period, PoolName};

/// Asks for a pool to have `count` nodes: a desired count, never a delta, so that asking twice changes nothing.
///
/// Downwards, infrastructure-contractor hands it on to talos-contractor, which chooses the nodes to give up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ScaleRequest {
    /// Always `scale_request`; optional in a request, where the subject says it.
    #[serde(default = "handoff_type")]
    #[schemars(extend("const" = "scale_request"))]
    pub handoff_type: String,
    /// The cluster.
    pub cluster_name: ClusterName,
    /// The incarnation that is meant; refused if the name belongs to another by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<Uuid>,
    /// The pool; only pools of workers.
    pub pool: PoolName,
    /// How many nodes it should have.
    #[schemars(range(max = 500))]
    pub count: u32,
    /// The pool's generation that `count` was computed from; refused if the pool has changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The pool's machines as infrastructure-contractor knows them, which it writes when it hands the request on: those whose
    /// nodes are gone already go too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub machines: Vec<NodeName>,
    /// Shape of the nodes if the pool is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Why, for the operator: `3 pods unschedulable for 60s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub reason: Option<String>,
    /// How long the flow may take over all waits; default `2h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Period>,
    /// Consent to a plan shown before; taking nodes away needs it unless policy gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
}

fn handoff_type() -> String {
    "scale_request".to_owned()
}
