//! Label and id queries of List and Watch.

use std::collections::HashMap;

use talos::proto::cosi::resource::{IdQuery, LabelQuery, LabelTerm, Resource, label_term::Operation};

/// Which resources of a kind a caller asked for.
#[derive(Clone, Default)]
pub(crate) struct Filter {
    labels: Vec<LabelQuery>,
    id: Option<String>,
}

impl Filter {
    pub(crate) fn new(labels: Vec<LabelQuery>, id: Option<IdQuery>) -> Self {
        Self { labels, id: id.map(|query| query.regexp).filter(|text| !text.is_empty()) }
    }

    pub(crate) fn accepts(&self, resource: &Resource) -> bool {
        let Some(metadata) = &resource.metadata else { return false };
        let id = self.id.as_deref().is_none_or(|pattern| matches_id(pattern, &metadata.id));
        // Several queries are alternatives; the terms of one must all hold.
        let labels = self.labels.is_empty()
            || self.labels.iter().any(|query| query.terms.iter().all(|term| holds(term, &metadata.labels)));
        id && labels
    }
}

/// Anchors and plain text are understood; anything else must occur literally.
fn matches_id(pattern: &str, id: &str) -> bool {
    match (pattern.strip_prefix('^'), pattern.strip_suffix('$')) {
        (Some(rest), Some(_)) => rest.strip_suffix('$') == Some(id),
        (Some(rest), None) => id.starts_with(rest),
        (None, Some(rest)) => id.ends_with(rest),
        (None, None) => id.contains(pattern),
    }
}

fn holds(term: &LabelTerm, labels: &HashMap<String, String>) -> bool {
    let actual = labels.get(&term.key);
    let wanted = term.value.first().map(String::as_str).unwrap_or_default();
    let numbers = || Some((actual?.parse::<i64>().ok()?, wanted.parse::<i64>().ok()?));
    let result = match term.op() {
        Operation::Exists => actual.is_some(),
        Operation::NotExists => actual.is_none(),
        Operation::Equal => actual.is_some_and(|actual| actual == wanted),
        Operation::In => actual.is_some_and(|actual| term.value.contains(actual)),
        Operation::Lt => actual.is_some_and(|actual| actual.as_str() < wanted),
        Operation::Lte => actual.is_some_and(|actual| actual.as_str() <= wanted),
        Operation::LtNumeric => numbers().is_some_and(|(actual, wanted)| actual < wanted),
        Operation::LteNumeric => numbers().is_some_and(|(actual, wanted)| actual <= wanted),
    };
    result != term.invert
}
