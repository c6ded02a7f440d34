//! What one contractor gives another: a fact plus the next responsibility. Readers are tolerant: unknown fields are kept.

mod cancel_request;
mod cluster_failed;
mod cluster_ready;
mod cluster_removed;
mod node_removed;
mod nodes_ready;
mod vm_provisioned;

pub use cancel_request::CancelRequest;
pub use cluster_failed::ClusterFailed;
pub use cluster_ready::{ClusterReady, ClusterStatus};
pub use cluster_removed::ClusterRemoved;
pub use node_removed::{NodeRemoved, RemovedNode};
pub use nodes_ready::{NodesReady, ReadyNode};
pub use vm_provisioned::{NetworkFacts, Node, Purpose, VmProvisioned};

/// Fields that this version does not know, kept as they came.
pub type Unknown = serde_json::Map<String, serde_json::Value>;
