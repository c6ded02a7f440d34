//! Label and field selectors: the query strings of the API and the selectors inside objects.

use serde_json::{Map, Value};

use super::object::{items, map, text};

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq)]
enum Rule {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
}

/// A conjunction of requirements; empty matches everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LabelSelector(Vec<Rule>);

impl LabelSelector {
    /// Parses the form of the query parameter: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    ///
    /// # Errors
    /// The text that kubectl shows for a selector that cannot be parsed.
    pub(crate) fn parse(query: &str) -> Result<Self, String> {
        let mut rules = Vec::new();
        for part in split_outside_parentheses(query) {
            let part = part.trim();
            if !part.is_empty() {
                rules.push(parse_rule(part).ok_or_else(|| format!("unable to parse requirement: {part:?}"))?);
            }
        }
        Ok(Self(rules))
    }

    /// The `LabelSelector` of an object: `matchLabels` and `matchExpressions`. A missing selector matches nothing.
    pub(crate) fn from_object(selector: &Value) -> Option<Self> {
        if !selector.is_object() {
            return None;
        }
        let mut rules = exact(map(selector, "/matchLabels"));
        for expression in items(selector, "/matchExpressions") {
            rules.push(expression_rule(expression)?);
        }
        Some(Self(rules))
    }

    /// A plain map of labels, as in a Service or a `nodeSelector`.
    pub(crate) fn from_map(labels: &Value) -> Self {
        Self(exact(labels.as_object()))
    }

    /// The `matchExpressions` of a node selector term.
    pub(crate) fn from_expressions(expressions: &[Value]) -> Option<Self> {
        expressions.iter().map(expression_rule).collect::<Option<Vec<_>>>().map(Self)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when the labels satisfy every requirement.
    pub(crate) fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        let get = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
        self.0.iter().all(|rule| match rule {
            Rule::In(key, values) => get(key).is_some_and(|value| values.iter().any(|it| it == value)),
            Rule::NotIn(key, values) => get(key).is_none_or(|value| values.iter().all(|it| it != value)),
            Rule::Exists(key) => get(key).is_some(),
            Rule::Absent(key) => get(key).is_none(),
            Rule::Greater(key, bound) => number(get(key)).is_some_and(|value| value > *bound),
            Rule::Less(key, bound) => number(get(key)).is_some_and(|value| value < *bound),
        })
    }

    /// True when the object's labels satisfy every requirement.
    pub(crate) fn selects(&self, object: &Value) -> bool {
        self.matches(map(object, "/metadata/labels"))
    }
}

fn number(text: Option<&str>) -> Option<i64> {
    text?.parse().ok()
}

fn exact(labels: Option<&Map<String, Value>>) -> Vec<Rule> {
    labels
        .into_iter()
        .flatten()
        .map(|(key, value)| Rule::In(key.clone(), vec![value.as_str().unwrap_or_default().to_owned()]))
        .collect()
}

fn expression_rule(expression: &Value) -> Option<Rule> {
    let key = text(expression, "/key").to_owned();
    let values: Vec<String> =
        items(expression, "/values").iter().filter_map(|it| it.as_str().map(str::to_owned)).collect();
    let first = || values.first().and_then(|value| value.parse().ok());
    Some(match text(expression, "/operator") {
        "In" => Rule::In(key, values),
        "NotIn" => Rule::NotIn(key, values),
        "Exists" => Rule::Exists(key),
        "DoesNotExist" => Rule::Absent(key),
        "Gt" => Rule::Greater(key, first()?),
        "Lt" => Rule::Less(key, first()?),
        _ => return None,
    })
}

fn split_outside_parentheses(query: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (at, character) in query.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&query[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&query[start..]);
    parts
}

fn parse_rule(part: &str) -> Option<Rule> {
    if let Some((key, values)) = part.split_once(" notin ") {
        return Some(Rule::NotIn(label_key(key)?, value_set(values)?));
    }
    if let Some((key, values)) = part.split_once(" in ") {
        return Some(Rule::In(label_key(key)?, value_set(values)?));
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Some(Rule::NotIn(label_key(key)?, vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Rule::In(label_key(key)?, vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = part.split_once('>') {
        return Some(Rule::Greater(label_key(key)?, value.trim().parse().ok()?));
    }
    if let Some((key, value)) = part.split_once('<') {
        return Some(Rule::Less(label_key(key)?, value.trim().parse().ok()?));
    }
    match part.strip_prefix('!') {
        Some(key) => Some(Rule::Absent(label_key(key)?)),
        None => Some(Rule::Exists(label_key(part)?)),
    }
}

fn label_key(text: &str) -> Option<String> {
    let text = text.trim();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    (!text.is_empty() && text.chars().all(allowed)).then(|| text.to_owned())
}

fn value_set(text: &str) -> Option<Vec<String>> {
    let inner = text.trim().strip_prefix('(')?.strip_suffix(')')?;
    Some(inner.split(',').map(|value| value.trim().to_owned()).collect())
}

/// A conjunction of `path=value` and `path!=value`.
#[derive(Clone, Debug, Default)]
pub(crate) struct FieldSelector(Vec<(String, bool, String)>);

impl FieldSelector {
    /// Parses the query parameter. Which fields exist is checked by [`Self::unsupported`].
    pub(crate) fn parse(query: &str) -> Result<Self, String> {
        let mut rules = Vec::new();
        for part in query.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (path, wanted, value) = if let Some((path, value)) = part.split_once("!=") {
                (path, false, value)
            } else if let Some((path, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (path, true, value)
            } else {
                return Err(format!("invalid selector: {query:?}; can't understand {part:?}"));
            };
            rules.push((path.trim().to_owned(), wanted, value.trim().to_owned()));
        }
        Ok(Self(rules))
    }

    /// The name asked for, when the selector is exactly `metadata.name=…`.
    pub(crate) fn single_name(&self) -> Option<&str> {
        match self.0.as_slice() {
            [(path, true, value)] if path == "metadata.name" => Some(value),
            _ => None,
        }
    }

    /// The first field that this resource cannot be selected by.
    pub(crate) fn unsupported(&self, resource: &str) -> Option<&str> {
        let extra: &[&str] = match resource {
            "pods" => &[
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "spec.hostNetwork",
                "status.phase",
                "status.podIP",
                "status.nominatedNodeName",
            ],
            "events" => &[
                "involvedObject.kind",
                "involvedObject.namespace",
                "involvedObject.name",
                "involvedObject.uid",
                "involvedObject.apiVersion",
                "involvedObject.resourceVersion",
                "involvedObject.fieldPath",
                "reason",
                "reportingComponent",
                "source",
                "type",
            ],
            "nodes" => &["spec.unschedulable"],
            "namespaces" => &["status.phase"],
            "secrets" => &["type"],
            "replicasets.apps" => &["status.replicas"],
            "jobs.batch" => &["status.successful"],
            "certificatesigningrequests.certificates.k8s.io" => &["spec.signerName"],
            _ => &[],
        };
        let known = |path: &str| matches!(path, "metadata.name" | "metadata.namespace") || extra.contains(&path);
        self.0.iter().map(|(path, _, _)| path.as_str()).find(|path| !known(path))
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(path, wanted, value)| {
            let found = object.pointer(&format!("/{}", path.replace('.', "/")));
            let found = match found {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Null) | None if matches!(path.as_str(), "spec.unschedulable" | "spec.hostNetwork") => {
                    "false".into()
                }
                Some(Value::Null) | None => String::new(),
                Some(other) => other.to_string(),
            };
            (found == *value) == *wanted
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selects(query: &str, labels: Value) -> bool {
        LabelSelector::parse(query).expect("parses").matches(labels.as_object())
    }

    #[test]
    fn label_queries_mean_what_kubectl_means() {
        let labels = json!({"app": "web", "tier": "front"});
        for (query, expected) in [
            ("", true),
            ("app=web,tier==front", true),
            ("app!=web", false),
            ("missing!=x", true),
            ("app in (web, db),!gone", true),
            ("tier notin (front)", false),
            ("app,gone", false),
        ] {
            assert_eq!(selects(query, labels.clone()), expected, "{query}");
        }
        assert!(LabelSelector::parse("a b=c").is_err());
    }

    #[test]
    fn field_queries_read_absent_flags_as_false() {
        let selector = FieldSelector::parse("spec.unschedulable=false,metadata.name!=b").expect("parses");
        assert!(selector.matches(&json!({"metadata": {"name": "a"}, "spec": {}})));
        assert!(!selector.matches(&json!({"metadata": {"name": "a"}, "spec": {"unschedulable": true}})));
        assert_eq!(selector.unsupported("pods"), Some("spec.unschedulable"));
    }
}
