//! Talos machine configuration: generated, loaded, patched, validated and redacted as Talos's own library does it.
//!
//! A configuration is several YAML documents: the kind-less main one (`v1alpha1`) and others by kind and name. What
//! each may hold is data ([`catalogue`]), so that all three supported versions share one implementation.
//!
//! `minor` everywhere is the line of Talos releases whose shape of configuration is meant.

pub mod catalogue;
pub mod compat;
pub mod generate;
pub mod installer;
pub mod patch;
pub mod validate;
pub mod yaml;

mod conform;
mod delete;
mod document;
mod duration;
mod encode;
pub mod form;
mod merge;
mod path;
mod redact;

pub use conform::{Mismatch, UnknownKey};
pub use document::{Document, DocumentId, LoadError};
pub use generate::generate;
pub use patch::{Patch, PatchError, Scope, ScopedPatch};
pub use path::Path;
pub use validate::{Invalid, Mode, Warning};

use secrecy::SecretString;
use sha2::{Digest, Sha256};

use crate::version::Minor;

/// A whole machine configuration of one node.
#[derive(Clone, PartialEq)]
pub struct MachineConfig {
    minor: Minor,
    documents: Vec<Document>,
}

/// Names the documents and shows no value: configurations hold private keys.
impl std::fmt::Debug for MachineConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds: Vec<_> = self.documents.iter().map(|document| document.id().to_string()).collect();
        f.debug_struct("MachineConfig").field("minor", &self.minor).field("documents", &kinds).finish()
    }
}

impl MachineConfig {
    /// Reads a configuration as strictly as Talos: duplicate documents and unknown keys are errors.
    pub fn parse(text: &str, minor: Minor) -> Result<Self, LoadError> {
        Ok(Self::new(document::load(text, minor)?, minor))
    }

    /// Puts documents together; the main document goes first, as Talos writes it.
    pub(crate) fn new(mut documents: Vec<Document>, minor: Minor) -> Self {
        documents.sort_by_key(|document| !document.is_main());
        Self { minor, documents }
    }

    pub fn minor(&self) -> Minor {
        self.minor
    }

    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// The main document; a configuration without it is accepted in maintenance and keeps the node there.
    pub fn main(&self) -> Option<&Document> {
        self.documents.iter().find(|document| document.is_main())
    }

    /// The first document of a kind.
    pub fn document(&self, kind: &str) -> Option<&Document> {
        self.documents.iter().find(|document| document.id().kind == kind)
    }

    /// The text a field of the main document holds, by its path of keys.
    pub fn text(&self, path: &[&str]) -> Option<&str> {
        let (first, rest) = path.split_first()?;
        self.main()?.root().get(first)?.at(rest)?.text()
    }

    /// True if the node can boot with it (talos.md 5.5).
    pub fn is_complete(&self) -> bool {
        self.main().is_some()
    }

    /// Applies one patch; the original stays as it is.
    ///
    /// What [`Patch::check_allowed`] forbids is not checked here, because the generator itself patches.
    pub fn patched(&self, patch: &Patch) -> Result<Self, PatchError> {
        patch.apply(self)
    }

    /// Checks what Talos checks before it takes a configuration, and returns its warnings.
    pub fn validate(&self, mode: Mode) -> Result<Vec<Warning>, Invalid> {
        validate::validate(self, mode)
    }

    /// Checks what a node running this Talos version checks besides: the versions of the Kubernetes images.
    pub fn check_versions(&self, talos: &semver::Version) -> Result<(), Invalid> {
        validate::check_versions(self, talos)
    }

    /// The text Talos's encoder would write. It holds private keys and tokens.
    pub fn to_yaml(&self) -> SecretString {
        self.canonical_text().into()
    }

    /// The same configuration with every key and token replaced by `******`.
    #[must_use]
    pub fn redacted(&self) -> Self {
        redact::redacted(self)
    }

    /// The text of [`Self::redacted`], which may be shown and logged.
    pub fn to_redacted_yaml(&self) -> String {
        self.redacted().canonical_text()
    }

    /// SHA-256 of the canonical text in lower-case hex: equal for equal configurations, says nothing about them.
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(self.canonical_text()))
    }

    fn canonical_text(&self) -> String {
        let trees: Vec<_> = self.documents.iter().map(|document| document.canonical(self.minor)).collect();
        yaml::documents(&trees)
    }
}
