//! JSON with holes: what a playbook writes under `with`, `key`, `emit` and `locks`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use crate::{
    expression::{EvaluationError, Expression},
    yaml::{Node, Place},
};

/// A value, parts of which are expressions.
#[derive(Clone, Debug)]
pub enum Template {
    /// No hole in it.
    Literal(Value),
    /// `${expression}` alone: the value keeps its JSON type.
    Hole(Expression, Place),
    /// Text around and between holes: values are written into it.
    Text(Vec<Part>, Place),
    /// A list with holes somewhere in it.
    List(Vec<Self>),
    /// A mapping with holes somewhere in it.
    Map(Vec<(String, Self)>),
}

/// A part of a text with holes.
#[derive(Clone, Debug)]
pub enum Part {
    /// As it stands.
    Text(String),
    /// To be filled.
    Hole(Expression),
}

/// Why a text with holes is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadTemplate {
    /// Where.
    pub place: Place,
    /// What is wrong with it.
    pub message: String,
}

impl Template {
    /// Compiles every hole of a YAML value.
    pub fn compile(node: &Spanned<Node>) -> Result<Self, BadTemplate> {
        match &node.value {
            Node::Scalar(value) => Ok(Self::Literal(value.clone())),
            Node::Text(text) => Self::compile_text(text, node.into()),
            Node::List(items) => {
                let items = items.iter().map(Self::compile).collect::<Result<Vec<_>, _>>()?;
                Ok(Self::list(items))
            }
            Node::Map(fields) => {
                let compile = |(name, node): &(Spanned<String>, _)| Ok((name.value.clone(), Self::compile(node)?));
                Ok(Self::map(fields.iter().map(compile).collect::<Result<_, _>>()?))
            }
        }
    }

    /// Compiles a text; `$${` stands for a plain `${`.
    pub fn compile_text(text: &str, place: Place) -> Result<Self, BadTemplate> {
        let bad = |message: String| BadTemplate { place, message };
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                plain.push_str(&rest[..at - 1]);
                plain.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            plain.push_str(&rest[..at]);
            let hole = &rest[at + 2..];
            let end = end_of_hole(hole).ok_or_else(|| bad("`${` without its `}`".to_owned()))?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            let source = hole[..end].trim();
            let expression = Expression::compile(source).map_err(|error| bad(format!("`{source}`: {error}")))?;
            parts.push(Part::Hole(expression));
            rest = &hole[end + 1..];
        }
        plain.push_str(rest);
        if parts.is_empty() {
            return Ok(Self::Literal(Value::String(plain)));
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        match parts.as_slice() {
            [Part::Hole(expression)] => Ok(Self::Hole(expression.clone(), place)),
            _ => Ok(Self::Text(parts, place)),
        }
    }

    /// The value, where `lookup` gives the variables that its holes mention.
    pub fn resolve<'a>(&self, lookup: &dyn Fn(&str) -> Option<&'a Value>) -> Result<Value, EvaluationError> {
        self.fill(&mut |hole| hole.evaluate(lookup))
    }

    /// The value with each hole filled by `fill`.
    pub fn fill<E>(&self, fill: &mut dyn FnMut(&Expression) -> Result<Value, E>) -> Result<Value, E> {
        Ok(match self {
            Self::Literal(value) => value.clone(),
            Self::Hole(expression, _) => fill(expression)?,
            Self::Text(parts, _) => {
                let mut text = String::new();
                for part in parts {
                    match part {
                        Part::Text(plain) => text.push_str(plain),
                        Part::Hole(expression) => match fill(expression)? {
                            Value::String(value) => text.push_str(&value),
                            value => text.push_str(&value.to_string()),
                        },
                    }
                }
                Value::String(text)
            }
            Self::List(items) => Value::Array(items.iter().map(|item| item.fill(fill)).collect::<Result<_, _>>()?),
            Self::Map(fields) => {
                let mut map = Map::new();
                for (name, field) in fields {
                    map.insert(name.clone(), field.fill(fill)?);
                }
                Value::Object(map)
            }
        })
    }

    /// Every hole, with its place.
    pub fn holes(&self) -> Vec<(&Expression, Place)> {
        match self {
            Self::Literal(_) => Vec::new(),
            Self::Hole(expression, place) => vec![(expression, *place)],
            Self::Text(parts, place) => {
                let holes = parts.iter().filter_map(|part| match part {
                    Part::Hole(expression) => Some((expression, *place)),
                    Part::Text(_) => None,
                });
                holes.collect()
            }
            Self::List(items) => items.iter().flat_map(Self::holes).collect(),
            Self::Map(fields) => fields.iter().flat_map(|(_, field)| field.holes()).collect(),
        }
    }

    /// The steps that its holes mention.
    pub fn steps(&self) -> BTreeSet<String> {
        self.holes().into_iter().flat_map(|(hole, _)| hole.steps()).collect()
    }

    /// Names of the top-level fields, when it is written as a mapping.
    pub fn fields(&self) -> Option<Vec<&str>> {
        match self {
            Self::Map(fields) => Some(fields.iter().map(|(name, _)| name.as_str()).collect()),
            Self::Literal(Value::Object(fields)) => Some(fields.keys().map(String::as_str).collect()),
            _ => None,
        }
    }

    fn list(items: Vec<Self>) -> Self {
        let literal = |item: &Self| if let Self::Literal(value) = item { Some(value.clone()) } else { None };
        items
            .iter()
            .map(literal)
            .collect::<Option<Vec<_>>>()
            .map_or(Self::List(items), |values| Self::Literal(values.into()))
    }

    fn map(fields: Vec<(String, Self)>) -> Self {
        let literal = |(name, field): &(String, Self)| match field {
            Self::Literal(value) => Some((name.clone(), value.clone())),
            _ => None,
        };
        let values = fields.iter().map(literal).collect::<Option<Map<_, _>>>();
        values.map_or(Self::Map(fields), |values| Self::Literal(values.into()))
    }
}

/// Where the `}` stands that ends a hole: braces nest, and those in CEL strings do not count.
fn end_of_hole(text: &str) -> Option<usize> {
    let (mut depth, mut quote, mut escaped) = (0_usize, None, false);
    for (at, char) in text.char_indices() {
        match (quote, char) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if char == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(char),
            (None, '{') => depth += 1,
            (None, '}') if depth == 0 => return Some(at),
            (None, '}') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resolve(text: &str) -> Value {
        let input = json!({"n": 3, "name": "prod", "nodes": [{"a": 1}]});
        let template = Template::compile_text(text, Place::default()).unwrap();
        template.resolve(&|name| (name == "input").then_some(&input)).unwrap()
    }

    #[test]
    fn a_lone_hole_keeps_its_type_and_others_become_text() {
        assert_eq!(resolve("${input.nodes}"), json!([{"a": 1}]));
        assert_eq!(resolve("${input.n + 1}"), json!(4));
        assert_eq!(resolve("cluster/${input.name}/${input.n}"), json!("cluster/prod/3"));
        assert_eq!(resolve("${ {'a': '}'} }"), json!({"a": "}"}));
        assert_eq!(resolve("$${input.n} stays, ${input.n} does not"), json!("${input.n} stays, 3 does not"));
        assert!(Template::compile_text("${input.n", Place::default()).is_err());
    }

    #[test]
    fn a_mapping_without_holes_is_literal() {
        let node = crate::yaml::read::<Spanned<Node>>("t", "a: [1, yes, '${1}x']\nb: {c: 2}").unwrap();
        let template = Template::compile(&node).unwrap();
        assert_eq!(template.fields(), Some(vec!["a", "b"]));
        assert_eq!(template.resolve(&|_| None), Ok(json!({"a": [1, "yes", "1x"], "b": {"c": 2}})));
        let node = crate::yaml::read::<Spanned<Node>>("t", "[1, {a: b}]").unwrap();
        assert!(matches!(Template::compile(&node), Ok(Template::Literal(_))));
    }
}
