//! The columns of pods and of what makes pods.

use serde_json::{Value, json};

use super::cells::Cells;
use super::{Column, age, columns, duration};
use crate::kubernetes::object::{condition_is_true, integer, is_terminating, items, map, name, seconds_since, text};

/// The columns and cells of a workload kind.
pub(super) fn of_kind(kind: &str) -> Option<(Vec<Column>, Cells)> {
    let (names, cells): (&[&'static str], Cells) = match kind {
        "Pod" => (
            &["Name", "Ready", "Status", "Restarts", "Age", "+IP", "+Node", "+Nominated Node", "+Readiness Gates"],
            pod,
        ),
        "Deployment" => {
            (&["Name", "Ready", "Up-to-date", "Available", "Age", "+Containers", "+Images", "+Selector"], deployment)
        }
        "ReplicaSet" => {
            (&["Name", "Desired", "Current", "Ready-count", "Age", "+Containers", "+Images", "+Selector"], replica_set)
        }
        "DaemonSet" => (
            &[
                "Name",
                "Desired",
                "Current",
                "Ready-count",
                "Up-to-date",
                "Available",
                "Node Selector",
                "Age",
                "+Containers",
                "+Images",
                "+Selector",
            ],
            daemon_set,
        ),
        "StatefulSet" => (&["Name", "Ready", "Age", "+Containers", "+Images"], stateful_set),
        "Job" => (&["Name", "Status", "Completions", "Duration", "Age", "+Containers", "+Images", "+Selector"], job),
        "CronJob" => (
            &[
                "Name",
                "Schedule",
                "Timezone",
                "Suspend",
                "Active",
                "Last Schedule",
                "Age",
                "+Containers",
                "+Images",
                "+Selector",
            ],
            cron_job,
        ),
        "ControllerRevision" => (&["Name", "Controller", "Revision", "Age"], revision),
        _ => return None,
    };
    Some((columns(names), cells))
}

fn born(object: &Value) -> Value {
    json!(age(object, "/metadata/creationTimestamp"))
}

fn count(object: &Value, pointer: &str) -> i64 {
    integer(object, pointer).unwrap_or(0)
}

fn images(object: &Value, spec: &str) -> [Value; 2] {
    let all = items(object, &format!("{spec}/containers"));
    let join = |key: &str| json!(all.iter().map(|it| text(it, key)).collect::<Vec<_>>().join(","));
    [join("/name"), join("/image")]
}

fn selector(object: &Value) -> Value {
    let all: Vec<String> = map(object, "/spec/selector/matchLabels")
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    json!(if all.is_empty() { "<none>".to_owned() } else { all.join(",") })
}

/// What the STATUS column says about a pod: the first container's trouble, or the phase.
fn pod_status(pod: &Value) -> String {
    let mut reason = match text(pod, "/status/reason") {
        "" => text(pod, "/status/phase").to_owned(),
        reason => reason.to_owned(),
    };
    let initial = items(pod, "/status/initContainerStatuses");
    if let Some((at, _)) = initial
        .iter()
        .enumerate()
        .find(|(_, it)| it["state"].get("terminated").is_none_or(|it| it["exitCode"] != 0))
        .filter(|_| reason == "Pending")
    {
        reason = format!("Init:{at}/{}", initial.len());
    } else {
        for status in items(pod, "/status/containerStatuses").iter().rev() {
            let waiting = text(status, "/state/waiting/reason");
            let terminated = text(status, "/state/terminated/reason");
            if !waiting.is_empty() {
                reason = waiting.to_owned();
            } else if !terminated.is_empty() {
                reason = terminated.to_owned();
            }
        }
    }
    if is_terminating(pod) {
        reason = if text(pod, "/status/reason") == "NodeLost" { "Unknown".into() } else { "Terminating".into() };
    }
    reason
}

fn pod(object: &Value) -> Vec<Value> {
    let statuses = items(object, "/status/containerStatuses");
    let ready = statuses.iter().filter(|it| it["ready"] == true).count();
    let restarts: i64 = statuses.iter().map(|it| count(it, "/restartCount")).sum();
    let or_none = |text: &str| json!(if text.is_empty() { "<none>" } else { text });
    let total = items(object, "/spec/containers").len();
    vec![
        json!(name(object)),
        json!(format!("{ready}/{total}")),
        json!(pod_status(object)),
        json!(restarts.to_string()),
        born(object),
        or_none(text(object, "/status/podIP")),
        or_none(text(object, "/spec/nodeName")),
        json!("<none>"),
        json!("<none>"),
    ]
}

fn deployment(object: &Value) -> Vec<Value> {
    let [containers, images] = images(object, "/spec/template/spec");
    let ready = format!("{}/{}", count(object, "/status/readyReplicas"), count(object, "/spec/replicas"));
    vec![
        json!(name(object)),
        json!(ready),
        json!(count(object, "/status/updatedReplicas")),
        json!(count(object, "/status/availableReplicas")),
        born(object),
        containers,
        images,
        selector(object),
    ]
}

fn replica_set(object: &Value) -> Vec<Value> {
    let [containers, images] = images(object, "/spec/template/spec");
    vec![
        json!(name(object)),
        json!(count(object, "/spec/replicas")),
        json!(count(object, "/status/replicas")),
        json!(count(object, "/status/readyReplicas")),
        born(object),
        containers,
        images,
        selector(object),
    ]
}

fn daemon_set(object: &Value) -> Vec<Value> {
    let [containers, images] = images(object, "/spec/template/spec");
    let of = |key: &str| json!(count(object, &format!("/status/{key}")));
    let nodes: Vec<String> = map(object, "/spec/template/spec/nodeSelector")
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let nodes = if nodes.is_empty() { "<none>".to_owned() } else { nodes.join(",") };
    vec![
        json!(name(object)),
        of("desiredNumberScheduled"),
        of("currentNumberScheduled"),
        of("numberReady"),
        of("updatedNumberScheduled"),
        of("numberAvailable"),
        json!(nodes),
        born(object),
        containers,
        images,
        selector(object),
    ]
}

fn stateful_set(object: &Value) -> Vec<Value> {
    let [containers, images] = images(object, "/spec/template/spec");
    let ready = format!("{}/{}", count(object, "/status/readyReplicas"), count(object, "/spec/replicas"));
    vec![json!(name(object)), json!(ready), born(object), containers, images]
}

fn job(object: &Value) -> Vec<Value> {
    let [containers, images] = images(object, "/spec/template/spec");
    let status = ["Complete", "Failed", "Suspended"].into_iter().find(|kind| condition_is_true(object, kind));
    let status = if is_terminating(object) { "Terminating" } else { status.unwrap_or("Running") };
    let done = format!("{}/{}", count(object, "/status/succeeded"), count(object, "/spec/completions"));
    let elapsed = match (seconds_since(object, "/status/startTime"), seconds_since(object, "/status/completionTime")) {
        (Some(start), Some(end)) => duration(start - end),
        (Some(start), None) => duration(start),
        _ => String::new(),
    };
    vec![
        json!(name(object)),
        json!(status),
        json!(done),
        json!(elapsed),
        born(object),
        containers,
        images,
        selector(object),
    ]
}

fn cron_job(object: &Value) -> Vec<Value> {
    let [containers, images] = images(object, "/spec/jobTemplate/spec/template/spec");
    let zone = match text(object, "/spec/timeZone") {
        "" => "<none>",
        zone => zone,
    };
    let last = if !text(object, "/status/lastScheduleTime").is_empty() {
        age(object, "/status/lastScheduleTime")
    } else {
        "<none>".into()
    };
    let suspended = if object["spec"]["suspend"] == true { "True" } else { "False" };
    vec![
        json!(name(object)),
        object["spec"]["schedule"].clone(),
        json!(zone),
        json!(suspended),
        json!(items(object, "/status/active").len()),
        json!(last),
        born(object),
        containers,
        images,
        json!("<none>"),
    ]
}

fn revision(object: &Value) -> Vec<Value> {
    let owner = items(object, "/metadata/ownerReferences")
        .first()
        .map_or(String::new(), |it| format!("{}.apps/{}", text(it, "/kind").to_lowercase(), text(it, "/name")));
    vec![json!(name(object)), json!(owner), object["revision"].clone(), born(object)]
}
