//! Secrets at rest: age with X25519, a key file for the daemon and an optional recipient kept offline.

use std::path::{Path, PathBuf};

/// A daemon's key file, in the format of `age-keygen`; only its owner may read it.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// Where it is.
    pub path: PathBuf,
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read or written.
    #[error("key file {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Creates a key file (mode 0600) unless there is one; returns its public key (`age1…`).
pub fn create_key_file(_path: &Path) -> Result<String, KeyError> {
    todo!()
}
