//! OpenAPI v2 and v3 of what is served: enough for kubectl's apply, explain and field validation to work.

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::handler::Context;
use crate::kubernetes::resources::Resource;

/// `/openapi/v3`: one document per group version.
pub(crate) fn index(cx: &Context) -> Value {
    let mut paths = Map::new();
    for resource in cx.cluster.registry.all().iter() {
        let root = root(resource);
        let url = format!("/openapi/v3/{root}?hash={:X}", cx.cluster.registry.all().len());
        paths.insert(root, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// `api/v1`, `apis/apps/v1`.
fn root(resource: &Resource) -> String {
    if resource.group.is_empty() { "api/v1".into() } else { format!("apis/{}", resource.api_version()) }
}

/// `/openapi/v3/<group version>`
///
/// # Errors
/// 404 for a group version that is not served.
pub(crate) fn v3(cx: &Context, group_version: &str) -> Result<Value, ApiError> {
    let all = cx.cluster.registry.all();
    let served: Vec<&Resource> = all.iter().filter(|it| root(it) == group_version).map(|it| &**it).collect();
    if served.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for resource in served {
        schemas.insert(schema_name(resource), schema(resource));
        for (path, item) in operations(resource) {
            paths.insert(path, item);
        }
    }
    schemas.insert("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta".into(), object_meta());
    Ok(json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": cx.server.kubernetes_version},
        "paths": paths, "components": {"schemas": schemas},
    }))
}

/// `/openapi/v2`: the same kinds as definitions.
pub(crate) fn v2(cx: &Context) -> Value {
    let mut definitions = Map::new();
    for resource in cx.cluster.registry.all().iter() {
        definitions.insert(schema_name(resource), schema(resource));
    }
    json!({
        "swagger": "2.0", "info": {"title": "Kubernetes", "version": cx.server.kubernetes_version},
        "paths": {}, "definitions": definitions,
    })
}

fn schema_name(resource: &Resource) -> String {
    let group = if resource.custom.is_some() {
        resource.group.split('.').rev().collect::<Vec<_>>().join(".")
    } else {
        let short = resource.group.split('.').next().unwrap_or_default();
        format!("io.k8s.api.{}", if short.is_empty() { "core" } else { short })
    };
    format!("{group}.{}.{}", resource.version, resource.kind)
}

fn kind_of(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

fn schema(resource: &Resource) -> Value {
    let mut schema = resource
        .custom
        .as_ref()
        .and_then(|version| version.pointer("/schema/openAPIV3Schema"))
        .cloned()
        .unwrap_or_else(|| json!({"description": describe(resource), "type": "object", "properties": {
            "spec": {"type": "object", "description": "What is wanted.", "x-kubernetes-preserve-unknown-fields": true},
            "status": {"type": "object", "description": "What was observed last.", "x-kubernetes-preserve-unknown-fields": true},
        }}));
    if resource.custom.is_none() {
        schema["x-kubernetes-preserve-unknown-fields"] = json!(true);
    }
    let properties = &mut schema["properties"];
    properties["apiVersion"] =
        json!({"type": "string", "description": "The version of this representation of the object."});
    properties["kind"] = json!({"type": "string", "description": "The kind of the object."});
    properties["metadata"] =
        json!({"type": "object", "description": "Name, labels, owners and other facts about the object."});
    schema["type"] = json!("object");
    schema["x-kubernetes-group-version-kind"] = json!([kind_of(resource)]);
    schema
}

fn describe(resource: &Resource) -> String {
    format!("{} as the simulated API server keeps it.", resource.kind)
}

fn object_meta() -> Value {
    let text = json!({"type": "string"});
    let labels = json!({"type": "object", "additionalProperties": {"type": "string"}});
    json!({"type": "object", "description": "What every stored object has.", "properties": {
        "name": text, "namespace": text, "uid": text, "resourceVersion": text, "labels": labels, "annotations": labels,
    }})
}

/// The paths of a resource; kubectl looks for `fieldValidation` among the parameters of PATCH and POST.
fn operations(resource: &Resource) -> Vec<(String, Value)> {
    let base = if resource.namespaced {
        format!("/{}/namespaces/{{namespace}}/{}", root(resource), resource.plural)
    } else {
        format!("/{}/{}", root(resource), resource.plural)
    };
    let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation"]
        .iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    let content =
        json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{}", schema_name(resource))}}});
    let responses = json!({"200": {"description": "OK", "content": content}});
    let operation = |action: &str| {
        json!({
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind_of(resource),
            "parameters": parameters, "responses": responses,
        })
    };
    let one = json!({
        "get": operation("get"), "put": operation("put"), "patch": operation("patch"), "delete": operation("delete")});
    vec![
        (base.clone(), json!({"get": operation("list"), "post": operation("post")})),
        (format!("{base}/{{name}}"), one),
    ]
}
