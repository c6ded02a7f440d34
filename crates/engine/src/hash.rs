//! Content hashes: SHA-256, hexadecimal, of texts and of canonical JSON (RFC 8785).

use serde::Serialize;
use sha2::{Digest, Sha256};

/// The hash of a text.
pub fn of_text(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// The hash of a value's canonical JSON, the same whatever order its maps were made in.
pub fn of<T: Serialize>(value: &T) -> String {
    let canonical = serde_json_canonicalizer::to_vec(value).expect("the engine's own types are JSON");
    hex::encode(Sha256::digest(canonical))
}
