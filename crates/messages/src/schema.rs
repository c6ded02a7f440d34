//! JSON Schemas (2020-12) of every message, generated from the types, and validation that names every violation.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use jsonschema::{PatternOptions, Validator, error::ValidationErrorKind};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::catalogue::{self, Family, Kind};

/// One thing that is wrong with a message. Never holds a value of the message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Violation {
    /// JSON Pointer to the offending value; empty for the whole message.
    pub path: String,
    /// The schema keyword, or the name of the check beyond the schema.
    pub rule: String,
    /// What would be right.
    pub expected: String,
    /// What was there, without its value: `string of 12 characters`.
    pub got: String,
    /// The nearest right spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub did_you_mean: Option<String>,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = if self.path.is_empty() { "/" } else { &self.path };
        write!(f, "{path}: expected {}, got {}", self.expected, self.got)?;
        match &self.did_you_mean {
            Some(suggestion) => write!(f, "; did you mean {suggestion:?}?"),
            None => Ok(()),
        }
    }
}

/// Checks a message against its schema; requests strictly, handoffs and events as tolerant readers.
///
/// # Errors
/// Every violation, in the order of the paths. An unknown `name` is one violation at the root.
pub fn validate(family: Family, name: &str, message: &Value) -> Result<(), Vec<Violation>> {
    type Checkers = Mutex<HashMap<(Family, &'static str), Arc<Checker>>>;
    static CHECKERS: LazyLock<Checkers> = LazyLock::new(Mutex::default);
    let Some(kind) = catalogue::find(family, name) else {
        return Err(vec![unknown_type(family, name)]);
    };
    let checker = Arc::clone(
        CHECKERS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((family, kind.name))
            .or_insert_with(|| Arc::new(Checker::for_kind(kind))),
    );
    checker.check(message)
}

/// A compiled schema that words its violations.
pub struct Checker {
    schema: Value,
    validator: Validator,
}

impl Checker {
    /// Compiles a schema: formats checked, linear-time patterns, nothing fetched.
    ///
    /// # Errors
    /// What is wrong with the schema itself.
    pub fn new(schema: Value) -> Result<Self, String> {
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .should_validate_formats(true)
            .with_pattern_options(PatternOptions::regex())
            .build(&schema)
            .map_err(|error| error.to_string())?;
        Ok(Self { schema, validator })
    }

    /// Every violation, in the order of the paths.
    ///
    /// # Errors
    /// If there is any.
    pub fn check(&self, message: &Value) -> Result<(), Vec<Violation>> {
        let mut found: Vec<Violation> =
            self.validator.iter_errors(message).flat_map(|error| words(&self.schema, &error)).collect();
        if found.is_empty() {
            return Ok(());
        }
        found.sort_by(|a, b| (&a.path, &a.rule).cmp(&(&b.path, &b.rule)));
        found.dedup();
        Err(found)
    }

    fn for_kind(kind: &Kind) -> Self {
        let mut schema = document(kind);
        if kind.family != Family::Request {
            open(&mut schema);
        }
        Self::new(schema).expect("the project's own schemas compile, a test says so")
    }
}

/// The schema file of one kind, as `schemas/` holds it.
pub fn document(kind: &Kind) -> Value {
    let mut root = generator_document((kind.schema)(&mut settings().into_generator()));
    let object = root.as_object_mut().expect("a message schema is an object");
    if kind.family == Family::Event {
        object["properties"]["event_type"] =
            json!({ "type": "string", "const": kind.name, "description": "The event's type." });
    }
    let mut file = Map::new();
    file.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    file.insert("$id".into(), kind.schema_id().into());
    file.insert("title".into(), kind.name.into());
    let twin = kind.twin();
    file.insert("description".into(), twin.map_or_else(|| kind.summary.to_owned(), |twin| both(kind, twin)).into());
    for (key, value) in std::mem::take(object) {
        if key != "$schema" && key != "title" && key != "description" {
            file.insert(key, value);
        }
    }
    let mut examples = (kind.examples)();
    if let Some(twin) = twin {
        examples.extend((twin.examples)());
        examples.sort_by_key(ToString::to_string);
    }
    if kind.family == Family::Event {
        examples.iter_mut().for_each(|example| example["event_type"] = kind.name.into());
    }
    file.insert("examples".into(), examples.into());
    Value::Object(file)
}

/// What a type that is both request and handoff is for.
fn both(one: &Kind, other: &Kind) -> String {
    let mut told = [one, other].map(|kind| format!("As {}: {}", kind.family.as_str(), kind.summary));
    told.sort();
    told.join(" ")
}

/// The schema of any type, normalised as the message schemas are: no integer formats, enums instead of alternatives
/// of constants, no `null` in place of a field that is left out.
pub fn of<T: JsonSchema>() -> Value {
    generator_document(settings().into_generator().root_schema_for::<T>())
}

fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12()
}

/// Makes a strict schema a tolerant one.
fn open(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.retain(|key, value| !(key == "additionalProperties" && *value == Value::Bool(false)));
            object.values_mut().for_each(open);
        }
        Value::Array(items) => items.iter_mut().for_each(open),
        _ => {}
    }
}

fn generator_document(schema: schemars::Schema) -> Value {
    let mut value = schema.to_value();
    normalise(&mut value);
    value
}

fn normalise(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            drop_null(object);
            constants_to_enum(object);
            formats(object);
            object.values_mut().for_each(normalise);
        }
        Value::Array(items) => items.iter_mut().for_each(normalise),
        _ => {}
    }
}

/// A field that is not given is left out, never `null`.
fn drop_null(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|of| of != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type") != Some(&json!("null")));
        if let [only] = choices.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            if let Value::Object(only) = only {
                for (key, value) in only {
                    object.entry(key).or_insert(value);
                }
            }
        }
    }
    if object.get("default") == Some(&Value::Null) {
        object.remove("default");
    }
}

fn constants_to_enum(object: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = object.get("oneOf") else { return };
    let constants: Option<Vec<Value>> = choices.iter().map(|choice| choice.get("const").cloned()).collect();
    let Some(constants) = constants else { return };
    let mut meanings = Map::new();
    for choice in choices {
        if let (Some(Value::String(constant)), Some(meaning)) = (choice.get("const"), choice.get("description")) {
            meanings.insert(constant.clone(), meaning.clone());
        }
    }
    object.remove("oneOf");
    object.insert("type".into(), "string".into());
    object.insert("enum".into(), Value::Array(constants));
    if !meanings.is_empty() {
        object.insert("x-meanings".into(), Value::Object(meanings));
    }
}

/// Keeps the formats that JSON Schema defines; `ip` becomes the two that it means.
fn formats(object: &mut Map<String, Value>) {
    match object.get("format").and_then(Value::as_str) {
        Some("ip") => {
            object.remove("format");
            object.insert("anyOf".into(), json!([{ "format": "ipv4" }, { "format": "ipv6" }]));
        }
        Some("uuid" | "date-time" | "ipv4" | "ipv6" | "uri") | None => {}
        Some(_) => {
            object.remove("format");
        }
    }
}

fn unknown_type(family: Family, name: &str) -> Violation {
    let known: Vec<&str> = catalogue::all().iter().filter(|kind| kind.family == family).map(|kind| kind.name).collect();
    Violation {
        path: String::new(),
        rule: "type".into(),
        expected: format!("one of the {} types {}", family.as_str(), known.join(", ")),
        got: "another type".into(),
        did_you_mean: nearest(name, known),
    }
}

fn words(schema: &Value, error: &jsonschema::ValidationError<'_>) -> Vec<Violation> {
    use ValidationErrorKind as Is;
    let path = error.instance_path().to_string();
    let rule = error.kind().keyword().to_owned();
    let got = describe(error.instance());
    let one = |expected: String| {
        vec![Violation { path: path.clone(), rule: rule.clone(), expected, got: got.clone(), did_you_mean: None }]
    };
    match error.kind() {
        Is::AdditionalProperties { unexpected } | Is::UnevaluatedProperties { unexpected } => {
            unexpected.iter().map(|field| unknown_field(schema, field, error)).collect()
        }
        Is::Required { property } => vec![Violation {
            path: format!("{path}/{}", property.as_str().unwrap_or_default()),
            rule,
            expected: "a value, the field is required".into(),
            got: "nothing".into(),
            did_you_mean: None,
        }],
        Is::Enum { options } => {
            let options: Vec<String> = options.as_array().into_iter().flatten().map(plain).collect();
            let did_you_mean =
                error.instance().as_str().and_then(|text| nearest(text, options.iter().map(String::as_str)));
            vec![Violation { path, rule, expected: format!("one of {}", options.join(", ")), got, did_you_mean }]
        }
        Is::Constant { expected_value } => one(format!("{expected_value}")),
        Is::Type { kind } => one(match kind {
            jsonschema::error::TypeKind::Single(of) => format!("{of}"),
            jsonschema::error::TypeKind::Multiple(types) => {
                types.iter().map(|of| format!("{of}")).collect::<Vec<_>>().join(" or ")
            }
        }),
        Is::Pattern { pattern } => one(format!("text that matches {pattern}")),
        Is::Format { format } => one(format!("text in the format {format}")),
        Is::Minimum { limit } => one(format!("at least {limit}")),
        Is::Maximum { limit } => one(format!("at most {limit}")),
        Is::MinItems { limit } => one(format!("at least {limit} items")),
        Is::MaxItems { limit } => one(format!("at most {limit} items")),
        Is::MinLength { limit } => one(format!("at least {limit} characters")),
        Is::MaxLength { limit } => one(format!("at most {limit} characters")),
        Is::AnyOf { context } | Is::OneOfNotValid { context } => one(alternatives(schema, context)),
        other => one(format!("a value that satisfies `{}`", other.keyword())),
    }
}

fn alternatives(schema: &Value, context: &[Vec<jsonschema::ValidationError<'static>>]) -> String {
    let mut wanted: Vec<String> =
        context.iter().flatten().flat_map(|error| words(schema, error)).map(|violation| violation.expected).collect();
    wanted.dedup();
    wanted.join(" or ")
}

fn unknown_field(schema: &Value, field: &str, error: &jsonschema::ValidationError<'_>) -> Violation {
    let name: String = field.chars().take(80).collect();
    Violation {
        path: format!("{}/{}", error.instance_path(), name.replace('~', "~0").replace('/', "~1")),
        rule: error.kind().keyword().to_owned(),
        expected: "a field that the schema knows".into(),
        got: "an unknown field".into(),
        did_you_mean: siblings(schema, error).and_then(|known| nearest(field, known)),
    }
}

/// The fields that the schema at the place of `error` knows.
fn siblings<'a>(schema: &'a Value, error: &jsonschema::ValidationError<'_>) -> Option<impl Iterator<Item = &'a str>> {
    let place = error.schema_path().to_string();
    let (parent, _keyword) = place.rsplit_once('/')?;
    let mut at = schema;
    for token in parent.split('/').skip(1) {
        at = match (token, at.get("$ref")) {
            ("$ref", Some(reference)) => schema.pointer(reference.as_str()?.strip_prefix('#')?)?,
            _ => at.get(token)?,
        };
    }
    Some(at.get("properties")?.as_object()?.keys().map(String::as_str))
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "a boolean".into(),
        Value::Number(number) if number.is_f64() => "a number with a fraction".into(),
        Value::Number(_) => "an integer".into(),
        Value::String(text) => format!("string of {} characters", text.chars().count()),
        Value::Array(items) => format!("array of {}", items.len()),
        Value::Object(object) => format!("object with {} fields", object.len()),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The known word nearest to `word`, if it is near enough to be a slip.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.to_owned())
}
