//! Reads a JSON or YAML document from a file, or from standard input for `-`, as strictly as the bus reads messages.

use std::{io::Read, path::Path};

use messages::json;
use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;

use crate::cli::Failure;

/// The largest document; the bus takes none that is larger.
const LARGEST: u64 = 1 << 20;

/// The document, and what to call it in messages.
///
/// # Errors
/// [`Failure::Usage`], with the place where that can be known.
pub fn read(path: &Path) -> Result<(Value, String), Failure> {
    let (name, text) = text(path)?;
    parse(&text).map(|value| (value, name.clone())).map_err(|reason| Failure::Usage(format!("{name}: {reason}")))
}

fn text(path: &Path) -> Result<(String, String), Failure> {
    let name = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    let failed = |error: std::io::Error| Failure::Usage(format!("{name}: {error}"));
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() as u64 > LARGEST {
        return Err(Failure::Usage(format!("{name}: it is larger than {} KiB", LARGEST >> 10)));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        Failure::Usage(format!(
            "{name}: it is not UTF-8 (first bad byte at offset {})",
            error.utf8_error().valid_up_to()
        ))
    })?;
    Ok((name, text))
}

/// JSON or YAML; an object in either case.
fn parse(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Err("it is empty; expected an object in YAML or JSON".to_owned());
    }
    let value = if text.trim_start().starts_with(['{', '[']) {
        let read = json::parse(text.as_bytes()).map_err(|error| error.to_string());
        read.or_else(|reason| yaml(text).map_err(|_| reason))?
    } else {
        yaml(text)?
    };
    match value {
        Value::Object(_) => Ok(value),
        Value::Array(_) => Err("it is a list; expected an object".to_owned()),
        Value::Null => Err("it holds nothing but comments; expected an object".to_owned()),
        _ => Err("it is a single value; expected an object".to_owned()),
    }
}

fn yaml(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        duplicate_keys: DuplicateKeyPolicy::Error,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().map(|at| format!("line {}, column {}: ", at.line(), at.column()));
        let message = error.without_snippet().to_string();
        format!("{}{}", place.unwrap_or_default(), message.lines().next().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_and_json_are_read_alike() {
        for text in ["a: 1\nb: [x, true]\n", "{\"a\": 1, \"b\": [\"x\", true]}", "{a: 1, b: [x, true]}"] {
            assert_eq!(parse(text).unwrap(), json!({ "a": 1, "b": ["x", true] }));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_place() {
        let cases = [
            ("", "it is empty; expected an object in YAML or JSON"),
            ("  \n", "it is empty; expected an object in YAML or JSON"),
            ("# nothing\n", "it holds nothing but comments; expected an object"),
            ("- a\n", "it is a list; expected an object"),
            ("hello", "it is a single value; expected an object"),
            ("{\"a\":1,\"a\":2}", "line 1, column 10: duplicate key \"a\""),
            ("{\"a\":", "line 1, column 5: EOF while parsing a value"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).unwrap_err(), expected, "{text:?}");
        }
        assert!(parse("a: 1\na: 2\n").unwrap_err().contains("line 2"), "{:?}", parse("a: 1\na: 2\n"));
        assert!(parse("a: 1\n---\nb: 2\n").is_err(), "one document only");
    }
}
