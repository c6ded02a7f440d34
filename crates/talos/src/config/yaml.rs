//! An order-preserving YAML tree, read with the rules of the Go parser that Talos uses.
//!
//! Scalars keep their text beside the type they resolve to, because a field typed as a string takes `yes`, `010` or
//! `1e3` verbatim while the same text under an untyped key is a boolean or a number. `serde` data models lose that
//! difference, hence a small tree composed from `granit_parser` events (the parser inside serde-saphyr).

mod emit;
mod parse;
mod scalar;

pub use emit::{document, documents};
pub use parse::{Error, parse};
pub use scalar::{Kind, Scalar};

/// A node of a YAML document.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Scalar(Scalar),
    Sequence(Vec<Self>),
    Mapping(Mapping),
}

/// A mapping whose keys keep the order of the text.
#[derive(Clone, Debug, Default)]
pub struct Mapping {
    entries: Vec<(String, Value)>,
    line: usize,
}

impl PartialEq for Mapping {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(key, value)| other.get(key) == Some(value))
    }
}

impl Mapping {
    /// Line of the first key in the text it was read from, counted from 1; 0 if it was made by code.
    pub fn line(&self) -> usize {
        self.line
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.entries.iter_mut().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// Sets a key, keeping its place if it is there and appending it otherwise.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.get_mut(&key) {
            Some(slot) => *slot = value,
            None => self.entries.push((key, value)),
        }
    }

    /// Removes a key; `None` if it was not there.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.entries.iter().position(|(name, _)| name == key)?;
        Some(self.entries.remove(at).1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Value)> {
        self.entries.iter_mut().map(|(key, value)| (key.as_str(), value))
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| key.as_str())
    }

    /// The text of a scalar key, `None` if it is absent, null or not a scalar.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::text)
    }

    /// The mapping below a key.
    pub fn mapping(&self, key: &str) -> Option<&Self> {
        self.get(key).and_then(Value::as_mapping)
    }

    /// The mapping below a key, made (in the place of whatever was there) if it is none.
    pub fn mapping_mut(&mut self, key: &str) -> &mut Self {
        if self.mapping(key).is_none() {
            self.set(key, Self::default());
        }
        match self.get_mut(key) {
            Some(Value::Mapping(mapping)) => mapping,
            _ => unreachable!("the key was just set to a mapping"),
        }
    }

    /// The sequence below a key, empty if there is none.
    pub fn sequence(&self, key: &str) -> &[Value] {
        self.get(key).and_then(Value::as_sequence).unwrap_or_default()
    }

    /// The whole number of a key; `None` if it is absent or none.
    pub fn number(&self, key: &str) -> Option<i64> {
        self.get(key)?.as_scalar()?.whole_number()
    }

    /// The truth of a boolean key; `None` if it is absent or no boolean.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(|value| value.as_scalar()).and_then(Scalar::boolean)
    }

    /// Sorts the entries by a rank of the key; equal ranks keep their order.
    pub fn sort_by_key<K: Ord>(&mut self, rank: impl Fn(&str) -> K) {
        self.entries.sort_by_key(|(key, _)| rank(key));
    }

    /// Sorts the entries by comparing keys.
    pub fn sort_by(&mut self, order: impl Fn(&str, &str) -> std::cmp::Ordering) {
        self.entries.sort_by(|(left, _), (right, _)| order(left, right));
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&str, &Value) -> bool) {
        self.entries.retain(|(key, value)| keep(key, value));
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Mapping {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(iter: T) -> Self {
        let mut mapping = Self::default();
        for (key, value) in iter {
            mapping.set(key, value);
        }
        mapping
    }
}

impl IntoIterator for Mapping {
    type Item = (String, Value);
    type IntoIter = std::vec::IntoIter<(String, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl Value {
    pub fn null() -> Self {
        Self::Scalar(Scalar::null())
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Self::Scalar(scalar) if scalar.kind() == Kind::Null)
    }

    pub fn as_mapping(&self) -> Option<&Mapping> {
        match self {
            Self::Mapping(mapping) => Some(mapping),
            _ => None,
        }
    }

    pub fn as_mapping_mut(&mut self) -> Option<&mut Mapping> {
        match self {
            Self::Mapping(mapping) => Some(mapping),
            _ => None,
        }
    }

    pub fn as_sequence(&self) -> Option<&[Self]> {
        match self {
            Self::Sequence(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_scalar(&self) -> Option<&Scalar> {
        match self {
            Self::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// The text of a scalar that is not null.
    pub fn text(&self) -> Option<&str> {
        self.as_scalar().filter(|scalar| scalar.kind() != Kind::Null).map(Scalar::text)
    }

    /// Line in the text it was read from, 0 if unknown.
    pub fn line(&self) -> usize {
        match self {
            Self::Scalar(scalar) => scalar.line(),
            Self::Sequence(items) => items.first().map_or(0, Self::line),
            Self::Mapping(mapping) => mapping.line(),
        }
    }

    /// The node below a path of keys.
    pub fn at<'a>(&'a self, path: &[&str]) -> Option<&'a Self> {
        path.iter().try_fold(self, |value, key| value.as_mapping()?.get(key))
    }
}

impl From<Scalar> for Value {
    fn from(scalar: Scalar) -> Self {
        Self::Scalar(scalar)
    }
}

impl From<Mapping> for Value {
    fn from(mapping: Mapping) -> Self {
        Self::Mapping(mapping)
    }
}

impl<T: Into<Self>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Self {
        Self::Sequence(items.into_iter().map(Into::into).collect())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Scalar(Scalar::string(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Scalar(Scalar::string(text))
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Scalar(Scalar::from(truth))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Scalar(Scalar::from(number))
    }
}

impl From<&serde_json::Value> for Value {
    fn from(json: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        match json {
            Json::Null => Self::null(),
            Json::Bool(truth) => Self::from(*truth),
            Json::Number(number) => Self::Scalar(Scalar::plain(number.to_string())),
            Json::String(text) => Self::from(text.as_str()),
            Json::Array(items) => Self::Sequence(items.iter().map(Self::from).collect()),
            Json::Object(entries) => {
                Self::Mapping(entries.iter().map(|(key, value)| (key.clone(), Self::from(value))).collect())
            }
        }
    }
}

/// Builds a [`Mapping`] from `"key" => value` pairs.
macro_rules! mapping {
    ($($key:expr => $value:expr),* $(,)?) => {{
        #[allow(unused_mut, reason = "an empty mapping is not changed")]
        let mut mapping = $crate::config::yaml::Mapping::default();
        $(mapping.set($key, $value);)*
        mapping
    }};
}
pub(crate) use mapping;
