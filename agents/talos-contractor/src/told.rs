//! Events of this contractor's domain.

use contractor::action::DomainEvent;
use messages::name::ClusterName;
use serde_json::Value;

/// Something happened to `object` of a cluster. `facts` is a JSON object and holds no secret.
pub(crate) fn event(kind: &'static str, cluster: &ClusterName, object: &str, facts: Value) -> DomainEvent {
    let mut body = facts;
    body["object"] = object.into();
    DomainEvent { kind, cluster: Some(cluster.to_string()), body }
}
