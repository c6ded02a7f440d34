//! Patches of machine configurations: strategic merge and, where Talos still takes them, RFC 6902 operations.

mod guard;
mod json6902;

pub use guard::Forbidden;

use crate::version::Minor;

use super::delete::{self, DeleteError, Deletion, StatementError};
use super::document::{self, Document, DocumentId, LoadError};
use super::merge::{self, Mismatch};
use super::yaml::{self, Value};
use super::{MachineConfig, Path};
use json6902::Operation;

/// A patch that can be read; whether it applies depends on the configuration.
#[derive(Clone, Debug)]
pub struct Patch {
    minor: Minor,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Strategic(Vec<Change>),
    Operations(Vec<Operation>),
}

/// One document's part of a strategic merge patch, in the order Talos applies them.
#[derive(Clone, Debug)]
enum Change {
    Merge(Document),
    Delete(Deletion),
}

/// Which nodes a patch is for, from the widest to the narrowest: the order in which patches apply.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    All,
    ControlPlane,
    Worker,
    Pool(String),
    Node(String),
}

/// A patch and the nodes it is for.
#[derive(Clone, Debug)]
pub struct ScopedPatch {
    pub scope: Scope,
    pub patch: Patch,
}

/// Why a patch cannot be read or does not apply.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PatchError {
    #[error("{0}")]
    Load(LoadError),
    #[error("error processing patch delete statements at line {line}: {error}")]
    Statement { line: usize, error: StatementError },
    #[error("JSON6902 patches are not supported for multi-document machine configuration")]
    ManyDocuments,
    #[error("failure applying rfc6902 patches to talos machine config: {0}")]
    Operation(json6902::Error),
    #[error("{}", delete_text(.document, .path, .error))]
    Delete { document: DocumentId, path: String, error: DeleteError },
    #[error("can't delete the root of the legacy document")]
    DeleteMain,
    #[error("{0}")]
    Merge(Mismatch),
}

fn delete_text(document: &DocumentId, path: &str, error: &DeleteError) -> String {
    let (version, kind) = (&document.api_version, &document.kind);
    if document.name.is_empty() {
        format!("patch delete: path '{path}' in document '{version}/{kind}': failed to delete path '{path}': {error}")
    } else {
        format!("named patch delete: document {version}/{kind}: failed to delete path '{path}': {error}")
    }
}

impl PatchError {
    /// The text Talos returns; it may quote values of the patch, see [`LoadError::talos_text`].
    pub fn talos_text(&self) -> String {
        match self {
            Self::Load(error) => error.talos_text(),
            other => other.to_string(),
        }
    }
}

impl Patch {
    /// Reads a patch the way Talos tells its kinds apart: strategic merge first, then operations as JSON or YAML.
    pub fn parse(text: &str, minor: Minor) -> Result<Self, PatchError> {
        let strategic = parse_strategic(text, minor);
        let content = match strategic {
            Ok(changes) if !changes.is_empty() => Content::Strategic(changes),
            Ok(_) => Content::Operations(json6902::parse(text).ok_or(PatchError::Load(LoadError::Empty))?),
            Err(error) => Content::Operations(json6902::parse(text).ok_or(error)?),
        };
        Ok(Self { minor, content })
    }

    /// True for RFC 6902 operations, which every configuration of 1.12 and later refuses because it has many documents.
    pub fn is_json6902(&self) -> bool {
        matches!(self.content, Content::Operations(_))
    }

    /// Refuses a patch that touches what identifies the cluster or the node: its type, CAs, tokens, ids, endpoint.
    pub fn check_allowed(&self) -> Result<(), Forbidden> {
        match &self.content {
            Content::Strategic(changes) => changes.iter().try_for_each(|change| match change {
                Change::Merge(document) => guard::check_document(document),
                Change::Delete(deletion) => guard::check_deletion(deletion),
            }),
            Content::Operations(operations) => operations.iter().try_for_each(guard::check_operation),
        }
    }

    pub(super) fn apply(&self, config: &MachineConfig) -> Result<MachineConfig, PatchError> {
        match &self.content {
            Content::Strategic(changes) => self.apply_changes(config, changes),
            Content::Operations(operations) => apply_operations(config, operations),
        }
    }

    fn apply_changes(&self, config: &MachineConfig, changes: &[Change]) -> Result<MachineConfig, PatchError> {
        let mut documents = config.documents().to_vec();
        for change in changes {
            match change {
                Change::Merge(patch) => merge_document(&mut documents, patch, self.minor)?,
                Change::Delete(deletion) => delete_from(&mut documents, deletion, self.minor)?,
            }
        }
        document::check_conflicts(&documents).map_err(PatchError::Load)?;
        Ok(MachineConfig::new(documents, config.minor()))
    }
}

impl Scope {
    /// True if a node with this role, pool and hostname is meant.
    pub fn includes(&self, role: super::generate::Role, pool: &str, hostname: &str) -> bool {
        use super::generate::Role;
        match self {
            Self::All => true,
            Self::ControlPlane => role == Role::ControlPlane,
            Self::Worker => role == Role::Worker,
            Self::Pool(name) => name == pool,
            Self::Node(name) => name == hostname,
        }
    }
}

impl MachineConfig {
    /// Applies the patches meant for a node, from the widest scope to the narrowest, in their order within a scope.
    pub fn patched_for(
        &self,
        patches: &[ScopedPatch],
        role: super::generate::Role,
        pool: &str,
        hostname: &str,
    ) -> Result<Self, PatchError> {
        let mut chosen: Vec<_> = patches.iter().filter(|patch| patch.scope.includes(role, pool, hostname)).collect();
        chosen.sort_by(|left, right| left.scope.cmp(&right.scope));
        chosen.iter().try_fold(self.clone(), |config, scoped| config.patched(&scoped.patch))
    }
}

fn parse_strategic(text: &str, minor: Minor) -> Result<Vec<Change>, PatchError> {
    let trees = yaml::parse(text).map_err(|error| PatchError::Load(LoadError::Yaml(error)))?;
    let mut deletions = Vec::new();
    let mut remaining = Vec::new();
    for mut tree in trees {
        let line = tree.line();
        let has_more =
            delete::extract(&mut tree, &mut deletions).map_err(|error| PatchError::Statement { line, error })?;
        if has_more {
            remaining.push(tree);
        }
    }
    let documents = document::from_trees(remaining, minor).map_err(PatchError::Load)?;
    Ok(in_order(documents, deletions))
}

/// Talos deletes from the main document, merges it, and then does the other documents.
fn in_order(documents: Vec<Document>, deletions: Vec<Deletion>) -> Vec<Change> {
    let (main, others): (Vec<_>, Vec<_>) = documents.into_iter().partition(Document::is_main);
    let is_main = |deletion: &Deletion| deletion.document.kind == super::catalogue::MAIN;
    let (main_deletions, other_deletions): (Vec<_>, Vec<_>) = deletions.into_iter().partition(is_main);
    let merges = |documents: Vec<Document>| documents.into_iter().map(Change::Merge);
    let deletes = |deletions: Vec<Deletion>| deletions.into_iter().map(Change::Delete);
    deletes(main_deletions).chain(merges(main)).chain(deletes(other_deletions)).chain(merges(others)).collect()
}

fn merge_document(documents: &mut Vec<Document>, patch: &Document, minor: Minor) -> Result<(), PatchError> {
    let Some(base) = documents.iter_mut().find(|document| document.id() == patch.id()) else {
        documents.push(patch.clone());
        return Ok(());
    };
    let object = base.object();
    merge::merge(base.root_mut(), patch.root(), object, minor, &Path::root()).map_err(PatchError::Merge)
}

/// A deletion from a document that is not there changes nothing.
fn delete_from(documents: &mut Vec<Document>, deletion: &Deletion, minor: Minor) -> Result<(), PatchError> {
    let Some(at) = documents.iter().position(|document| document.id() == &deletion.document) else { return Ok(()) };
    if deletion.is_whole_document() {
        if documents[at].is_main() {
            return Err(PatchError::DeleteMain);
        }
        documents.remove(at);
        return Ok(());
    }
    deletion.apply(&mut documents[at], minor).map_err(|error| PatchError::Delete {
        document: deletion.document.clone(),
        path: deletion.path.join("."),
        error,
    })
}

fn apply_operations(config: &MachineConfig, operations: &[Operation]) -> Result<MachineConfig, PatchError> {
    let [document] = config.documents() else { return Err(PatchError::ManyDocuments) };
    let mut tree = document.canonical(config.minor());
    for operation in operations {
        operation.apply(&mut tree).map_err(PatchError::Operation)?;
    }
    let Value::Mapping(root) = tree else {
        return Err(PatchError::Load(LoadError::NotADocument { line: 1 }));
    };
    let document = Document::from_tree(root, config.minor()).map_err(PatchError::Load)?;
    Ok(MachineConfig::new(vec![document], config.minor()))
}
