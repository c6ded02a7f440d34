//! What a user's patch may not touch, because the rest of the system relies on it (design: scopes of patches).

use crate::config::catalogue::MAIN;
use crate::config::delete::Deletion;
use crate::config::document::{Document, DocumentId};

use super::json6902::Operation;

/// A patch touches a protected field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} may not be patched: {reason}")]
pub struct Forbidden {
    /// `machine.ca` in the main document, `KubeClusterConfig.endpoint` in another.
    pub path: String,
    pub reason: &'static str,
}

/// Protected fields of the main document, with what they are.
const MAIN_FIELDS: &[(&str, &str)] = &[
    ("machine.type", "the role of a node is decided by its pool"),
    ("machine.token", "it is a secret of the cluster"),
    ("machine.ca", "it is a secret of the cluster"),
    ("machine.acceptedCAs", "trust is part of the cluster's secrets"),
    ("machine.network.hostname", "the name of a node is the name of its VM"),
    ("cluster.id", "it is the identity of the cluster"),
    ("cluster.secret", "it is a secret of the cluster"),
    ("cluster.controlPlane.endpoint", "the endpoint is part of the request"),
    ("cluster.clusterName", "it is the identity of the cluster"),
    ("cluster.token", "it is a secret of the cluster"),
    ("cluster.aescbcEncryptionSecret", "it is a secret of the cluster"),
    ("cluster.secretboxEncryptionSecret", "it is a secret of the cluster"),
    ("cluster.ca", "it is a secret of the cluster"),
    ("cluster.acceptedCAs", "trust is part of the cluster's secrets"),
    ("cluster.aggregatorCA", "it is a secret of the cluster"),
    ("cluster.serviceAccount", "it is a secret of the cluster"),
    ("cluster.etcd.ca", "it is a secret of the cluster"),
];

/// Documents that may not be patched at all.
const DOCUMENTS: &[(&str, &str)] = &[
    ("DiscoveryIdentityConfig", "it is the identity of the cluster"),
    ("KubeClusterConfig", "the name and the endpoint are part of the request"),
    ("KubeAPIServerCAConfig", "it is a secret of the cluster"),
    ("KubeAggregatorCAConfig", "it is a secret of the cluster"),
    ("KubeEtcdEncryptionConfig", "it is a secret of the cluster"),
    ("KubeServiceAccountConfig", "it is a secret of the cluster"),
    ("HostnameConfig", "the name of a node is the name of its VM"),
];

pub(super) fn check_document(document: &Document) -> Result<(), Forbidden> {
    if !document.is_main() {
        return check_kind(document.id());
    }
    let root = crate::config::yaml::Value::Mapping(document.root().clone());
    for (path, reason) in MAIN_FIELDS {
        let keys: Vec<&str> = path.split('.').collect();
        if root.at(&keys).is_some() {
            return Err(Forbidden { path: (*path).to_owned(), reason });
        }
    }
    Ok(())
}

pub(super) fn check_deletion(deletion: &Deletion) -> Result<(), Forbidden> {
    if deletion.document.kind != MAIN { check_kind(&deletion.document) } else { check_overlap(&deletion.path) }
}

/// Operations apply to configurations of one document, which is the main one.
pub(super) fn check_operation(operation: &Operation) -> Result<(), Forbidden> {
    operation.touched().into_iter().try_for_each(check_overlap)
}

fn check_kind(id: &DocumentId) -> Result<(), Forbidden> {
    match DOCUMENTS.iter().find(|(kind, _)| *kind == id.kind) {
        Some((kind, reason)) => Err(Forbidden { path: (*kind).to_owned(), reason }),
        None => Ok(()),
    }
}

/// A path is forbidden if it is a protected one, lies below it or takes it away with itself.
fn check_overlap(path: &[String]) -> Result<(), Forbidden> {
    for (protected, reason) in MAIN_FIELDS {
        if protected.split('.').zip(path).all(|(left, right)| left == right) {
            return Err(Forbidden { path: (*protected).to_owned(), reason });
        }
    }
    Ok(())
}
