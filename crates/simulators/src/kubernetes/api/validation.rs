//! What the API server refuses: fields that are missing, malformed or must not change.

use serde_json::Value;

use super::error::FieldProblem;
use crate::kubernetes::object::{items, text};
use crate::kubernetes::resources::Resource;
use crate::kubernetes::selectors::LabelSelector;

/// Problems of a new object, or of a changed one together with its former state.
pub(crate) fn problems(resource: &Resource, before: Option<&Value>, object: &Value) -> Vec<FieldProblem> {
    let mut found = Vec::new();
    metadata(resource, object, &mut found);
    found.extend(super::structural::problems(resource, object));
    match resource.id().as_str() {
        "pods" => {
            pod_spec(object, "/spec", "spec", &mut found);
            if let Some(before) = before {
                pod_change(before, object, &mut found);
            }
        }
        "deployments.apps" | "replicasets.apps" | "daemonsets.apps" | "statefulsets.apps" => {
            workload(before, object, &mut found);
        }
        "jobs.batch" => {
            pod_spec(object, "/spec/template/spec", "spec.template.spec", &mut found);
            let policy = object.pointer("/spec/template/spec/restartPolicy");
            if policy.is_some_and(|it| it != "Never" && it != "OnFailure") {
                let message = format!(
                    "Required value: valid values: \"OnFailure\", \"Never\" (found {})",
                    policy.unwrap_or(&Value::Null)
                );
                let field = "spec.template.spec.restartPolicy".to_owned();
                found.push(FieldProblem { field, reason: "FieldValueRequired", message });
            }
            if let Some(before) = before {
                immutable(before, object, &["/spec/template", "/spec/selector", "/spec/completions"], &mut found);
            }
        }
        "services" => {
            if text(object, "/spec/type") != "ExternalName"
                && text(object, "/spec/clusterIP") != "None"
                && items(object, "/spec/ports").is_empty()
            {
                found.push(FieldProblem::required("spec.ports", ""));
            }
            if let Some(before) = before.filter(|it| text(it, "/spec/type") == text(object, "/spec/type")) {
                immutable(before, object, &["/spec/clusterIP"], &mut found);
            }
        }
        "persistentvolumeclaims" => claim(before, object, &mut found),
        "nodes" => node(before, object, &mut found),
        "storageclasses.storage.k8s.io" if text(object, "/provisioner").is_empty() => {
            found.push(FieldProblem::required("provisioner", ""));
        }
        "secrets" => {
            if let Some(before) = before {
                immutable(before, object, &["/type"], &mut found);
            }
        }
        "customresourcedefinitions.apiextensions.k8s.io" => definition(object, &mut found),
        "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io" => {
            if let Some(before) = before {
                immutable(before, object, &["/roleRef"], &mut found);
            }
        }
        _ => {}
    }
    found
}

fn metadata(resource: &Resource, object: &Value, found: &mut Vec<FieldProblem>) {
    let name = crate::kubernetes::object::name(object);
    if name.is_empty() {
        found.push(FieldProblem::required("metadata.name", "name or generateName is required"));
        return;
    }
    let free_form = resource.group == "rbac.authorization.k8s.io";
    let label_like = |part: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(part.chars().next())
            && edge(part.chars().last())
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if !free_form && (name.len() > 253 || !name.split('.').all(label_like)) {
        const HINT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
            and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
            '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
        found.push(FieldProblem::invalid("metadata.name", &Value::from(name), HINT));
    }
    for (key, value) in crate::kubernetes::object::map(object, "/metadata/labels").into_iter().flatten() {
        let text = value.as_str().unwrap_or("\u{0}");
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let edges = text.is_empty()
            || [text.chars().next(), text.chars().last()].iter().flatten().all(char::is_ascii_alphanumeric);
        if text.len() > 63 || !text.chars().all(allowed) || !edges {
            const HINT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
                used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
            found.push(FieldProblem::invalid(format!("metadata.labels[{key}]"), value, HINT));
        }
    }
}

fn pod_spec(object: &Value, pointer: &str, field: &str, found: &mut Vec<FieldProblem>) {
    let containers = items(object, &format!("{pointer}/containers"));
    if containers.is_empty() {
        found.push(FieldProblem::required(format!("{field}.containers"), ""));
    }
    let mut seen = Vec::new();
    for (at, container) in containers.iter().enumerate() {
        for key in ["name", "image"] {
            if text(container, &format!("/{key}")).is_empty() {
                found.push(FieldProblem::required(format!("{field}.containers[{at}].{key}"), ""));
            }
        }
        let name = text(container, "/name");
        if seen.contains(&name) {
            let field = format!("{field}.containers[{at}].name");
            let message = format!("Duplicate value: {name:?}");
            found.push(FieldProblem { field, reason: "FieldValueDuplicate", message });
        }
        seen.push(name);
        let volumes = items(object, &format!("{pointer}/volumes"));
        for (mount_at, mount) in items(container, "/volumeMounts").iter().enumerate() {
            if !volumes.iter().any(|volume| volume["name"] == mount["name"]) {
                let field = format!("{field}.containers[{at}].volumeMounts[{mount_at}].name");
                let message = format!("Not found: {}", mount["name"]);
                found.push(FieldProblem { field, reason: "FieldValueNotFound", message });
            }
        }
    }
}

fn pod_change(before: &Value, after: &Value, found: &mut Vec<FieldProblem>) {
    let frozen = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        if let Some(spec) = spec.as_object_mut() {
            for key in ["activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations", "nodeName"] {
                spec.remove(key);
            }
        }
        for list in ["containers", "initContainers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                container["image"] = Value::Null;
            }
        }
        spec
    };
    if frozen(before) != frozen(after) {
        const MESSAGE: &str = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
            `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
            tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        found.push(FieldProblem { field: "spec".into(), reason: "FieldValueForbidden", message: MESSAGE.into() });
    }
}

fn workload(before: Option<&Value>, object: &Value, found: &mut Vec<FieldProblem>) {
    pod_spec(object, "/spec/template/spec", "spec.template.spec", found);
    match LabelSelector::from_object(&object["spec"]["selector"]).filter(|it| !it.is_empty()) {
        None => found.push(FieldProblem::required("spec.selector", "")),
        Some(selector) => {
            let labels = object.pointer("/spec/template/metadata/labels");
            if !selector.matches(labels.and_then(Value::as_object)) {
                const HINT: &str = "`selector` does not match template `labels`";
                let value = labels.cloned().unwrap_or(Value::Null);
                found.push(FieldProblem::invalid("spec.template.metadata.labels", &value, HINT));
            }
        }
    }
    if object["spec"].get("replicas").and_then(Value::as_i64).is_some_and(|count| count < 0) {
        let value = &object["spec"]["replicas"];
        found.push(FieldProblem::invalid("spec.replicas", value, "must be greater than or equal to 0"));
    }
    if let Some(before) = before {
        immutable(before, object, &["/spec/selector"], found);
        if object["kind"] == "StatefulSet" {
            immutable(before, object, &["/spec/serviceName", "/spec/volumeClaimTemplates"], found);
        }
    }
}

fn claim(before: Option<&Value>, object: &Value, found: &mut Vec<FieldProblem>) {
    if items(object, "/spec/accessModes").is_empty() {
        found.push(FieldProblem::required("spec.accessModes", "at least 1 access mode is required"));
    }
    if object.pointer("/spec/resources/requests/storage").is_none() {
        found.push(FieldProblem::required("spec.resources[storage]", ""));
    }
    if let Some(before) = before {
        immutable(before, object, &["/spec/storageClassName", "/spec/accessModes"], found);
    }
}

fn node(before: Option<&Value>, object: &Value, found: &mut Vec<FieldProblem>) {
    for (at, taint) in items(object, "/spec/taints").iter().enumerate() {
        if !matches!(text(taint, "/effect"), "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            let message = format!(
                "Unsupported value: {}: supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
                taint["effect"]
            );
            let field = format!("metadata.taints[{at}].effect");
            found.push(FieldProblem { field, reason: "FieldValueNotSupported", message });
        }
    }
    let changed = before.is_some_and(|it| {
        !text(it, "/spec/providerID").is_empty() && text(it, "/spec/providerID") != text(object, "/spec/providerID")
    });
    if changed {
        let message = "Forbidden: node updates may not change providerID except from \"\" to valid".into();
        found.push(FieldProblem { field: "spec.providerID".into(), reason: "FieldValueForbidden", message });
    }
}

fn definition(object: &Value, found: &mut Vec<FieldProblem>) {
    let expected = format!("{}.{}", text(object, "/spec/names/plural"), text(object, "/spec/group"));
    if crate::kubernetes::object::name(object) != expected {
        let value = object["metadata"]["name"].clone();
        found.push(FieldProblem::invalid("metadata.name", &value, "must be spec.names.plural+\".\"+spec.group"));
    }
    let versions = items(object, "/spec/versions");
    if versions.iter().filter(|it| crate::kubernetes::object::flag(it, "/storage")).count() != 1 {
        let value = object["spec"]["versions"].clone();
        found.push(FieldProblem::invalid(
            "spec.versions",
            &value,
            "must have exactly one version marked as storage version",
        ));
    }
    for (at, version) in versions.iter().enumerate() {
        if version.pointer("/schema/openAPIV3Schema").is_none() {
            let field = format!("spec.versions[{at}].schema.openAPIV3Schema");
            found.push(FieldProblem::required(field, "schemas are required"));
        }
    }
}

fn immutable(before: &Value, after: &Value, pointers: &[&str], found: &mut Vec<FieldProblem>) {
    for pointer in pointers {
        let (old, new) = (before.pointer(pointer), after.pointer(pointer));
        if old.is_some_and(|it| !it.is_null()) && old != new {
            let field = pointer.trim_start_matches('/').replace('/', ".");
            found.push(FieldProblem::invalid(field, new.unwrap_or(&Value::Null), "field is immutable"));
        }
    }
}
