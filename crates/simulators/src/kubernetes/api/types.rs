//! The fields of the built-in kinds: names, numbers on the wire and types, as `messages.tsv` lists them.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::kubernetes::resources::Resource;

/// One line per message: its name, a tab, then `field:number:type` and for lists that merge `:key`.
///
/// Types: `s` string, `i` number and `f` flag left out when empty, `S`/`I`/`F` kept, `b` bytes, `t` time, `u` time with
/// fractions, `x` int-or-string, `q` quantity, `r` any JSON, `l` a wrapped list of strings, else a message; `[` before it
/// is a list, `{` a map from string, `*` a message kept when empty, `~` one whose fields stand in its parent.
const TABLE: &str = include_str!("messages.tsv");

static MESSAGES: LazyLock<HashMap<&'static str, Vec<Field>>> = LazyLock::new(|| {
    TABLE.lines().filter_map(|line| line.split_once('\t')).map(|(name, fields)| (name, read(fields))).collect()
});

/// How often a field's value appears.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    One(Type),
    List(Type),
    /// From string to this.
    Map(Type),
    /// Its fields stand in the parent.
    Inline(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    /// One of the letters of the table.
    Scalar(char),
    /// `kept` says that it is there even when it is empty.
    Message { name: &'static str, kept: bool },
}

#[derive(Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) number: u32,
    pub(super) shape: Shape,
    /// The key by which a strategic merge tells list items apart; empty for none.
    pub(super) merge_key: &'static str,
}

/// The fields of a message; `None` for one that is not known.
pub(super) fn fields_of(message: &str) -> Option<&'static [Field]> {
    MESSAGES.get(message).map(Vec::as_slice)
}

/// The message of a kind; options of a deletion go by any group.
pub(super) fn message_of(api_version: &str, kind: &str) -> String {
    if kind == "DeleteOptions" {
        return "meta.v1.DeleteOptions".to_owned();
    }
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("core", api_version));
    let group = group.split('.').next().unwrap_or_default();
    format!("{group}.{version}.{kind}")
}

/// The message of a resource's objects, if its kind is built in.
pub(super) fn message_of_resource(resource: &Resource) -> Option<String> {
    let name = message_of(&resource.api_version(), &resource.kind);
    (resource.custom.is_none() && fields_of(&name).is_some()).then_some(name)
}

fn read(fields: &'static str) -> Vec<Field> {
    fields.split(' ').filter(|text| !text.is_empty()).filter_map(field).collect()
}

fn field(text: &'static str) -> Option<Field> {
    let mut parts = text.split(':');
    let (name, number, kind) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
    let shape = match kind.split_at_checked(1)? {
        ("[", item) => Shape::List(type_of(item)),
        ("{", item) => Shape::Map(type_of(item)),
        ("~", message) => Shape::Inline(message),
        _ => Shape::One(type_of(kind)),
    };
    Some(Field { name, number, shape, merge_key: parts.next().unwrap_or_default() })
}

fn type_of(text: &'static str) -> Type {
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) => Type::Scalar(letter),
        _ => Type::Message { name: text.strip_prefix('*').unwrap_or(text), kept: text.starts_with('*') },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::resources::Registry;

    #[test]
    fn every_line_is_read_and_names_only_messages_that_exist() {
        for line in TABLE.lines() {
            let (message, fields) = line.split_once('\t').expect("a tab");
            let read = fields_of(message).unwrap_or_default();
            assert_eq!(read.len(), fields.split(' ').filter(|it| !it.is_empty()).count(), "{message}");
            for field in read {
                match field.shape {
                    Shape::One(Type::Scalar(letter))
                    | Shape::List(Type::Scalar(letter))
                    | Shape::Map(Type::Scalar(letter)) => {
                        assert!("sSiIfFbtuxqrl".contains(letter), "{message}.{}", field.name);
                    }
                    Shape::One(Type::Message { name, .. })
                    | Shape::List(Type::Message { name, .. })
                    | Shape::Map(Type::Message { name, .. })
                    | Shape::Inline(name) => assert!(fields_of(name).is_some(), "{message}.{}: {name}", field.name),
                }
            }
        }
    }

    #[test]
    fn every_built_in_kind_has_its_message() {
        let without: Vec<String> = Registry::built_in()
            .all()
            .iter()
            .filter(|it| message_of_resource(it).is_none())
            .map(|it| it.kind.clone())
            .collect();
        assert_eq!(without, ["APIService", "CustomResourceDefinition", "NodeMetrics", "PodMetrics"]);
    }
}
