//! The columns of each kind that is not a workload, and how its cells are computed.

use serde_json::{Value, json};

use super::{Column, age, columns, policies, workloads};
use crate::kubernetes::object::{
    annotation, condition, condition_is_true, flag, is_terminating, items, map, name, text,
};
use crate::kubernetes::resources::Resource;

/// Computes the cells of one object.
pub(super) type Cells = fn(&Value) -> Vec<Value>;

/// The columns and cells of a kind; name and age for those without a rule.
pub(super) fn of_kind(resource: &Resource) -> (Vec<Column>, Cells) {
    if let Some(found) = workloads::of_kind(&resource.kind) {
        return found;
    }
    let (names, cells): (&[&'static str], Cells) = match resource.kind.as_str() {
        "Node" => (
            &[
                "Name",
                "Status",
                "Roles",
                "Age",
                "Version",
                "+Internal-IP",
                "+External-IP",
                "+OS-Image",
                "+Kernel-Version",
                "+Container-Runtime",
            ],
            node,
        ),
        "Service" => (&["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "+Selector"], service),
        "Endpoints" => (&["Name", "Endpoints", "Age"], endpoints),
        "EndpointSlice" => (&["Name", "AddressType", "Ports", "Endpoints", "Age"], endpoint_slice),
        "Namespace" => (&["Name", "Status", "Age"], namespace),
        "ConfigMap" => (&["Name", "Data", "Age"], config_map),
        "Secret" => (&["Name", "Type", "Data", "Age"], secret),
        "ServiceAccount" => (&["Name", "Secrets", "Age"], service_account),
        "Event" => (
            &[
                "Last Seen",
                "Type",
                "Reason",
                "Object",
                "+Subobject",
                "+Source",
                "Message",
                "+First Seen",
                "+Count",
                "+Name",
            ],
            event,
        ),
        "PersistentVolume" => (
            &[
                "Name",
                "Capacity",
                "Access Modes",
                "Reclaim Policy",
                "Status",
                "Claim",
                "StorageClass",
                "VolumeAttributesClass",
                "Reason",
                "Age",
                "+VolumeMode",
            ],
            volume,
        ),
        "PersistentVolumeClaim" => (
            &[
                "Name",
                "Status",
                "Volume",
                "Capacity",
                "Access Modes",
                "StorageClass",
                "VolumeAttributesClass",
                "Age",
                "+VolumeMode",
            ],
            claim,
        ),
        "StorageClass" => (
            &["Name", "Provisioner", "ReclaimPolicy", "VolumeBindingMode", "AllowVolumeExpansion", "Age"],
            storage_class,
        ),
        "PodDisruptionBudget" => (&["Name", "Min Available", "Max Unavailable", "Allowed Disruptions", "Age"], budget),
        "Lease" => (&["Name", "Holder", "Age"], lease),
        "CertificateSigningRequest" => {
            (&["Name", "Age", "SignerName", "Requestor", "RequestedDuration", "Condition"], signing_request)
        }
        "CustomResourceDefinition" => (&["Name", "Created At"], definition),
        "APIService" => (&["Name", "Service", "Available", "Age"], api_service),
        "RoleBinding" | "ClusterRoleBinding" => (&["Name", "Role", "Age"], binding),
        "Role" | "ClusterRole" => (&["Name", "Created At"], definition),
        "PriorityClass" => (&["Name", "Value", "Global-Default", "Age", "PreemptionPolicy"], priority_class),
        "CSINode" => (&["Name", "Drivers", "Age"], csi_node),
        "Ingress" => (&["Name", "Class", "Hosts", "Address", "Ports", "Age"], policies::ingress),
        "IngressClass" => (&["Name", "Controller", "Parameters", "Age"], policies::ingress_class),
        "HorizontalPodAutoscaler" => {
            (&["Name", "Reference", "Targets", "MinPods", "MaxPods", "Replicas", "Age"], policies::autoscaler)
        }
        "ResourceQuota" => (&["Name", "Request", "Limit", "Age"], policies::quota),
        "NetworkPolicy" => (&["Name", "Pod-Selector", "Age"], policies::network_policy),
        "LimitRange" => (&["Name", "Created At"], definition),
        "RuntimeClass" => (&["Name", "Handler", "Age"], policies::runtime_class),
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            (&["Name", "Webhooks", "Age"], policies::webhooks)
        }
        _ => (&["Name", "Age"], plain),
    };
    (columns(names), cells)
}

fn born(object: &Value) -> Value {
    json!(age(object, "/metadata/creationTimestamp"))
}

fn or_none(text: &str) -> Value {
    json!(if text.is_empty() { "<none>" } else { text })
}

fn plain(object: &Value) -> Vec<Value> {
    vec![json!(name(object)), born(object)]
}

fn node(object: &Value) -> Vec<Value> {
    let mut status = match condition(object, "Ready").map(|it| text(it, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if flag(object, "/spec/unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    let roles: Vec<&str> = map(object, "/metadata/labels")
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None => (key == "kubernetes.io/role").then(|| value.as_str().unwrap_or_default()),
        })
        .filter(|role| !role.is_empty())
        .collect();
    let address = |kind: &str| {
        let found = items(object, "/status/addresses").iter().find(|it| it["type"] == kind);
        or_none(found.map_or("", |it| text(it, "/address")))
    };
    let info = |key: &str| json!(text(object, &format!("/status/nodeInfo/{key}")));
    vec![
        json!(name(object)),
        json!(status),
        or_none(&roles.join(",")),
        born(object),
        info("kubeletVersion"),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn service(object: &Value) -> Vec<Value> {
    let kind = text(object, "/spec/type");
    let external = match kind {
        "LoadBalancer" => {
            let first = items(object, "/status/loadBalancer/ingress").first().map_or("", |it| text(it, "/ip"));
            if first.is_empty() { "<pending>" } else { first }
        }
        "ExternalName" => text(object, "/spec/externalName"),
        _ => "<none>",
    };
    let ports: Vec<String> = items(object, "/spec/ports")
        .iter()
        .map(|port| match port["nodePort"].as_i64() {
            Some(node) => format!("{}:{node}/{}", port["port"], text(port, "/protocol")),
            None => format!("{}/{}", port["port"], text(port, "/protocol")),
        })
        .collect();
    let selector: Vec<String> = map(object, "/spec/selector")
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    vec![
        json!(name(object)),
        json!(kind),
        or_none(text(object, "/spec/clusterIP")),
        json!(external),
        or_none(&ports.join(",")),
        born(object),
        or_none(&selector.join(",")),
    ]
}

fn endpoints(object: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in items(object, "/subsets") {
        for address in items(subset, "/addresses") {
            for port in items(subset, "/ports") {
                all.push(format!("{}:{}", text(address, "/ip"), port["port"]));
            }
        }
    }
    let more = all.len().saturating_sub(3);
    all.truncate(3);
    let mut shown = all.join(",");
    if more > 0 {
        shown.push_str(&format!(" + {more} more..."));
    }
    vec![json!(name(object)), or_none(&shown), born(object)]
}

fn endpoint_slice(object: &Value) -> Vec<Value> {
    let list = |values: Vec<String>| json!(if values.is_empty() { "<unset>".to_owned() } else { values.join(",") });
    let ports = items(object, "/ports").iter().map(|it| it["port"].to_string()).collect();
    let addresses = items(object, "/endpoints").iter().map(|it| text(it, "/addresses/0").to_owned()).collect();
    vec![json!(name(object)), object["addressType"].clone(), list(ports), list(addresses), born(object)]
}

fn namespace(object: &Value) -> Vec<Value> {
    vec![json!(name(object)), object["status"]["phase"].clone(), born(object)]
}

fn size(object: &Value, pointer: &str) -> usize {
    map(object, pointer).map_or(0, serde_json::Map::len)
}

fn config_map(object: &Value) -> Vec<Value> {
    vec![json!(name(object)), json!(size(object, "/data") + size(object, "/binaryData")), born(object)]
}

fn secret(object: &Value) -> Vec<Value> {
    vec![json!(name(object)), object["type"].clone(), json!(size(object, "/data")), born(object)]
}

fn service_account(object: &Value) -> Vec<Value> {
    vec![json!(name(object)), json!(items(object, "/secrets").len()), born(object)]
}

fn event(object: &Value) -> Vec<Value> {
    let about =
        format!("{}/{}", text(object, "/involvedObject/kind").to_lowercase(), text(object, "/involvedObject/name"));
    vec![
        json!(age(object, "/lastTimestamp")),
        object["type"].clone(),
        object["reason"].clone(),
        json!(about),
        json!(text(object, "/involvedObject/fieldPath")),
        json!(text(object, "/source/component")),
        object["message"].clone(),
        json!(age(object, "/firstTimestamp")),
        object["count"].clone(),
        json!(name(object)),
    ]
}

fn access_modes(modes: &[Value]) -> String {
    let short = |mode: &Value| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "",
    };
    modes.iter().map(short).collect::<Vec<_>>().join(",")
}

fn phase(object: &Value) -> Value {
    if is_terminating(object) { json!("Terminating") } else { object["status"]["phase"].clone() }
}

fn volume(object: &Value) -> Vec<Value> {
    let claim = &object["spec"]["claimRef"];
    let claim = if claim.is_object() {
        format!("{}/{}", text(claim, "/namespace"), text(claim, "/name"))
    } else {
        String::new()
    };
    vec![
        json!(name(object)),
        json!(text(object, "/spec/capacity/storage")),
        json!(access_modes(items(object, "/spec/accessModes"))),
        object["spec"]["persistentVolumeReclaimPolicy"].clone(),
        phase(object),
        json!(claim),
        json!(text(object, "/spec/storageClassName")),
        json!("<unset>"),
        json!(text(object, "/status/reason")),
        born(object),
        object["spec"]["volumeMode"].clone(),
    ]
}

fn claim(object: &Value) -> Vec<Value> {
    let bound = !text(object, "/spec/volumeName").is_empty();
    let when_bound = |value: String| json!(if bound { value } else { String::new() });
    vec![
        json!(name(object)),
        phase(object),
        json!(text(object, "/spec/volumeName")),
        when_bound(text(object, "/status/capacity/storage").to_owned()),
        when_bound(access_modes(items(object, "/status/accessModes"))),
        json!(text(object, "/spec/storageClassName")),
        json!("<unset>"),
        born(object),
        object["spec"]["volumeMode"].clone(),
    ]
}

fn storage_class(object: &Value) -> Vec<Value> {
    let default = annotation(object, "storageclass.kubernetes.io/is-default-class") == Some("true");
    let shown = if default { format!("{} (default)", name(object)) } else { name(object).to_owned() };
    vec![
        json!(shown),
        object["provisioner"].clone(),
        object["reclaimPolicy"].clone(),
        object["volumeBindingMode"].clone(),
        json!(flag(object, "/allowVolumeExpansion")),
        born(object),
    ]
}

fn budget(object: &Value) -> Vec<Value> {
    let limit = |key: &str| match &object["spec"][key] {
        Value::Null => json!("N/A"),
        Value::String(text) => json!(text),
        other => json!(other.to_string()),
    };
    vec![
        json!(name(object)),
        limit("minAvailable"),
        limit("maxUnavailable"),
        json!(object["status"]["disruptionsAllowed"].as_i64().unwrap_or(0)),
        born(object),
    ]
}

fn lease(object: &Value) -> Vec<Value> {
    vec![json!(name(object)), json!(text(object, "/spec/holderIdentity")), born(object)]
}

fn signing_request(object: &Value) -> Vec<Value> {
    let mut words: Vec<&str> =
        ["Approved", "Denied", "Failed"].into_iter().filter(|kind| condition_is_true(object, kind)).collect();
    if words.is_empty() {
        words.push("Pending");
    }
    if !text(object, "/status/certificate").is_empty() {
        words.push("Issued");
    }
    let seconds = object["spec"]["expirationSeconds"].as_i64();
    let requested = seconds.map_or_else(|| "<none>".to_owned(), super::duration);
    vec![
        json!(name(object)),
        born(object),
        object["spec"]["signerName"].clone(),
        object["spec"]["username"].clone(),
        json!(requested),
        json!(words.join(",")),
    ]
}

fn definition(object: &Value) -> Vec<Value> {
    vec![json!(name(object)), object["metadata"]["creationTimestamp"].clone()]
}

fn api_service(object: &Value) -> Vec<Value> {
    let service = &object["spec"]["service"];
    let service = if service.is_object() {
        format!("{}/{}", text(service, "/namespace"), text(service, "/name"))
    } else {
        "Local".into()
    };
    let available = if condition_is_true(object, "Available") { "True" } else { "False" };
    vec![json!(name(object)), json!(service), json!(available), born(object)]
}

fn binding(object: &Value) -> Vec<Value> {
    let role = format!("{}/{}", text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
    vec![json!(name(object)), json!(role), born(object)]
}

fn priority_class(object: &Value) -> Vec<Value> {
    vec![
        json!(name(object)),
        object["value"].clone(),
        json!(flag(object, "/globalDefault")),
        born(object),
        json!(object["preemptionPolicy"].as_str().unwrap_or("PreemptLowerPriority")),
    ]
}

fn csi_node(object: &Value) -> Vec<Value> {
    vec![json!(name(object)), json!(items(object, "/spec/drivers").len()), born(object)]
}
