//! How steps and their instances are spelled: `apply`, `apply[cp-01]`, `roll[cp-01].drain`.

/// Longest key of an instance.
const MAX_KEY: usize = 128;

/// The ids along a path, each with its key.
pub(super) fn segments(path: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let mut rest = path;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        // A key may hold dots, so the bracket is looked for first.
        let end = rest.find(['[', '.']).unwrap_or(rest.len());
        let (id, after) = rest.split_at(end);
        let (key, after) = match after.strip_prefix('[').and_then(|after| after.split_once(']')) {
            Some((key, after)) => (Some(key), after),
            None => (None, after),
        };
        rest = after.strip_prefix('.').unwrap_or(after);
        Some((id, key))
    })
}

/// The path of an instance of the step at `step`.
pub(super) fn instance(step: &str, key: Option<&str>) -> String {
    key.map_or_else(|| step.to_owned(), |key| format!("{step}[{key}]"))
}

/// Whether `key` can name an instance.
pub(super) fn is_key(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= MAX_KEY
        && !key.contains(|char: char| matches!(char, '[' | ']') || char.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_apart_even_when_keys_hold_dots() {
        let parts: Vec<_> = segments("roll[cp-01.example].drain[a].x").collect();
        assert_eq!(parts, [("roll", Some("cp-01.example")), ("drain", Some("a")), ("x", None)]);
        assert_eq!(segments("apply").collect::<Vec<_>>(), [("apply", None)]);
        assert!(is_key("10.0.0.1:50000") && !is_key("") && !is_key("a[b"));
    }
}
