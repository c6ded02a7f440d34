//! `$patch: delete`: finding the statements in a patch and applying them (talos.md 5.6).

use crate::version::Minor;

use super::catalogue::{self, MAIN, Object, Type};
use super::document::{self, Document, DocumentId};
use super::yaml::{Kind, Mapping, Value};

/// One thing a patch deletes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Deletion {
    pub document: DocumentId,
    pub path: Vec<String>,
    /// For a list element: its first key and value, by which it is found.
    selector: Option<(String, String)>,
}

/// Why a `$patch: delete` statement is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    #[error("cannot delete an inner key in '{path}'")]
    InsideList { path: String },
    #[error("no key:val found in sequence node for path {path}")]
    NoSelector { path: String },
    #[error("missing {key} in document for which $patch: delete is used")]
    MissingKey { key: &'static str },
    #[error("kind and apiVersion must be both set for path {path}")]
    HalfNamed { path: String },
}

/// Why a deletion does not apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeleteError {
    #[error("lookup failed")]
    LookupFailed,
    #[error("searching for complex paths in slices is not supported")]
    BelowListElement,
    #[error("searching for non-integer keys in slices is not supported")]
    NotAnIndex,
}

/// Takes all deletions out of a patch document; `false` if nothing is left but the document's own name.
pub(super) fn extract(root: &mut Value, deletions: &mut Vec<Deletion>) -> Result<bool, StatementError> {
    let Some(mapping) = root.as_mapping() else { return Ok(true) };
    let mut id = document::id_of(mapping);
    let is_half_named = mapping.text("kind").is_some() != mapping.text("apiVersion").is_some();
    if mapping.text("kind").is_none() && mapping.text("apiVersion").is_none() {
        id.kind = MAIN.to_owned();
    }
    let mut finder = Finder { id, is_half_named, path: Vec::new(), deletions };
    let is_gone = finder.search(root, false)?;
    Ok(!(is_gone || root.as_mapping().is_some_and(names_nothing)))
}

/// A document of nothing but its own name.
fn names_nothing(mapping: &Mapping) -> bool {
    mapping.iter().all(|(key, value)| value.as_scalar().is_some() && matches!(key, "version" | "kind" | "name"))
}

struct Finder<'a> {
    id: DocumentId,
    is_half_named: bool,
    path: Vec<String>,
    deletions: &'a mut Vec<Deletion>,
}

impl Finder<'_> {
    /// Searches below a node; true if the node itself is to be taken out of the patch.
    fn search(&mut self, value: &mut Value, in_list: bool) -> Result<bool, StatementError> {
        match value {
            Value::Scalar(_) => Ok(false),
            Value::Mapping(mapping) => {
                if mapping.text("$patch") == Some("delete") {
                    self.found(mapping, in_list)?;
                    return Ok(true);
                }
                let keys: Vec<String> = mapping.keys().map(str::to_owned).collect();
                let mut removed = false;
                for key in keys {
                    self.path.push(key.clone());
                    let is_gone = match mapping.get_mut(&key) {
                        Some(inner) => self.search(inner, false)?,
                        None => false,
                    };
                    self.path.pop();
                    if is_gone {
                        mapping.remove(&key);
                        removed = true;
                    }
                }
                Ok(removed && mapping.is_empty())
            }
            Value::Sequence(items) => {
                let mut removed = false;
                let mut index = 0;
                while index < items.len() {
                    self.path.push(format!("[{index}]"));
                    let is_gone = self.search(&mut items[index], true)?;
                    self.path.pop();
                    if is_gone {
                        items.remove(index);
                        removed = true;
                    } else {
                        index += 1;
                    }
                }
                Ok(removed && items.is_empty())
            }
        }
    }

    fn found(&mut self, mapping: &Mapping, in_list: bool) -> Result<(), StatementError> {
        let path = || self.path.join(".");
        if !in_list && self.path.iter().any(|part| part.starts_with('[')) {
            return Err(StatementError::InsideList { path: path() });
        }
        if self.path.is_empty() {
            for key in ["apiVersion", "kind"] {
                if mapping.text(key).is_none() {
                    return Err(StatementError::MissingKey { key });
                }
            }
        }
        if self.is_half_named {
            return Err(StatementError::HalfNamed { path: path() });
        }
        let selector = if in_list {
            let first = mapping.iter().find(|(key, _)| *key != "$patch");
            let (key, value) = first.ok_or_else(|| StatementError::NoSelector { path: path() })?;
            Some((key.to_owned(), value.text().unwrap_or_default().to_owned()))
        } else {
            None
        };
        self.deletions.push(Deletion { document: self.id.clone(), path: self.path.clone(), selector });
        Ok(())
    }
}

impl Deletion {
    /// True if the whole document goes.
    pub(super) fn is_whole_document(&self) -> bool {
        self.path.is_empty()
    }

    /// Deletes a part of a document.
    pub(super) fn apply(&self, document: &mut Document, minor: Minor) -> Result<(), DeleteError> {
        let object = document.object();
        let Some((first, rest)) = self.path.split_first() else { return Ok(()) };
        self.delete_in_object(document.root_mut(), object, (first, rest), minor)
    }

    fn delete_in_object(
        &self,
        mapping: &mut Mapping,
        object: &Object,
        (key, rest): (&String, &[String]),
        minor: Minor,
    ) -> Result<(), DeleteError> {
        let field = object.field(key, minor).ok_or(DeleteError::LookupFailed)?;
        match rest.split_first() {
            None => {
                mapping.remove(key);
                Ok(())
            }
            Some(next) => {
                let value = mapping.get_mut(key).ok_or(DeleteError::LookupFailed)?;
                self.delete_in_value(value, &field.ty, next_of(next), minor)
            }
        }
    }

    fn delete_in_value(
        &self,
        value: &mut Value,
        ty: &Type,
        (key, rest): (&String, &[String]),
        minor: Minor,
    ) -> Result<(), DeleteError> {
        match (ty, value) {
            (Type::Object(name), Value::Mapping(mapping)) => {
                let object = catalogue::object(name).ok_or(DeleteError::LookupFailed)?;
                self.delete_in_object(mapping, object, (key, rest), minor)
            }
            (ty, Value::Mapping(entries)) => {
                if rest.is_empty() {
                    return entries.remove(key).map(|_| ()).ok_or(DeleteError::LookupFailed);
                }
                let item = if let Type::Map(item) = ty { item.as_ref() } else { &Type::Any };
                let value = entries.get_mut(key).ok_or(DeleteError::LookupFailed)?;
                let next = rest.split_first().ok_or(DeleteError::LookupFailed)?;
                self.delete_in_value(value, item, next_of(next), minor)
            }
            (_, Value::Sequence(items)) => self.delete_element(items, key, rest),
            (_, Value::Scalar(_)) => Err(DeleteError::LookupFailed),
        }
    }

    fn delete_element(&self, items: &mut Vec<Value>, key: &str, rest: &[String]) -> Result<(), DeleteError> {
        if !rest.is_empty() {
            return Err(DeleteError::BelowListElement);
        }
        if !key.starts_with('[') {
            return Err(DeleteError::NotAnIndex);
        }
        let (name, wanted) = self.selector.as_ref().ok_or(DeleteError::LookupFailed)?;
        // Talos compares string fields only, so an element is never found by a number.
        let found = |item: &Value| {
            let scalar = item.as_mapping().and_then(|mapping| mapping.get(name)).and_then(Value::as_scalar);
            scalar.is_some_and(|scalar| scalar.kind() == Kind::String && scalar.text() == wanted)
        };
        let at = items.iter().position(found).ok_or(DeleteError::LookupFailed)?;
        items.remove(at);
        Ok(())
    }
}

fn next_of<'a>((key, rest): (&'a String, &'a [String])) -> (&'a String, &'a [String]) {
    (key, rest)
}
