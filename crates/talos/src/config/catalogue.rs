//! Which objects and fields a machine configuration has in each Talos version, and how Talos treats each of them.
//!
//! Facts from talos-config.tsv and, for the deprecated fields that its schema hides, from the Go types of the main
//! document. Facts of 1.14 are those of rc.1.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::version::Minor;

use super::form::Form;

/// The kind under which the kind-less main document is known.
pub const MAIN: &str = "v1alpha1";

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| Catalogue::read(include_str!("catalogue.txt")));

struct Catalogue {
    objects: HashMap<&'static str, Object>,
    documents: HashMap<&'static str, &'static str>,
}

/// One object of the configuration.
#[derive(Debug, Default)]
pub struct Object {
    pub fields: Vec<Field>,
}

/// One field of an object.
#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    pub ty: Type,
    /// Written even when it is empty.
    pub always: bool,
    /// Holds key material or a token.
    pub secret: bool,
    /// A URL whose query may hold a token.
    pub secret_query: bool,
    /// Loaded, but superseded by another field or document.
    pub deprecated: bool,
    /// A zero value counts as set: it is written, and a patch can set it.
    pub pointer: bool,
    /// Written as `null` when it is absent.
    pub null: bool,
    /// A boolean for which `false` and absent are the same.
    pub plain_bool: bool,
    /// The only texts it may hold; empty if any.
    pub choices: Vec<&'static str>,
    pub merge: Merge,
    first_minor: u64,
    last_minor: u64,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    String,
    Bool,
    /// A whole number between two bounds, both included.
    Int(&'static Whole),
    /// A Go duration such as `168h0m0s`.
    Duration,
    /// A scalar that Talos reads in several notations.
    Scalar,
    /// A tree that Talos hands on without knowing its fields.
    Any,
    /// Command line arguments: a string each, from 1.13 on also a list of strings.
    Args,
    /// File permissions, written as `0o644`.
    Mode,
    /// A text whose blank lines at the start go.
    Manifest,
    /// `10.0.0.0/8`
    Prefix,
    /// `10.0.0.1`
    Address,
    /// Another text of a certain form.
    Text(Form),
    List(Box<Self>),
    Map(Box<Self>),
    Object(&'static str),
}

/// A kind of whole numbers.
#[derive(Debug, PartialEq, Eq)]
pub struct Whole {
    /// Its name in Go.
    pub name: &'static str,
    pub least: i64,
    pub most: i64,
}

const INT: Whole = Whole { name: "int", least: i64::MIN, most: i64::MAX };
const I32: Whole = Whole { name: "int32", least: i32::MIN as i64, most: i32::MAX as i64 };
const U8: Whole = Whole { name: "uint8", least: 0, most: u8::MAX as i64 };
const U16: Whole = Whole { name: "uint16", least: 0, most: u16::MAX as i64 };
const U32: Whole = Whole { name: "uint32", least: 0, most: u32::MAX as i64 };
/// Nothing that is configured comes near its upper half.
const U64: Whole = Whole { name: "uint64", least: 0, most: i64::MAX };

/// How a patch changes a field that has a value already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merge {
    /// By its type: scalars and bytes replace, maps merge, lists append.
    ByType,
    Replace,
    /// List elements with the same key are merged; the first key that the element sets counts.
    Keyed(Vec<&'static str>),
    /// List elements with the same key are replaced.
    KeyedReplace(&'static str),
}

impl Field {
    pub fn exists_in(&self, minor: Minor) -> bool {
        (self.first_minor..=self.last_minor).contains(&minor.number())
    }
}

impl Object {
    pub fn field(&self, name: &str, minor: Minor) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name && field.exists_in(minor))
    }

    /// The field whose name is nearest to a wrong one, if any is near.
    pub fn nearest(&self, wrong: &str, minor: Minor) -> Option<&'static str> {
        nearest(self.fields.iter().filter(|field| field.exists_in(minor)).map(|field| field.name), wrong)
    }
}

/// The object with this name.
pub fn object(name: &str) -> Option<&'static Object> {
    CATALOGUE.objects.get(name)
}

/// The object that describes documents of a kind; [`MAIN`] is the main document.
pub fn document(kind: &str, minor: Minor) -> Option<&'static Object> {
    let object = object(CATALOGUE.documents.get(kind)?)?;
    (kind == MAIN || object.field("kind", minor).is_some()).then_some(object)
}

/// The name of the object behind a kind, which is the name of its Go type.
pub(super) fn object_name(kind: &str) -> Option<&'static str> {
    CATALOGUE.documents.get(kind).copied()
}

/// The document kind nearest to a wrong one.
pub fn nearest_kind(wrong: &str, minor: Minor) -> Option<&'static str> {
    let known = CATALOGUE.documents.keys().copied();
    nearest(known.filter(|kind| *kind != MAIN && document(kind, minor).is_some()), wrong)
}

/// Every document kind a Talos version knows, sorted.
pub fn kinds(minor: Minor) -> Vec<&'static str> {
    let mut kinds: Vec<_> =
        CATALOGUE.documents.keys().copied().filter(|kind| document(kind, minor).is_some()).collect();
    kinds.sort_unstable();
    kinds
}

fn nearest(names: impl Iterator<Item = &'static str>, wrong: &str) -> Option<&'static str> {
    let lower = wrong.to_lowercase();
    names
        .map(|name| (strsim::jaro_winkler(&name.to_lowercase(), &lower), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(left, a), (right, b)| left.total_cmp(right).then_with(|| b.cmp(a)))
        .map(|(_, name)| name)
}

impl Catalogue {
    fn read(text: &'static str) -> Self {
        let mut catalogue = Self { objects: HashMap::new(), documents: HashMap::new() };
        let mut current = "";
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(field) = line.strip_prefix('\t') {
                let object = catalogue.objects.entry(current).or_default();
                object.fields.push(Field::read(field));
                continue;
            }
            let mut words = line.split_whitespace();
            current = words.next().unwrap_or_default();
            catalogue.objects.entry(current).or_default();
            if let Some(kind) = words.next() {
                catalogue.documents.insert(kind, current);
            }
        }
        catalogue
    }
}

impl Field {
    /// Reads `name type marks`; the marks are explained at the top of catalogue.txt.
    fn read(line: &'static str) -> Self {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        let ty = Type::read(words.next().unwrap_or_default());
        let mut field = Self {
            name,
            ty,
            always: false,
            secret: false,
            secret_query: false,
            deprecated: false,
            pointer: false,
            null: false,
            plain_bool: false,
            choices: Vec::new(),
            merge: Merge::ByType,
            first_minor: 0,
            last_minor: u64::MAX,
        };
        for mark in words {
            if let Some(minors) = mark.strip_prefix('@') {
                field.limit_to(minors);
            } else {
                field.mark(mark);
            }
        }
        field
    }

    fn mark(&mut self, marks: &'static str) {
        let (flags, keys) = match marks.split_once(':') {
            Some((flags, keys)) => (flags, keys),
            None => (marks, ""),
        };
        for flag in flags.chars() {
            match flag {
                '!' => self.always = true,
                's' => self.secret = true,
                'q' => self.secret_query = true,
                '-' => self.deprecated = true,
                '*' => self.pointer = true,
                'n' => self.null = true,
                '~' => self.plain_bool = true,
                'e' => self.choices = keys.split(',').collect(),
                '=' => self.merge = Merge::Replace,
                'k' => self.merge = Merge::Keyed(keys.split(',').collect()),
                'r' => self.merge = Merge::KeyedReplace(keys),
                other => debug_assert!(false, "catalogue.txt has an unknown mark {other:?}"),
            }
        }
    }

    fn limit_to(&mut self, minors: &str) {
        let number = |text: &str| text.parse().unwrap_or_default();
        (self.first_minor, self.last_minor) = match minors.split_once(['-', '+']) {
            Some((first, "")) => (number(first), u64::MAX),
            Some((first, last)) => (number(first), number(last)),
            None => (number(minors), number(minors)),
        };
    }
}

impl Type {
    fn read(text: &'static str) -> Self {
        let inner = |open: char, close: char| text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        if let Some(item) = inner('[', ']') {
            return Self::List(Box::new(Self::read(item)));
        }
        if let Some(item) = inner('{', '}') {
            return Self::Map(Box::new(Self::read(item)));
        }
        match text {
            "string" => Self::String,
            "bool" => Self::Bool,
            "int" => Self::Int(&INT),
            "i32" => Self::Int(&I32),
            "u8" => Self::Int(&U8),
            "u16" => Self::Int(&U16),
            "u32" => Self::Int(&U32),
            "u64" => Self::Int(&U64),
            "duration" => Self::Duration,
            "scalar" => Self::Scalar,
            "any" => Self::Any,
            "args" => Self::Args,
            "mode" => Self::Mode,
            "manifest" => Self::Manifest,
            "prefix" => Self::Prefix,
            "addr" => Self::Address,
            "addrport" => Self::Text(Form::AddressAndPort),
            "port" => Self::Text(Form::Ports),
            "table" => Self::Text(Form::RoutingTable),
            "bytes" => Self::Text(Form::Bytes),
            "size" => Self::Text(Form::BytesOrPercent),
            "base64" => Self::Text(Form::Base64),
            "mac" => Self::Text(Form::Octets),
            name => Self::Object(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_type(ty: &Type) {
        match ty {
            Type::List(item) | Type::Map(item) => check_type(item),
            Type::Object(name) => assert!(object(name).is_some(), "{name} is used but not described"),
            _ => {}
        }
    }

    #[test]
    fn every_object_named_by_a_field_is_described() {
        for object in CATALOGUE.objects.values() {
            object.fields.iter().for_each(|field| check_type(&field.ty));
        }
    }

    #[test]
    fn each_version_knows_its_own_kinds() {
        let counts = [Minor::V1_12, Minor::V1_13, Minor::V1_14].map(|minor| kinds(minor).len());
        assert_eq!(counts, [37, 45, 90], "talos.md 5.2");
        assert!(document("KubeletConfig", Minor::V1_13).is_none());
        assert!(document("KubeletConfig", Minor::V1_14).is_some());
    }

    #[test]
    fn a_misspelt_field_finds_its_neighbour() {
        let machine = object("v1alpha1.MachineConfig").unwrap();
        assert_eq!(machine.nearest("kubelt", Minor::V1_13), Some("kubelet"));
        assert_eq!(machine.nearest("qqq", Minor::V1_13), None);
        assert_eq!(nearest_kind("HostNameConfig", Minor::V1_13), Some("HostnameConfig"));
    }
}
