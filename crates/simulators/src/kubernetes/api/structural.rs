//! Custom resources against the schema of their definition: pruning, defaults, validation. Rules in CEL are not run.

use regex::Regex;
use serde_json::{Value, json};

use super::error::FieldProblem;
use crate::kubernetes::object::flag;
use crate::kubernetes::resources::Resource;

/// What every object has, whatever its schema says.
const ENVELOPE: [&str; 3] = ["apiVersion", "kind", "metadata"];

fn schema_of(resource: &Resource) -> Option<&Value> {
    resource.custom.as_deref()?.pointer("/schema/openAPIV3Schema")
}

/// Drops fields that the schema does not have, and `null`s, and returns the paths of the fields.
pub(crate) fn prune(resource: &Resource, object: &mut Value) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(schema) = schema_of(resource) {
        prune_value(schema, object, "", true, &mut found);
    }
    found
}

/// Fills in the defaults of fields that are not there.
pub(crate) fn set_defaults(resource: &Resource, object: &mut Value) {
    if let Some(schema) = schema_of(resource) {
        default_value(schema, object);
    }
}

/// What the schema does not allow.
pub(crate) fn problems(resource: &Resource, object: &Value) -> Vec<FieldProblem> {
    let mut found = Vec::new();
    for (key, schema) in schema_of(resource).and_then(|schema| schema["properties"].as_object()).into_iter().flatten() {
        if !ENVELOPE.contains(&key.as_str())
            && let Some(value) = object.get(key)
        {
            check(schema, value, key, &mut found);
        }
    }
    required(schema_of(resource).unwrap_or(&Value::Null), object, "", &mut found);
    found
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn prune_value(schema: &Value, value: &mut Value, path: &str, whole_object: bool, found: &mut Vec<String>) {
    let preserves = flag(schema, "/x-kubernetes-preserve-unknown-fields");
    match value {
        Value::Object(fields) => fields.retain(|key, child| {
            if whole_object && ENVELOPE.contains(&key.as_str()) {
                return true;
            }
            let of_field = schema["properties"]
                .get(key)
                .or_else(|| schema.get("additionalProperties").filter(|it| it.is_object()));
            let here = below(path, key);
            match of_field {
                Some(of_field) if child.is_null() => flag(of_field, "/nullable"),
                Some(of_field) => {
                    let embedded = flag(of_field, "/x-kubernetes-embedded-resource");
                    prune_value(of_field, child, &here, embedded, found);
                    true
                }
                None if preserves || schema["additionalProperties"] == true => true,
                None => {
                    found.push(here);
                    false
                }
            }
        }),
        Value::Array(items) => {
            for (at, item) in items.iter_mut().enumerate() {
                prune_value(&schema["items"], item, &format!("{path}[{at}]"), false, found);
            }
        }
        _ => {}
    }
}

fn default_value(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, of_field) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(default) = of_field.get("default")
                    && !fields.contains_key(key)
                {
                    fields.insert(key.clone(), default.clone());
                }
                if let Some(child) = fields.get_mut(key) {
                    default_value(of_field, child);
                }
            }
            if schema["additionalProperties"].is_object() {
                fields.values_mut().for_each(|child| default_value(&schema["additionalProperties"], child));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| default_value(&schema["items"], item)),
        _ => {}
    }
}

fn check(schema: &Value, value: &Value, path: &str, found: &mut Vec<FieldProblem>) {
    if value.is_null() && flag(schema, "/nullable") {
        return;
    }
    if let Some(wanted) = schema["type"].as_str()
        && !is_of(wanted, value)
    {
        let hint = format!("{path} in body must be of type {wanted}: {}", json!(type_name(value)));
        found.push(FieldProblem {
            field: path.into(),
            reason: "FieldValueTypeInvalid",
            message: format!("Invalid value: {}: {hint}", json!(type_name(value))),
        });
        return;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let list: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", list.join(", "));
        found.push(FieldProblem { field: path.into(), reason: "FieldValueNotSupported", message });
    }
    limits(schema, value, path, found);
    match value {
        Value::Object(fields) => {
            required(schema, value, path, found);
            for (key, child) in fields {
                let of_field = schema["properties"]
                    .get(key)
                    .or_else(|| schema.get("additionalProperties").filter(|it| it.is_object()));
                if let Some(of_field) = of_field {
                    check(of_field, child, &below(path, key), found);
                }
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{at}]"), found);
            }
        }
        _ => {}
    }
}

fn required(schema: &Value, value: &Value, path: &str, found: &mut Vec<FieldProblem>) {
    for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.get(key).is_none_or(Value::is_null) {
            found.push(FieldProblem::required(below(path, key), ""));
        }
    }
}

/// Bounds of numbers, texts and lists.
fn limits(schema: &Value, value: &Value, path: &str, found: &mut Vec<FieldProblem>) {
    let mut invalid = |shown: &Value, hint: String| {
        found.push(FieldProblem::invalid(path, shown, &format!("{path} in body {hint}")));
    };
    if let (Some(number), Some(least)) = (value.as_f64(), schema["minimum"].as_f64()) {
        let exclusive = flag(schema, "/exclusiveMinimum");
        if number < least || (exclusive && number <= least) {
            let or_equal = if exclusive { "" } else { " or equal to" };
            invalid(value, format!("should be greater than{or_equal} {}", schema["minimum"]));
        }
    }
    if let (Some(number), Some(most)) = (value.as_f64(), schema["maximum"].as_f64()) {
        let exclusive = flag(schema, "/exclusiveMaximum");
        if number > most || (exclusive && number >= most) {
            let or_equal = if exclusive { "" } else { " or equal to" };
            invalid(value, format!("should be less than{or_equal} {}", schema["maximum"]));
        }
    }
    if let Some(text) = value.as_str() {
        let length = text.chars().count() as u64;
        if let Some(least) = schema["minLength"].as_u64().filter(|least| length < *least) {
            invalid(value, format!("should be at least {least} chars long"));
        }
        if let Some(pattern) = schema["pattern"].as_str()
            && Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match(text))
        {
            invalid(value, format!("should match '{pattern}'"));
        }
        if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
            let message = format!("Too long: may not be more than {most} bytes");
            found.push(FieldProblem { field: path.into(), reason: "FieldValueTooLong", message });
        }
    }
    if let Some(items) = value.as_array() {
        let count = items.len() as u64;
        if let Some(least) = schema["minItems"].as_u64().filter(|least| count < *least) {
            let hint = format!("{path} in body should have at least {least} items");
            found.push(FieldProblem::invalid(path, &json!(count), &hint));
        }
        if let Some(most) = schema["maxItems"].as_u64().filter(|most| count > *most) {
            let message = format!("Too many: {count}: must have at most {most} items");
            found.push(FieldProblem { field: path.into(), reason: "FieldValueTooMany", message });
        }
    }
}

fn is_of(wanted: &str, value: &Value) -> bool {
    match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|it| it.fract() == 0.0),
        "number" => value.is_number(),
        _ => true,
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::resources::Registry;

    fn resource() -> Resource {
        let registry = Registry::built_in();
        let spec = json!({
            "type": "object", "required": ["size"], "properties": {
                "size": {"type": "integer", "minimum": 1}, "mode": {"type": "string", "default": "fast", "enum": ["fast", "safe"]},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "tags": {"type": "object", "additionalProperties": {"type": "string", "pattern": "^[a-z]+$"}}}});
        registry.set_custom(&[std::sync::Arc::new(json!({"spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"kind": "Disk", "plural": "disks", "singular": "disk"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "required": ["spec"], "properties": {"spec": spec}}}}]}}))]);
        (*registry.find_id("disks.example.com").expect("defined")).clone()
    }

    #[test]
    fn unknown_fields_go_and_defaults_come() {
        let mut disk = json!({
            "kind": "Disk", "metadata": {"name": "a"}, "spec": {"size": 1, "colour": "red", "free": {"x": 1}, "tags": {"a": "b"}}, "extra": 1});
        assert_eq!(prune(&resource(), &mut disk), ["extra", "spec.colour"]);
        set_defaults(&resource(), &mut disk);
        assert_eq!(disk["spec"], json!({"size": 1, "mode": "fast", "free": {"x": 1}, "tags": {"a": "b"}}));
        assert!(problems(&resource(), &disk).is_empty());
    }

    #[test]
    fn what_the_schema_forbids_is_named_as_the_real_server_names_it() {
        let texts = |spec: Value| -> Vec<String> {
            problems(&resource(), &json!({"spec": spec}))
                .iter()
                .map(|it| format!("{}: {}", it.field, it.message))
                .collect()
        };
        assert_eq!(texts(json!({})), ["spec.size: Required value"]);
        assert_eq!(
            texts(json!({"size": 0, "mode": "odd", "tags": {"a": "B"}})),
            [
                "spec.mode: Unsupported value: \"odd\": supported values: \"fast\", \"safe\"",
                "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
                "spec.tags.a: Invalid value: \"B\": spec.tags.a in body should match '^[a-z]+$'",
            ]
        );
        let wrong = "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"";
        assert_eq!(texts(json!({"size": "big"})), [wrong]);
        assert_eq!(problems(&resource(), &json!({}))[0].field, "spec");
    }
}
