//! PodDisruptionBudgets: how many pods may be disrupted now, and the permission that an eviction takes.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kubernetes::api::error::ApiError;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{
    Condition, condition_is_true, controller_of, integer, is_terminating, map, name, namespace, set, set_condition,
    text, uid,
};
use crate::kubernetes::selectors::LabelSelector;
use crate::kubernetes::storage::WriteError;

const RESOURCE: &str = "poddisruptionbudgets.policy";

/// Recomputes the status of every budget.
pub(crate) fn sync(cluster: &Cluster) {
    for budget in cluster.store.list(RESOURCE, None) {
        let pods: Vec<Arc<Value>> = covered(cluster, &budget);
        let healthy = i64::try_from(pods.iter().filter(|pod| is_healthy(pod)).count()).unwrap_or(0);
        let expected = expected_pods(cluster, &pods);
        let desired = desired_healthy(&budget, expected);
        cluster.change(RESOURCE, &budget, |it| {
            let disrupted = it["status"]["disruptedPods"].as_object().cloned().unwrap_or_default();
            let still: serde_json::Map<String, Value> = disrupted
                .into_iter()
                .filter(|(pod, _)| pods.iter().any(|it| name(it) == pod && !is_terminating(it)))
                .collect();
            let healthy = healthy - i64::try_from(still.len()).unwrap_or(0);
            let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
            let generation = it["metadata"]["generation"].clone();
            for (key, value) in [
                ("currentHealthy", json!(healthy)),
                ("desiredHealthy", json!(desired)),
                ("expectedPods", json!(expected)),
                ("disruptionsAllowed", json!(allowed)),
                ("observedGeneration", generation),
            ] {
                set(it, &["status", key], value);
            }
            if still.is_empty() {
                crate::kubernetes::object::remove(it, &["status", "disruptedPods"]);
            } else {
                set(it, &["status", "disruptedPods"], Value::Object(still));
            }
            let (status, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
            set_condition(it, &Condition { kind: "DisruptionAllowed", status, reason, message: "" });
        });
    }
}

fn covered(cluster: &Cluster, budget: &Value) -> Vec<Arc<Value>> {
    let Some(selector) = LabelSelector::from_object(&budget["spec"]["selector"]) else { return Vec::new() };
    let finished = |pod: &Value| matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
    cluster
        .store
        .list("pods", Some(namespace(budget)))
        .into_iter()
        .filter(|pod| selector.selects(pod) && !finished(pod))
        .collect()
}

fn is_healthy(pod: &Value) -> bool {
    condition_is_true(pod, "Ready") && !is_terminating(pod)
}

/// The sum of the desired replicas of the controllers that the pods belong to; pods without one count themselves.
fn expected_pods(cluster: &Cluster, pods: &[Arc<Value>]) -> i64 {
    let mut seen: Vec<String> = Vec::new();
    let mut sum = 0;
    for pod in pods {
        let Some(owner) = controller_of(pod) else {
            sum += 1;
            continue;
        };
        let owner_uid = text(owner, "/uid").to_owned();
        if seen.contains(&owner_uid) {
            continue;
        }
        seen.push(owner_uid);
        let resource = cluster.registry.find_kind(text(owner, "/apiVersion"), text(owner, "/kind"));
        let found = resource.and_then(|it| cluster.store.get(&it.id(), namespace(pod), text(owner, "/name")));
        let scale = found.as_ref().and_then(|it| integer(it, "/spec/replicas"));
        let same_owner = pods.iter().filter(|it| controller_of(it).is_some_and(|of| of["uid"] == owner["uid"])).count();
        sum += scale.unwrap_or_else(|| i64::try_from(same_owner).unwrap_or(0));
    }
    sum
}

fn desired_healthy(budget: &Value, expected: i64) -> i64 {
    let spec = &budget["spec"];
    if !spec["maxUnavailable"].is_null() {
        return (expected - int_or_percent(&spec["maxUnavailable"], expected, true)).max(0);
    }
    match &spec["minAvailable"] {
        Value::Null => 1.min(expected),
        minimum => int_or_percent(minimum, expected, true),
    }
}

/// An `IntOrString` of a total; percentages are rounded up or down.
pub(crate) fn int_or_percent(value: &Value, total: i64, round_up: bool) -> i64 {
    match value.as_str().and_then(|it| it.strip_suffix('%')).and_then(|it| it.parse::<i64>().ok()) {
        Some(percent) if round_up => (percent * total + 99) / 100,
        Some(percent) => percent * total / 100,
        None => value.as_i64().unwrap_or(0),
    }
}

/// Takes one allowed disruption from the budget that covers a pod.
///
/// # Errors
/// 429 when none is left, 500 when two budgets cover the pod.
pub(crate) fn take_permission(cluster: &Cluster, pod: &Value, dry_run: bool) -> Result<(), ApiError> {
    let labels = map(pod, "/metadata/labels");
    let covering: Vec<Arc<Value>> = cluster
        .store
        .list(RESOURCE, Some(namespace(pod)))
        .into_iter()
        .filter(|it| {
            LabelSelector::from_object(&it["spec"]["selector"]).is_some_and(|selector| selector.matches(labels))
        })
        .collect();
    let budget = match covering.as_slice() {
        [] => return Ok(()),
        [only] => only,
        _ => {
            const MESSAGE: &str =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(ApiError::new(500, "InternalError", MESSAGE));
        }
    };
    let result = cluster.store.update(RESOURCE, namespace(budget), name(budget), |it| {
        if uid(it) != uid(budget) {
            return Ok(());
        }
        if integer(it, "/status/observedGeneration") < integer(it, "/metadata/generation") {
            let mut error = ApiError::disruption_budget(name(it), "is still being processed by the server.");
            error.details.get_or_insert_with(|| json!({}))["retryAfterSeconds"] = json!(10);
            return Err(error);
        }
        let healthy = integer(it, "/status/currentHealthy").unwrap_or(0);
        let desired = integer(it, "/status/desiredHealthy").unwrap_or(0);
        let running_but_unready = !condition_is_true(pod, "Ready");
        if running_but_unready && healthy >= desired && desired > 0 {
            return Ok(());
        }
        let allowed = integer(it, "/status/disruptionsAllowed").unwrap_or(0);
        if allowed <= 0 {
            let detail = format!("needs {desired} healthy pods and has {healthy} currently");
            return Err(ApiError::disruption_budget(name(it), &detail));
        }
        if !dry_run {
            set(it, &["status", "disruptionsAllowed"], json!(allowed - 1));
            set(it, &["status", "disruptedPods", name(pod)], json!(crate::kubernetes::object::now()));
        }
        Ok(())
    });
    match result {
        Err(WriteError::Refused(error)) => Err(error),
        _ => Ok(()),
    }
}
