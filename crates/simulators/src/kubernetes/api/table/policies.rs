//! Rows of what steers traffic, scale and admission: ingresses, autoscalers, quotas, network policies, webhooks.

use serde_json::{Value, json};

use super::age;
use crate::kubernetes::object::{integer, items, map, text};

/// A value that may be missing.
fn or_none(text: &str) -> Value {
    json!(if text.is_empty() { "<none>" } else { text })
}

fn with_age(object: &Value, mut cells: Vec<Value>) -> Vec<Value> {
    cells.insert(0, object["metadata"]["name"].clone());
    cells.push(json!(age(object, "/metadata/creationTimestamp")));
    cells
}

/// Class, hosts, address, ports.
pub(super) fn ingress(object: &Value) -> Vec<Value> {
    let hosts: Vec<&str> =
        items(object, "/spec/rules").iter().map(|rule| text(rule, "/host")).filter(|it| !it.is_empty()).collect();
    let hosts = if hosts.is_empty() { "*".to_owned() } else { hosts.join(",") };
    let addresses = items(object, "/status/loadBalancer/ingress").iter();
    let addresses: Vec<String> = addresses.map(|it| [text(it, "/ip"), text(it, "/hostname")].concat()).collect();
    let ports = if items(object, "/spec/tls").is_empty() { "80" } else { "80, 443" };
    let cells =
        vec![or_none(text(object, "/spec/ingressClassName")), json!(hosts), json!(addresses.join(",")), json!(ports)];
    with_age(object, cells)
}

/// Reference, targets, bounds and present replicas.
pub(super) fn autoscaler(object: &Value) -> Vec<Value> {
    let target = &object["spec"]["scaleTargetRef"];
    let targets: Vec<String> = items(object, "/spec/metrics")
        .iter()
        .filter(|metric| text(metric, "/type") == "Resource")
        .map(|metric| {
            let name = text(metric, "/resource/name");
            let wanted = integer(metric, "/resource/target/averageUtilization");
            let wanted = wanted.map_or_else(
                || text(metric, "/resource/target/averageValue").to_owned(),
                |percent| format!("{percent}%"),
            );
            format!("{name}: <unknown>/{wanted}")
        })
        .collect();
    let targets = if targets.is_empty() { "<none>".to_owned() } else { targets.join(", ") };
    let least = integer(object, "/spec/minReplicas").map_or_else(|| "<unset>".to_owned(), |it| it.to_string());
    let cells = vec![
        json!(format!("{}/{}", text(target, "/kind"), text(target, "/name"))),
        json!(targets),
        json!(least),
        object["spec"]["maxReplicas"].clone(),
        json!(integer(object, "/status/currentReplicas").unwrap_or(0)),
    ];
    with_age(object, cells)
}

/// Requests and limits, each used and hard.
pub(super) fn quota(object: &Value) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in map(object, "/status/hard").into_iter().flatten() {
        let used = object["status"]["used"][name].as_str().unwrap_or("0");
        let shown = format!("{name}: {used}/{}", hard.as_str().unwrap_or_default());
        if name.starts_with("limits") { limits.push(shown) } else { requests.push(shown) }
    }
    with_age(object, vec![json!(requests.join(", ")), json!(limits.join(", "))])
}

/// The pods that a network policy is about.
pub(super) fn network_policy(object: &Value) -> Vec<Value> {
    let labels: Vec<String> = map(object, "/spec/podSelector/matchLabels")
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    with_age(object, vec![or_none(&labels.join(","))])
}

pub(super) fn ingress_class(object: &Value) -> Vec<Value> {
    let parameters = &object["spec"]["parameters"];
    let parameters = format!("{}/{}", text(parameters, "/kind"), text(parameters, "/name"));
    let controller = text(object, "/spec/controller");
    with_age(object, vec![json!(controller), or_none(parameters.trim_matches('/'))])
}

pub(super) fn runtime_class(object: &Value) -> Vec<Value> {
    with_age(object, vec![object["handler"].clone()])
}

pub(super) fn webhooks(object: &Value) -> Vec<Value> {
    with_age(object, vec![json!(items(object, "/webhooks").len())])
}
