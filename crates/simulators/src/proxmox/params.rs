//! Parameters of one call, decoded the way pveproxy decodes forms and JSON (proxmox.md 1.2).

use indexmap::IndexMap;
use serde_json::Value;

/// One parameter value before any type is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Raw {
    /// `key=` or a bare `key`: Perl's `split` leaves the value undefined.
    Undefined,
    Text(String),
    List(Vec<String>),
    /// A JSON object where only scalars make sense.
    Object,
}

/// The parameters of one call in the order they arrived.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Params(IndexMap<String, Raw>);

impl Params {
    /// Splits at `&` and `;`, keeps only what stands before a second raw `=`, joins repeated keys to a list.
    pub(crate) fn from_form(data: &str) -> Self {
        let mut params = Self::default();
        for pair in data.split(['&', ';']).filter(|pair| !pair.is_empty()) {
            let mut pieces = pair.split('=');
            let key = unescape(pieces.next().unwrap_or_default());
            let value = match pieces.next() {
                None | Some("") => Raw::Undefined,
                Some(value) => Raw::Text(unescape(value)),
            };
            params.push(key, value);
        }
        params
    }

    /// A JSON object body.
    pub(crate) fn from_json(value: Value) -> Option<Self> {
        let Value::Object(object) = value else { return None };
        let raw = |value: Value| match value {
            Value::Null => Raw::Undefined,
            Value::Array(items) => Raw::List(items.iter().map(scalar).collect()),
            Value::Object(_) => Raw::Object,
            other => Raw::Text(scalar(&other)),
        };
        Some(Self(object.into_iter().map(|(key, value)| (key, raw(value))).collect()))
    }

    fn push(&mut self, key: String, value: Raw) {
        let value = match (self.0.get(&key), value) {
            (Some(Raw::Text(old)), Raw::Text(new)) => Raw::List(vec![old.clone(), new]),
            (Some(Raw::List(old)), Raw::Text(new)) => Raw::List([old.clone(), vec![new]].concat()),
            (_, value) => value,
        };
        self.0.insert(key, value);
    }

    pub(crate) fn set(&mut self, key: &str, value: impl Into<String>) {
        self.0.insert(key.to_owned(), Raw::Text(value.into()));
    }

    /// Values of the query string win over those of the body.
    pub(crate) fn overlay(&mut self, query: Self) {
        self.0.extend(query.0);
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<Raw> {
        self.0.shift_remove(key)
    }

    pub(crate) fn raw(&self, key: &str) -> Option<&Raw> {
        self.0.get(key)
    }

    /// The text of a parameter; an undefined one counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        match self.0.get(key) {
            Some(Raw::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The text of a parameter that the schema made mandatory.
    pub(crate) fn need(&self, key: &str) -> &str {
        self.get(key).unwrap_or_default()
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        self.get(key) == Some("1")
    }

    pub(crate) fn int(&self, key: &str) -> Option<i64> {
        self.get(key).and_then(|text| text.parse().ok())
    }

    /// A parameter of a `-list` format, or repeated, as its entries.
    pub(crate) fn list(&self, key: &str) -> Vec<String> {
        match self.0.get(key) {
            Some(Raw::Text(text)) => split_list(text),
            Some(Raw::List(items)) => items.clone(),
            _ => Vec::new(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Raw)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The keys that carry text, with it.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(key, value)| match value {
            Raw::Text(text) => Some((key.as_str(), text.as_str())),
            _ => None,
        })
    }
}

/// PVE's list separator: comma, semicolon, white space or NUL.
pub(crate) fn split_list(text: &str) -> Vec<String> {
    text.split(|c: char| matches!(c, ',' | ';' | '\0') || c.is_whitespace())
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// `+` to space, then percent-decoding, then UTF-8 with replacement characters.
pub(crate) fn unescape(text: &str) -> String {
    percent_decode(&text.replace('+', " "))
}

/// Percent-decoding alone, as for paths and header values.
pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())) {
            Some(hex) => {
                out.push(u8::from_str_radix(hex, 16).unwrap_or_default());
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Bool(true) => "1".to_owned(),
        Value::Bool(false) => "0".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_equals_sign_truncates_and_a_raw_semicolon_splits() {
        let params = Params::from_form("net0=virtio=BC:24:11:00:00:01&tags=a;b&name=x+y%3Bz&a=1&a=2&empty=");
        assert_eq!(params.get("net0"), Some("virtio"));
        assert_eq!(params.get("tags"), Some("a"));
        assert_eq!(params.raw("b"), Some(&Raw::Undefined));
        assert_eq!(params.get("name"), Some("x y;z"));
        assert_eq!(params.raw("a"), Some(&Raw::List(vec!["1".into(), "2".into()])));
        assert_eq!(params.raw("empty"), Some(&Raw::Undefined));
    }
}
