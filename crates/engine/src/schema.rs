//! Walks JSON Schemas along the path of a reference, as far as they say anything.

use serde_json::{Value, json};

/// A schema inside a document, or nothing known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    /// The document that `$ref`s point into, and the place in it.
    known: Option<(&'a Value, &'a Value)>,
}

/// What a shape says of one of its fields.
#[derive(Debug)]
pub(crate) enum Field<'a> {
    /// It exists, or may.
    Known(Shape<'a>),
    /// It does not; these do.
    Missing(Vec<&'a str>),
}

impl<'a> Shape<'a> {
    /// Nothing is known: every path is possible.
    pub(crate) const ANY: Self = Self { known: None };

    /// The shape that a whole document describes.
    pub(crate) fn of(document: &'a Value) -> Self {
        Self { known: Some((document, document)) }
    }

    /// A field of it.
    pub(crate) fn field(self, name: &str) -> Field<'a> {
        let mut names = Vec::new();
        let mut closed = false;
        for (document, schema) in self.alternatives() {
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
                if is_scalar(schema) {
                    closed = true;
                    continue;
                }
                return Field::Known(match schema.get("additionalProperties") {
                    Some(additional @ Value::Object(_)) => Self { known: Some((document, additional)) },
                    _ => Self::ANY,
                });
            };
            if let Some(property) = properties.get(name) {
                return Field::Known(Self { known: Some((document, property)) });
            }
            match schema.get("additionalProperties") {
                Some(Value::Bool(true)) => return Field::Known(Self::ANY),
                Some(additional @ Value::Object(_)) => {
                    return Field::Known(Self { known: Some((document, additional)) });
                }
                _ => {}
            }
            closed = true;
            names.extend(properties.keys().map(String::as_str));
        }
        if closed { Field::Missing(names) } else { Field::Known(Self::ANY) }
    }

    /// The items of it, when it is a list.
    pub(crate) fn items(self) -> Self {
        self.alternatives()
            .find_map(|(document, schema)| schema.get("items").map(|items| Self { known: Some((document, items)) }))
            .unwrap_or(Self::ANY)
    }

    /// Names of its fields, and which of them are required; none when it is not a plain object.
    pub(crate) fn fields(self) -> Option<(Vec<&'a str>, Vec<&'a str>)> {
        let mut alternatives = self.alternatives();
        let (_, schema) = alternatives.next()?;
        if alternatives.next().is_some() {
            return None;
        }
        let names = schema.get("properties")?.as_object()?.keys().map(String::as_str).collect();
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        Some((names, required.filter_map(Value::as_str).collect()))
    }

    /// Whether fields besides the named ones are refused.
    pub(crate) fn is_closed(self) -> bool {
        self.alternatives().all(|(_, schema)| schema.get("additionalProperties") == Some(&Value::Bool(false)))
    }

    /// Why `value` does not fit, as far as the shape says anything.
    pub(crate) fn refuses(self, value: &Value) -> Option<String> {
        let (document, schema) = self.known?;
        let defs = document.get("$defs").cloned().unwrap_or_else(|| json!({}));
        let validator = jsonschema::validator_for(&json!({"allOf": [schema], "$defs": defs})).ok()?;
        validator.iter_errors(value).next().map(|error| format!("{value} breaks the rule `{}`", error.kind().keyword()))
    }

    /// The schemas that a value may follow, with `$ref`, `anyOf`, `oneOf` and `allOf` resolved; null left out.
    fn alternatives(self) -> impl Iterator<Item = (&'a Value, &'a Value)> {
        let mut found = Vec::new();
        if let Some((document, schema)) = self.known {
            collect(document, schema, 0, &mut found);
        }
        found.into_iter()
    }
}

fn collect<'a>(document: &'a Value, schema: &'a Value, depth: usize, found: &mut Vec<(&'a Value, &'a Value)>) {
    if depth > 16 || schema.get("type").and_then(Value::as_str) == Some("null") {
        return;
    }
    if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        if let Some(target) = target.strip_prefix('#').and_then(|pointer| document.pointer(pointer)) {
            collect(document, target, depth + 1, found);
        }
        return;
    }
    let mut composed = false;
    for keyword in ["anyOf", "oneOf", "allOf"] {
        for part in schema.get(keyword).and_then(Value::as_array).into_iter().flatten() {
            composed = true;
            collect(document, part, depth + 1, found);
        }
    }
    if !composed || schema.get("properties").is_some() {
        found.push((document, schema));
    }
}

fn is_scalar(schema: &Value) -> bool {
    let scalar = |name: &str| matches!(name, "string" | "integer" | "number" | "boolean" | "null");
    match schema.get("type") {
        Some(Value::String(name)) => scalar(name),
        Some(Value::Array(names)) => names.iter().all(|name| name.as_str().is_some_and(scalar)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_followed_through_references_and_options() {
        let schema = json!({
            "type": "object",
            "properties": {"node": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}, "free": {}},
            "$defs": {"Node": {"type": "object", "properties": {
                "name": {"type": "string"}, "disks": {"type": "array", "items": {"$ref": "#/$defs/Disk"}}}},
                "Disk": {"type": "object", "properties": {"dev": {"type": ["string", "null"]}}}},
        });
        let follow = |path: &[&str]| {
            let mut shape = Shape::of(&schema);
            for name in path {
                match if *name == "[]" { Field::Known(shape.items()) } else { shape.field(name) } {
                    Field::Known(next) => shape = next,
                    Field::Missing(names) => return Err(names.join(",")),
                }
            }
            Ok(())
        };
        assert_eq!(follow(&["node", "disks", "[]", "dev"]), Ok(()));
        assert_eq!(follow(&["free", "anything"]), Ok(()));
        assert_eq!(follow(&["node", "nam"]), Err("disks,name".to_owned()));
        assert_eq!(follow(&["node", "disks", "[]", "dev", "x"]), Err(String::new()));
    }
}
