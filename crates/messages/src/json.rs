//! JSON as the bus accepts it: no duplicate keys, no overflowing numbers, no bottomless nesting.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Characters of a key that an error shows.
const LONGEST_KEY: usize = 80;

/// Why bytes are not acceptable JSON. Never prints a value of the document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The body is empty.
    #[error("the body is empty; expected a JSON object")]
    Empty,
    /// The body is not UTF-8.
    #[error("the body is not UTF-8 (first bad byte at offset {0})")]
    NotUtf8(usize),
    /// The body is not JSON, nests more than 128 levels, holds a number that does not fit or a duplicate key.
    #[error("line {line}, column {column}: {reason}")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What was wrong, without any value of the document.
        reason: String,
    },
}

/// Parses a body; unlike `serde_json::from_slice` it refuses duplicate keys, which that silently resolves to the last
/// one (crates.md, trap 6).
pub fn parse(body: &[u8]) -> Result<Value, Error> {
    if body.is_empty() {
        return Err(Error::Empty);
    }
    let text = std::str::from_utf8(body).map_err(|error| Error::NotUtf8(error.valid_up_to()))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict.deserialize(&mut deserializer).map_err(syntax)?;
    deserializer.end().map_err(syntax)?;
    Ok(value)
}

fn syntax(error: serde_json::Error) -> Error {
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    Error::Syntax { line: error.line(), column: error.column(), reason: reason.to_owned() }
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("duplicate key {}", shown(&key))));
            }
            let value = map.next_value_seed(Self)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// A key for an error message, which is passed on and kept: whoever wrote the body chose its length.
fn shown(key: &str) -> String {
    match key.char_indices().nth(LONGEST_KEY) {
        Some((end, _)) => format!("{:?}…", &key[..end]),
        None => format!("{key:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serde_json_reads_is_read_the_same() {
        let text = r#"{"a":[1,-2,3.5,null,true,"x\n"],"b":{"c":{}}}"#;
        assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn bad_bodies_are_refused_with_a_place_and_a_reason() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let cases: [(&[u8], &str); 6] = [
            (b"", "the body is empty; expected a JSON object"),
            (b"{\"a\":\xff}", "the body is not UTF-8 (first bad byte at offset 5)"),
            (br#"{"a":1,"a":2}"#, "line 1, column 10: duplicate key \"a\""),
            (b"[1e400]", "line 1, column 6: number out of range"),
            (deep.as_bytes(), "line 1, column 128: recursion limit exceeded"),
            (b"{} {}", "line 1, column 4: trailing characters"),
        ];
        for (body, expected) in cases {
            assert_eq!(parse(body).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_long_key_is_shown_in_part() {
        let key = "ключ".repeat(2_000);
        let reason = parse(format!("{{\"{key}\":1,\"{key}\":2}}").as_bytes()).unwrap_err().to_string();
        assert!(reason.ends_with(&format!("duplicate key \"{}\"…", "ключ".repeat(20))), "{reason}");
    }
}
