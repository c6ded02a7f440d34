//! `cluster_ready`: a healthy Kubernetes cluster stands; monitor and protect it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Unknown;
use crate::name::ClusterName;

/// talos → infrastructure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterReady {
    /// Always `cluster_ready`.
    #[schemars(extend("const" = "cluster_ready"))]
    pub handoff_type: String,
    /// The cluster.
    pub cluster_name: ClusterName,
    /// Base64 of age ciphertext for a recipient known by key; left out where there is none. Its content is checked by
    /// the code, not by the schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<String>,
    /// Where the Kubernetes API is reached.
    #[schemars(regex(pattern = r"^https://[^/]+$"))]
    pub api_endpoint: String,
    /// What Prometheus should scrape.
    #[serde(default)]
    pub metrics_endpoints: Vec<String>,
    /// How the cluster is.
    pub status: ClusterStatus,
    /// The cluster's incarnation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<Uuid>,
    /// Talos release of the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub talos_version: Option<String>,
    /// Kubernetes release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_version: Option<String>,
    /// 95th percentile of the API server's answer times, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_p95_ms: Option<f64>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// How a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClusterStatus {
    /// Every check passed.
    Healthy,
    /// It serves, but some check did not pass.
    Degraded,
}
