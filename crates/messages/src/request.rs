//! What a coordinator, operator, LLM tool or trigger asks of a contractor. Requests are strict: unknown fields are refused.

mod decommission_request;
mod provision_cluster;
mod scale_request;
mod spec;

pub use decommission_request::DecommissionRequest;
pub use provision_cluster::{
    Architecture, Disk, Endpoint, EndpointKind, Feature, Network, Nic, Pattern, Pool, ProvisionCluster, Role, Shape,
    Size,
};
pub use scale_request::ScaleRequest;
pub use spec::{
    Cni, FailurePolicy, Patches, PoolSpec, RegistryMirror, ServiceAccountKey, Storage, Taint, TaintEffect, TalosSpec,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Consent to what a plan shows, given against its hash; a changed world has another hash and voids the consent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// SHA-256 of the plan in lower-case hex, as the plan query gave it.
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
    pub plan_hash: String,
}
