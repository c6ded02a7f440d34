//! Events of this contractor's domain, in the shape that `messages` gives them.

use contractor::action::DomainEvent;
use messages::name::ClusterName;
use serde_json::{Value, json};

/// Something happened to `object` of a cluster. `facts` is a JSON object and holds no secret.
pub(crate) fn event(kind: &'static str, cluster: &ClusterName, object: &str, facts: Value) -> DomainEvent {
    let mut body = json!({ "event_type": kind, "object": object });
    if facts.as_object().is_some_and(|facts| !facts.is_empty()) {
        body["facts"] = facts;
    }
    DomainEvent { kind, cluster: Some(cluster.to_string()), body }
}
