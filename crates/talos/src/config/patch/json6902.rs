//! RFC 6902 operations on one document, with the errors of the Go library Talos uses.

use crate::config::yaml::{self, Mapping, Value};

/// One operation; the pointer is split into its unescaped parts.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    name: String,
    path: Vec<String>,
    from: Vec<String>,
    value: Option<Value>,
}

/// Why an operation does not apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{operation} operation does not apply: doc is missing path: {path}: missing value")]
    MissingPath { operation: String, path: String },
    #[error("testing value {path} failed: test failed")]
    TestFailed { path: String },
    #[error("unexpected kind: {operation}")]
    UnknownOperation { operation: String },
}

/// Reads a list of operations as JSON or YAML; `None` if the text is no list of mappings. An empty text is an empty list.
pub(super) fn parse(text: &str) -> Option<Vec<Operation>> {
    let trees = yaml::parse(text).ok()?;
    match trees.first() {
        None => Some(Vec::new()),
        Some(Value::Sequence(items)) => items.iter().map(|item| Operation::read(item.as_mapping()?)).collect(),
        Some(_) => None,
    }
}

impl Operation {
    fn read(mapping: &Mapping) -> Option<Self> {
        let pointer = |key: &str| mapping.text(key).map(split).unwrap_or_default();
        Some(Self {
            name: mapping.text("op").unwrap_or_default().to_owned(),
            path: pointer("path"),
            from: pointer("from"),
            value: mapping.get("value").cloned(),
        })
    }

    /// The places it changes or reads into the open.
    pub(super) fn touched(&self) -> Vec<&[String]> {
        match self.name.as_str() {
            "move" | "copy" => vec![&self.path, &self.from],
            _ => vec![&self.path],
        }
    }

    pub(super) fn apply(&self, root: &mut Value) -> Result<(), Error> {
        let value = || self.value.clone().unwrap_or_else(Value::null);
        match self.name.as_str() {
            "add" => self.add(root, value()),
            "replace" => {
                let slot = find_mut(root, &self.path).ok_or_else(|| self.missing(&self.path))?;
                *slot = value();
                Ok(())
            }
            "remove" => self.take(root, &self.path).map(|_| ()),
            "move" => {
                let taken = self.take(root, &self.from)?;
                self.add(root, taken)
            }
            "copy" => {
                let copied = find_mut(root, &self.from).ok_or_else(|| self.missing(&self.from))?.clone();
                self.add(root, copied)
            }
            "test" => match find_mut(root, &self.path) {
                Some(found) if *found == value() => Ok(()),
                _ => Err(Error::TestFailed { path: join(&self.path) }),
            },
            other => Err(Error::UnknownOperation { operation: other.to_owned() }),
        }
    }

    fn add(&self, root: &mut Value, value: Value) -> Result<(), Error> {
        let Some((last, parents)) = self.path.split_last() else {
            *root = value;
            return Ok(());
        };
        match find_mut(root, parents).ok_or_else(|| self.missing(&self.path))? {
            Value::Mapping(mapping) => {
                mapping.set(last, value);
                Ok(())
            }
            Value::Sequence(items) => {
                let at = if last == "-" { Some(items.len()) } else { last.parse().ok() };
                let at = at.filter(|at| *at <= items.len()).ok_or_else(|| self.missing(&self.path))?;
                items.insert(at, value);
                Ok(())
            }
            Value::Scalar(_) => Err(self.missing(&self.path)),
        }
    }

    fn take(&self, root: &mut Value, path: &[String]) -> Result<Value, Error> {
        let missing = || self.missing(path);
        let (last, parents) = path.split_last().ok_or_else(missing)?;
        match find_mut(root, parents).ok_or_else(missing)? {
            Value::Mapping(mapping) => mapping.remove(last).ok_or_else(missing),
            Value::Sequence(items) => {
                let at = last.parse().ok().filter(|at: &usize| *at < items.len()).ok_or_else(missing)?;
                Ok(items.remove(at))
            }
            Value::Scalar(_) => Err(missing()),
        }
    }

    fn missing(&self, path: &[String]) -> Error {
        Error::MissingPath { operation: self.name.clone(), path: join(path) }
    }
}

fn split(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect()
}

fn join(path: &[String]) -> String {
    path.iter().map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect()
}

fn find_mut<'a>(root: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(root, |value, part| match value {
        Value::Mapping(mapping) => mapping.get_mut(part),
        Value::Sequence(items) => items.get_mut(part.parse::<usize>().ok()?),
        Value::Scalar(_) => None,
    })
}
