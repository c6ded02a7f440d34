//! YAML as Go's yaml library writes it: four spaces, struct order, quotes only where needed.

use serde_json::Value;

/// A YAML tree that keeps the order of its keys.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Yaml {
    Map(Vec<(String, Self)>),
    List(Vec<Self>),
    /// Quoted if another reading were possible.
    Text(String),
    /// Numbers, booleans, null.
    Plain(String),
}

impl Yaml {
    /// Any JSON value, with sorted keys, as Go writes a `map[string]any`.
    pub(crate) fn from_json(value: &Value) -> Self {
        match value {
            Value::Object(map) => {
                let mut entries: Vec<_> =
                    map.iter().map(|(key, value)| (key.clone(), Self::from_json(value))).collect();
                entries.sort_by(|left, right| left.0.cmp(&right.0));
                Self::Map(entries)
            }
            Value::Array(items) => Self::List(items.iter().map(Self::from_json).collect()),
            Value::String(text) => Self::Text(text.clone()),
            other => Self::Plain(other.to_string()),
        }
    }

    /// The document, ending in a newline.
    pub(crate) fn write(&self) -> String {
        let mut out = String::new();
        match self {
            Self::Map(entries) if !entries.is_empty() => write_map(&mut out, entries, 0),
            Self::List(items) if !items.is_empty() => write_list(&mut out, items, 0),
            scalar => {
                write_scalar(&mut out, scalar, 4);
                out.push('\n');
            }
        }
        out
    }
}

fn write_map(out: &mut String, entries: &[(String, Yaml)], indent: usize) {
    for (index, (key, value)) in entries.iter().enumerate() {
        if index > 0 {
            out.extend(std::iter::repeat_n(' ', indent));
        }
        write_text(out, key, indent);
        out.push(':');
        write_value(out, value, indent);
    }
}

fn write_value(out: &mut String, value: &Yaml, indent: usize) {
    match value {
        Yaml::Map(entries) if !entries.is_empty() => {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent + 4));
            write_map(out, entries, indent + 4);
        }
        Yaml::List(items) if !items.is_empty() => {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent + 4));
            write_list(out, items, indent + 4);
        }
        scalar => {
            out.push(' ');
            write_scalar(out, scalar, indent + 4);
            out.push('\n');
        }
    }
}

fn write_list(out: &mut String, items: &[Yaml], indent: usize) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.extend(std::iter::repeat_n(' ', indent));
        }
        out.push_str("- ");
        match item {
            Yaml::Map(entries) if !entries.is_empty() => write_map(out, entries, indent + 2),
            Yaml::List(items) if !items.is_empty() => write_list(out, items, indent + 2),
            scalar => {
                write_scalar(out, scalar, indent + 2);
                out.push('\n');
            }
        }
    }
}

fn write_scalar(out: &mut String, value: &Yaml, indent: usize) {
    match value {
        Yaml::Map(_) => out.push_str("{}"),
        Yaml::List(_) => out.push_str("[]"),
        Yaml::Plain(text) => out.push_str(text),
        Yaml::Text(text) => write_text(out, text, indent),
    }
}

fn write_text(out: &mut String, text: &str, indent: usize) {
    if text.contains('\n') {
        write_block(out, text, indent);
    } else if text.is_empty() || reads_otherwise(text) || text.chars().any(|c| c.is_control()) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\t' => out.push_str("\\t"),
                c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
                c => out.push(c),
            }
        }
        out.push('"');
    } else if needs_quotes(text) {
        out.push('\'');
        out.push_str(&text.replace('\'', "''"));
        out.push('\'');
    } else {
        out.push_str(text);
    }
}

/// A literal block; the indentation indicator is written when the first line starts with a space.
fn write_block(out: &mut String, text: &str, indent: usize) {
    out.push('|');
    if text.starts_with([' ', '\n']) {
        out.push('4');
    }
    let trimmed = text.trim_end_matches('\n');
    match text.len() - trimmed.len() {
        0 => out.push('-'),
        1 => {}
        _ => out.push('+'),
    }
    let kept = text.strip_suffix('\n').unwrap_or(text);
    for line in kept.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            out.extend(std::iter::repeat_n(' ', indent));
            out.push_str(line);
        }
    }
}

/// Whether a YAML 1.1 or 1.2 reader would take the plain text for something else than a string.
fn reads_otherwise(text: &str) -> bool {
    const WORDS: [&str; 12] = ["true", "false", "null", "~", "yes", "no", "on", "off", "y", "n", ".inf", ".nan"];
    if WORDS.contains(&text.to_ascii_lowercase().as_str()) {
        return true;
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && (digits.parse::<f64>().is_ok()
            || digits.starts_with("0x")
            || digits.starts_with("0o")
            || digits.replace('_', "").parse::<f64>().is_ok());
    number || is_date(text)
}

fn is_date(text: &str) -> bool {
    text.len() >= 10
        && text.as_bytes()[..10].iter().enumerate().all(|(index, byte)| match index {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

fn needs_quotes(text: &str) -> bool {
    let first = text.chars().next().unwrap_or(' ');
    let special = "!&*|>'\"%@`#,[]{}".contains(first)
        || ("-?:".contains(first) && text[1..].chars().next().is_none_or(|c| c == ' '));
    special
        || text.starts_with(' ')
        || text.ends_with(' ')
        || text.contains(": ")
        || text.ends_with(':')
        || text.contains(" #")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn trees_are_written_as_go_writes_them() {
        let value = json!({"b": ["x", {"k": 1, "l": []}], "a": "", "c": {"e": null, "t": "true", "v": "1.20"}, "d": "one\ntwo\n"});
        let expected = "a: \"\"\nb:\n    - x\n    - k: 1\n      l: []\nc:\n    e: null\n    t: \"true\"\n    v: \"1.20\"\nd: |\n    one\n    two\n";
        assert_eq!(Yaml::from_json(&value).write(), expected);
        assert_eq!(Yaml::Text("version: v1\nx: 1\n".into()).write(), "|\n    version: v1\n    x: 1\n");
    }

    #[test]
    fn what_is_written_reads_back_as_the_same_strings() {
        for text in [
            "yes",
            "10",
            "1e3",
            "- x",
            "a: b",
            "#x",
            "x #y",
            "2024-01-01",
            "fe80::1",
            "127.0.0.1/8",
            "'q'",
            "a\n\nb",
            "@",
            "v1.13.9",
            "1_000",
            "key:",
        ] {
            let written = Yaml::Map(vec![("k".into(), Yaml::Text(text.into()))]).write();
            let read: serde_json::Value = serde_saphyr::from_str(&written).unwrap();
            assert_eq!(read["k"], *text, "{written}");
        }
    }
}
