//! OpenAPI v2 and v3 of what is served, for apply, explain and field validation of kubectl and others.

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::handler::Context;
use super::types::{self, Field, Shape, Type};
use crate::kubernetes::resources::Resource;

const OBJECT_META: &str = "meta.v1.ObjectMeta";

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
    let mut schemas = Schemas { place: "#/components/schemas/", made: Map::new() };
    let mut paths = Map::new();
    for resource in served {
        schemas.add(resource);
        paths.extend(operations(resource, parameter_v3));
    }
    Ok(json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": cx.server.kubernetes_version},
        "paths": paths, "components": {"schemas": schemas.made},
    }))
}

/// `/openapi/v2`: the same kinds as definitions.
pub(crate) fn v2(cx: &Context) -> Value {
    let mut schemas = Schemas { place: "#/definitions/", made: Map::new() };
    let mut paths = Map::new();
    for resource in cx.cluster.registry.all().iter() {
        schemas.add(resource);
        paths.extend(operations(resource, parameter_v2).into_iter().map(|(path, item)| (path, without_content(item))));
    }
    json!({
        "swagger": "2.0", "info": {"title": "Kubernetes", "version": cx.server.kubernetes_version},
        "paths": paths, "definitions": schemas.made,
    })
}

/// The schemas of one document, with everything that they refer to.
struct Schemas {
    place: &'static str,
    made: Map<String, Value>,
}

impl Schemas {
    fn add(&mut self, resource: &Resource) {
        let name = schema_name(resource);
        let mut schema = match types::message_of_resource(resource) {
            Some(message) => {
                self.add_message(&message);
                self.made[&name].clone()
            }
            None => self.without_type(resource),
        };
        schema["description"] = match &schema["description"] {
            Value::String(text) => json!(text),
            _ => json!(format!("{} as the simulated API server keeps it.", resource.kind)),
        };
        schema["properties"]["apiVersion"] =
            json!({"type": "string", "description": "The version of this representation of the object."});
        schema["properties"]["kind"] = json!({"type": "string", "description": "The kind of the object."});
        schema["x-kubernetes-group-version-kind"] = json!([kind_of(resource)]);
        self.made.insert(name, schema);
    }

    /// A custom resource as its definition says; anything else is open.
    fn without_type(&mut self, resource: &Resource) -> Value {
        let definition = resource.custom.as_ref().and_then(|version| version.pointer("/schema/openAPIV3Schema"));
        let mut schema = definition.cloned().unwrap_or_else(|| json!({"x-kubernetes-preserve-unknown-fields": true}));
        schema["type"] = json!("object");
        self.add_message(OBJECT_META);
        schema["properties"]["metadata"] = self.reference(OBJECT_META);
        schema
    }

    fn add_message(&mut self, message: &str) {
        let name = message_schema_name(message);
        if self.made.contains_key(&name) {
            return;
        }
        // Present before its fields, because some messages hold themselves.
        self.made.insert(name.clone(), Value::Null);
        let mut properties = Map::new();
        self.add_fields(types::fields_of(message).unwrap_or_default(), &mut properties);
        self.made.insert(name, json!({"type": "object", "properties": properties}));
    }

    fn add_fields(&mut self, fields: &[Field], properties: &mut Map<String, Value>) {
        for field in fields {
            let property = match field.shape {
                Shape::Inline(message) => {
                    self.add_fields(types::fields_of(message).unwrap_or_default(), properties);
                    continue;
                }
                Shape::One(kind) => self.value(kind),
                Shape::List(kind) => {
                    let mut list = json!({"type": "array", "items": self.value(kind)});
                    if !field.merge_key.is_empty() {
                        list["x-kubernetes-patch-strategy"] = json!("merge");
                        list["x-kubernetes-patch-merge-key"] = json!(field.merge_key);
                    }
                    list
                }
                Shape::Map(kind) => json!({"type": "object", "additionalProperties": self.value(kind)}),
            };
            properties.insert(field.name.to_owned(), property);
        }
    }

    fn value(&mut self, kind: Type) -> Value {
        match kind {
            Type::Message { name, .. } => {
                self.add_message(name);
                self.reference(name)
            }
            Type::Scalar(letter) => match letter {
                's' | 'S' => json!({"type": "string"}),
                'b' => json!({"type": "string", "format": "byte"}),
                't' | 'u' => json!({"type": "string", "format": "date-time"}),
                'i' | 'I' => json!({"type": "integer"}),
                'f' | 'F' => json!({"type": "boolean"}),
                // Version 2 knows no alternatives of types.
                'x' if self.place == "#/definitions/" => json!({"type": "string", "format": "int-or-string"}),
                'q' if self.place == "#/definitions/" => json!({"type": "string"}),
                'x' => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
                'q' => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
                'l' => json!({"type": "array", "items": {"type": "string"}}),
                _ => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
            },
        }
    }

    fn reference(&self, message: &str) -> Value {
        json!({"$ref": format!("{}{}", self.place, message_schema_name(message))})
    }
}

fn message_schema_name(message: &str) -> String {
    let package = if message.starts_with("meta.") { "io.k8s.apimachinery.pkg.apis" } else { "io.k8s.api" };
    format!("{package}.{message}")
}

fn schema_name(resource: &Resource) -> String {
    if let Some(message) = types::message_of_resource(resource) {
        return message_schema_name(&message);
    }
    let group = resource.group.split('.').rev().collect::<Vec<_>>().join(".");
    format!("{group}.{}.{}", resource.version, resource.kind)
}

fn kind_of(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

/// A parameter in the query, which version 3 describes by a schema.
fn parameter_v3(name: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}})
}

fn parameter_v2(name: &str) -> Value {
    json!({"name": name, "in": "query", "type": "string", "uniqueItems": true})
}

/// Version 2 says of an answer only that there is one.
fn without_content(mut item: Value) -> Value {
    for operation in item.as_object_mut().into_iter().flat_map(|verbs| verbs.values_mut()) {
        operation["responses"] = json!({"200": {"description": "OK"}});
    }
    item
}

/// The paths of a resource; kubectl looks for `fieldValidation` among the parameters of PATCH and POST.
fn operations(resource: &Resource, parameter: fn(&str) -> Value) -> Vec<(String, Value)> {
    let base = if resource.namespaced {
        format!("/{}/namespaces/{{namespace}}/{}", root(resource), resource.plural)
    } else {
        format!("/{}/{}", root(resource), resource.plural)
    };
    let parameters = ["dryRun", "fieldManager", "fieldValidation"].map(parameter);
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
