//! Resources served in a version other than the stored one: events of `events.k8s.io`, autoscalers of `autoscaling/v1`.

use serde_json::{Value, json};

use crate::kubernetes::object::{integer, items, remove, set, text};
use crate::kubernetes::resources::Resource;

/// Fields of an event as they are stored and as `events.k8s.io` names them.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Turns a body or an object-shaped patch into the stored version.
pub(crate) fn to_stored(resource: &Resource, body: &mut Value) {
    match (resource.api_version().as_str(), resource.kind.as_str()) {
        ("events.k8s.io/v1", _) => {
            EVENT_FIELDS.iter().for_each(|(stored, served)| rename(body, served, stored));
        }
        ("autoscaling/v1", "HorizontalPodAutoscaler") => {
            let Some(target) = remove(body, &["spec", "targetCPUUtilizationPercentage"]) else { return };
            let target = json!({"type": "Utilization", "averageUtilization": target});
            let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
            set(body, &["spec", "metrics"], json!([metric]));
        }
        _ => {}
    }
}

/// Turns a stored object into the version of the resource.
pub(crate) fn from_stored(resource: &Resource, object: &mut Value) {
    match (resource.api_version().as_str(), resource.kind.as_str()) {
        ("events.k8s.io/v1", _) => {
            EVENT_FIELDS.iter().for_each(|(stored, served)| rename(object, stored, served));
        }
        ("autoscaling/v1", "HorizontalPodAutoscaler") => {
            let is_cpu =
                |metric: &&Value| text(metric, "/type") == "Resource" && text(metric, "/resource/name") == "cpu";
            let value = |list: &str, pointer: &str| {
                items(object, list).iter().find(is_cpu).and_then(|metric| integer(metric, pointer))
            };
            let target = value("/spec/metrics", "/resource/target/averageUtilization");
            let current = value("/status/currentMetrics", "/resource/current/averageUtilization");
            for path in
                [["spec", "metrics"], ["spec", "behavior"], ["status", "currentMetrics"], ["status", "conditions"]]
            {
                remove(object, &path);
            }
            if let Some(target) = target {
                set(object, &["spec", "targetCPUUtilizationPercentage"], json!(target));
            }
            if let Some(current) = current {
                set(object, &["status", "currentCPUUtilizationPercentage"], json!(current));
            }
        }
        _ => {}
    }
}

fn rename(object: &mut Value, from: &str, to: &str) {
    if let Some(value) = remove(object, &[from]) {
        set(object, &[to], value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::resources::Registry;

    fn there_and_back(group: &str, version: &str, plural: &str, served: &Value) -> Value {
        let resource = Registry::built_in().find(group, version, plural).expect("built in");
        let mut object = served.clone();
        to_stored(&resource, &mut object);
        let stored = object.clone();
        from_stored(&resource, &mut object);
        assert_eq!(&object, served);
        stored
    }

    #[test]
    fn what_is_served_in_another_version_is_stored_in_one() {
        let event = json!({"note": "started", "regarding": {"kind": "Pod"}, "reason": "Started"});
        let stored = there_and_back("events.k8s.io", "v1", "events", &event);
        assert_eq!(stored, json!({"message": "started", "involvedObject": {"kind": "Pod"}, "reason": "Started"}));
        let autoscaler = json!({"spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}, "status": {}});
        let stored = there_and_back("autoscaling", "v1", "horizontalpodautoscalers", &autoscaler);
        assert_eq!(stored["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    }
}
