//! Deserialisers for values that Perl sends as a number today and as a string tomorrow (proxmox.md 1.3).

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

/// A number, a numeric string, or absent.
pub(crate) fn opt_u64<'de, D: Deserializer<'de>>(de: D) -> Result<Option<u64>, D::Error> {
    match Value::deserialize(de)? {
        Value::Null => Ok(None),
        Value::Number(number) => Ok(number.as_u64().or_else(|| number.as_f64().map(|float| float as u64))),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) => text
            .parse()
            .or_else(|_| text.parse::<f64>().map(|float| float as u64))
            .map(Some)
            .map_err(|_| D::Error::custom("expected a number")),
        Value::Bool(flag) => Ok(Some(u64::from(flag))),
        _ => Err(D::Error::custom("expected a number")),
    }
}

/// A number or a numeric string.
pub(crate) fn u64<'de, D: Deserializer<'de>>(de: D) -> Result<u64, D::Error> {
    opt_u64(de)?.ok_or_else(|| D::Error::custom("expected a number"))
}

/// A VM id and the like.
pub(crate) fn opt_u32<'de, D: Deserializer<'de>>(de: D) -> Result<Option<u32>, D::Error> {
    Ok(opt_u64(de)?.and_then(|number| u32::try_from(number).ok()))
}

/// A fraction or amount.
pub(crate) fn opt_f64<'de, D: Deserializer<'de>>(de: D) -> Result<Option<f64>, D::Error> {
    match Value::deserialize(de)? {
        Value::Null => Ok(None),
        Value::Number(number) => Ok(number.as_f64()),
        Value::String(text) => Ok(text.parse().ok()),
        _ => Err(D::Error::custom("expected a number")),
    }
}

/// `0`, `1`, `"0"`, `"1"`, `true`, `false`; absent and empty are false.
pub(crate) fn flag<'de, D: Deserializer<'de>>(de: D) -> Result<bool, D::Error> {
    match Value::deserialize(de)? {
        Value::Null => Ok(false),
        Value::Bool(flag) => Ok(flag),
        Value::Number(number) => Ok(number.as_f64().is_some_and(|number| number != 0.0)),
        Value::String(text) => Ok(matches!(text.as_str(), "1" | "on" | "yes" | "true")),
        _ => Err(D::Error::custom("expected 0 or 1")),
    }
}

/// Anything scalar as text.
pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(u8::from(*flag).to_string()),
        _ => None,
    }
}
