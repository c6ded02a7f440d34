//! From trees to text, in the layout Talos's own encoder writes: four spaces, literal blocks for texts of several
//! lines, and quotes around every string that a YAML 1.1 or 1.2 reader could take for something else.

use super::scalar::{is_ambiguous_in_yaml_1_1, resolve};
use super::{Kind, Mapping, Scalar, Value};

const INDENT: usize = 4;

/// Writes several documents, separated by `---`.
pub fn documents<'a>(values: impl IntoIterator<Item = &'a Value>) -> String {
    values.into_iter().map(document).collect::<Vec<_>>().join("---\n")
}

/// Writes one document, with a newline at its end.
pub fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Mapping(mapping) if !mapping.is_empty() => block_mapping(&mut out, mapping, 0, false),
        Value::Sequence(items) if !items.is_empty() => block_sequence(&mut out, items, 0, false),
        other => {
            inline(&mut out, other, 0, INDENT);
            out.push('\n');
        }
    }
    out
}

/// The next column that is a multiple of four.
fn deeper(column: usize) -> usize {
    INDENT * ((column + INDENT) / INDENT)
}

/// Writes a mapping at a column; `continued` means that the cursor already stands there (after `- `).
fn block_mapping(out: &mut String, mapping: &Mapping, column: usize, continued: bool) {
    for (index, (key, value)) in mapping.iter().enumerate() {
        if index > 0 || !continued {
            pad(out, column);
        }
        out.push_str(&flow_string(key));
        out.push(':');
        match value {
            Value::Mapping(inner) if !inner.is_empty() => {
                out.push('\n');
                block_mapping(out, inner, deeper(column), false);
            }
            Value::Sequence(items) if !items.is_empty() => {
                out.push('\n');
                block_sequence(out, items, deeper(column), false);
            }
            other => {
                out.push(' ');
                inline(out, other, column, deeper(column));
                out.push('\n');
            }
        }
    }
}

fn block_sequence(out: &mut String, items: &[Value], column: usize, continued: bool) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 || !continued {
            pad(out, column);
        }
        out.push_str("- ");
        match item {
            Value::Mapping(inner) if !inner.is_empty() => block_mapping(out, inner, column + 2, true),
            Value::Sequence(inner) if !inner.is_empty() => block_sequence(out, inner, column + 2, true),
            other => {
                inline(out, other, column, column + 2);
                out.push('\n');
            }
        }
    }
}

/// Writes a scalar or an empty collection without the newline after it. The lines of a literal block go to `column`;
/// `parent` is the column of what holds it.
fn inline(out: &mut String, value: &Value, parent: usize, column: usize) {
    match value {
        Value::Mapping(_) => out.push_str("{}"),
        Value::Sequence(_) => out.push_str("[]"),
        Value::Scalar(scalar) => write_scalar(out, scalar, parent, column),
    }
}

fn write_scalar(out: &mut String, scalar: &Scalar, parent: usize, column: usize) {
    match scalar.kind() {
        Kind::Null => out.push_str("null"),
        Kind::String if scalar.text().contains('\n') && literal_is_faithful(scalar.text()) => {
            literal(out, scalar.text(), parent, column);
        }
        Kind::String => out.push_str(&flow_string(scalar.text())),
        _ => out.push_str(scalar.text()),
    }
}

fn pad(out: &mut String, column: usize) {
    out.extend(std::iter::repeat_n(' ', column));
}

/// A literal block keeps the text if it is more than newlines, no line ends in a space and all of it is printable.
fn literal_is_faithful(text: &str) -> bool {
    let lines_fit = text.split('\n').all(|line| !line.ends_with(' '));
    // Go's reader takes a tab at the start of the first line for indentation.
    let has_content = text.trim_start_matches('\n').starts_with(|first| first != '\t');
    lines_fit && has_content && text.chars().all(|character| character == '\n' || is_printable(character))
}

fn literal(out: &mut String, text: &str, parent: usize, column: usize) {
    out.push('|');
    if text.trim_start_matches('\n').starts_with(' ') {
        out.push_str(&(column - parent).to_string());
    }
    let body = text.trim_end_matches('\n');
    match text.len() - body.len() {
        0 => out.push('-'),
        1 if !body.is_empty() => {}
        _ => out.push('+'),
    }
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            pad(out, column);
            out.push_str(line);
        }
    }
}

/// A string on one line: plain where that is safe, else in the weakest quotes that are.
fn flow_string(text: &str) -> String {
    let needs_escapes = text.chars().any(|character| !is_printable(character) || character == '\t');
    if needs_escapes || resolve(text) != Kind::String || is_ambiguous_in_yaml_1_1(text) {
        return double_quoted(text);
    }
    if is_plain_safe(text) { text.to_owned() } else { format!("'{}'", text.replace('\'', "''")) }
}

fn is_plain_safe(text: &str) -> bool {
    let followed_by_space = |rest: &str| rest.is_empty() || rest.starts_with(' ');
    let mut characters = text.char_indices();
    let Some((_, first)) = characters.next() else { return false };
    let rest = &text[first.len_utf8()..];
    let starts_badly = "#,[]{}&*!|>'\"%@` ".contains(first)
        || ("-?:".contains(first) && followed_by_space(rest))
        || text.starts_with("---")
        || text.starts_with("...");
    let mut previous = first;
    let breaks_inside = characters.any(|(at, character)| {
        let breaks = (character == ':' && followed_by_space(&text[at + 1..])) || (character == '#' && previous == ' ');
        previous = character;
        breaks
    });
    !starts_badly && !breaks_inside && !text.ends_with(' ')
}

fn is_printable(character: char) -> bool {
    let in_range = matches!(character, '\t' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}'
        | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..);
    in_range && !matches!(character, '\u{2028}' | '\u{2029}')
}

fn double_quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0' => out.push_str("\\0"),
            printable if is_printable(printable) => out.push(printable),
            other if u32::from(other) <= 0xff => out.push_str(&format!("\\x{:02X}", u32::from(other))),
            other if u32::from(other) <= 0xffff => out.push_str(&format!("\\u{:04X}", u32::from(other))),
            other => out.push_str(&format!("\\U{:08X}", u32::from(other))),
        }
    }
    out.push('"');
    out
}
