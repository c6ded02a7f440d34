//! One document, and the loader that reads a text of several as strictly as Talos does.

use std::collections::HashSet;
use std::fmt;

use crate::version::Minor;

use super::catalogue::{self, MAIN, Object};
use super::conform::{self, UnknownKey};
use super::yaml::{self, Mapping, Value};
use super::{Mismatch, Path, encode};

/// What tells documents of one configuration apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DocumentId {
    /// Empty for the main document.
    pub api_version: String,
    /// `v1alpha1` for the main document, which has no kind.
    pub kind: String,
    /// Empty for kinds without names.
    pub name: String,
}

/// A document that fits the catalogue.
#[derive(Clone)]
pub struct Document {
    id: DocumentId,
    object: &'static Object,
    root: Mapping,
}

impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.root == other.root
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Document").field(&self.id.to_string()).finish()
    }
}

/// `v1alpha1/HostnameConfig/`, as Talos names documents in its errors.
impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.api_version, self.kind, self.name)
    }
}

/// Why a text is no machine configuration. `Display` shows no values, see [`LoadError::talos_text`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LoadError {
    #[error("config not found")]
    Empty,
    #[error("decode error: {0}")]
    Yaml(yaml::Error),
    #[error("expected a YAML document at line {line}")]
    NotADocument { line: usize },
    #[error("duplicate document {id} is not allowed (line {line})")]
    Duplicate { id: DocumentId, line: usize },
    #[error("conflicting documents: {first} and {second}")]
    Conflict { first: String, second: String },
    #[error("error decoding document {id} (line {line}): {reason}")]
    Decode { id: DocumentId, line: usize, reason: Box<DecodeError> },
}

/// Why one document cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DecodeError {
    #[error("missing kind")]
    MissingKind,
    #[error("missing apiVersion")]
    MissingApiVersion,
    #[error("{kind:?} {version:?}: not registered{}", did_you_mean(*nearest))]
    NotRegistered { kind: String, version: String, nearest: Option<&'static str> },
    #[error("unknown keys found during decoding: {}", list(keys))]
    UnknownKeys { keys: Vec<UnknownKey>, tree: UnknownTree },
    #[error("{0}")]
    Mismatch(Mismatch),
}

/// The unknown part of a document as YAML; `Debug` hides it because it may hold a misplaced secret.
#[derive(Clone, PartialEq)]
pub struct UnknownTree(String);

impl fmt::Debug for UnknownTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnknownTree(..)")
    }
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(", did you mean {name}?")).unwrap_or_default()
}

fn list(keys: &[UnknownKey]) -> String {
    let name = |key: &UnknownKey| format!("{}{}", key.path, did_you_mean(key.nearest));
    keys.iter().map(name).collect::<Vec<_>>().join("; ")
}

impl LoadError {
    /// The text Talos returns. It quotes the values of unknown keys, so it goes to whoever sent them and nowhere else.
    pub fn talos_text(&self) -> String {
        let Self::Decode { id, line, reason } = self else { return self.to_string() };
        let reason = match reason.as_ref() {
            DecodeError::UnknownKeys { tree, .. } => format!("unknown keys found during decoding:\n{}", tree.0),
            DecodeError::NotRegistered { kind, version, .. } => format!("{kind:?} {version:?}: not registered"),
            DecodeError::Mismatch(mismatch) => {
                let (kind, object) = (if id.kind == MAIN { "" } else { &id.kind }, object_name(&id.kind));
                format!("error decoding {kind} to *{object}: {}", mismatch.talos_text())
            }
            other => other.to_string(),
        };
        format!("error decoding document {id} (line {line}): {reason}")
    }
}

fn object_name(kind: &str) -> &'static str {
    catalogue::object_name(kind).unwrap_or_default()
}

impl Document {
    /// Makes a document from a tree, which must fit the catalogue.
    pub fn from_tree(root: Mapping, minor: Minor) -> Result<Self, LoadError> {
        let id = id_of(&root);
        let line = root.line().max(1);
        decode(root, minor).map_err(|reason| LoadError::Decode { id, line, reason: Box::new(reason) })
    }

    pub fn id(&self) -> &DocumentId {
        &self.id
    }

    pub fn is_main(&self) -> bool {
        self.id.kind == MAIN && self.id.api_version.is_empty()
    }

    pub fn root(&self) -> &Mapping {
        &self.root
    }

    pub(super) fn root_mut(&mut self) -> &mut Mapping {
        &mut self.root
    }

    pub(super) fn object(&self) -> &'static Object {
        self.object
    }

    /// The tree Talos's encoder would write.
    pub fn canonical(&self, minor: Minor) -> Value {
        Value::Mapping(encode::canonical(&self.root, self.object, minor))
    }

    /// `HostnameConfig` or, for kinds with names, `LinkConfig/eth0`: how validation errors name documents.
    pub(super) fn short_name(&self) -> String {
        let has_name = self.object.fields.iter().any(|field| field.name == "name");
        if has_name { format!("{}/{}", self.id.kind, self.id.name) } else { self.id.kind.clone() }
    }
}

/// Reads all documents of a text.
pub(super) fn load(text: &str, minor: Minor) -> Result<Vec<Document>, LoadError> {
    let documents = from_trees(yaml::parse(text).map_err(LoadError::Yaml)?, minor)?;
    if documents.is_empty() { Err(LoadError::Empty) } else { Ok(documents) }
}

pub(super) fn from_trees(trees: Vec<Value>, minor: Minor) -> Result<Vec<Document>, LoadError> {
    let mut seen = HashSet::new();
    let mut documents = Vec::new();
    for tree in trees {
        let line = tree.line();
        let Value::Mapping(root) = tree else { return Err(LoadError::NotADocument { line }) };
        let id = id_of(&root);
        if !seen.insert(id.clone()) {
            return Err(LoadError::Duplicate { id, line });
        }
        documents.push(decode(root, minor).map_err(|reason| LoadError::Decode {
            id,
            line,
            reason: Box::new(reason),
        })?);
    }
    check_conflicts(&documents)?;
    Ok(documents)
}

/// Kinds of which a configuration may hold only one document of a name.
const EXCLUSIVE: [&[&str]; 3] = [
    &[
        "BondConfig",
        "BridgeConfig",
        "DummyLinkConfig",
        "LinkConfig",
        "VethConfig",
        "VLANConfig",
        "VRFConfig",
        "WireguardConfig",
    ],
    &["HCloudVIPConfig", "Layer2VIPConfig"],
    &["ExistingVolumeConfig", "UserVolumeConfig"],
];

/// Refuses two documents that describe one thing in two ways.
pub(super) fn check_conflicts(documents: &[Document]) -> Result<(), LoadError> {
    for (at, second) in documents.iter().enumerate() {
        let Some(kinds) = EXCLUSIVE.iter().find(|kinds| kinds.contains(&second.id.kind.as_str())) else { continue };
        let is_other = |first: &&Document| first.id.name == second.id.name && kinds.contains(&first.id.kind.as_str());
        if let Some(first) = documents[..at].iter().find(is_other) {
            let name = |document: &Document| format!("{}/{}", document.id.kind, document.id.name);
            return Err(LoadError::Conflict { first: name(first), second: name(second) });
        }
    }
    Ok(())
}

/// The id as the text states it, before anything is checked.
pub(super) fn id_of(root: &Mapping) -> DocumentId {
    let text = |key: &str| root.text(key).unwrap_or_default().to_owned();
    let kind = Some(text("kind")).filter(|kind| !kind.is_empty()).unwrap_or_else(|| MAIN.to_owned());
    DocumentId { api_version: text("apiVersion"), kind, name: text("name") }
}

fn decode(root: Mapping, minor: Minor) -> Result<Document, DecodeError> {
    let kind = root.text("kind").unwrap_or_default().to_owned();
    let is_main_by_key = ["machine", "cluster", "debug", "persist"].iter().any(|key| root.get(key).is_some());
    let version = if is_main_by_key { MAIN } else { root.text("apiVersion").unwrap_or_default() }.to_owned();
    let object = match (kind.as_str(), version.as_str()) {
        ("", MAIN) => catalogue::document(MAIN, minor),
        ("", _) => return Err(DecodeError::MissingKind),
        (_, "") => return Err(DecodeError::MissingApiVersion),
        (kind, MAIN) => catalogue::document(kind, minor),
        _ => None,
    };
    let Some(object) = object else {
        let nearest = catalogue::nearest_kind(&kind, minor);
        return Err(DecodeError::NotRegistered { kind, version, nearest });
    };
    if let Some(unknown) = conform::unknown_part(&root, object, minor) {
        let tree = UnknownTree(yaml::document(&Value::Mapping(unknown)));
        return Err(DecodeError::UnknownKeys { keys: conform::unknown_keys(&root, object, minor), tree });
    }
    let id = id_of(&root);
    let root = conform::conform(root, object, minor, &Path::root()).map_err(DecodeError::Mismatch)?;
    Ok(Document { id, object, root })
}
