//! The signature over a message: Ed25519 by the sender's nkey over subject, headers and body.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use nkeys::KeyPair;

use crate::envelope::{Headers, header};

/// The header that holds the sender's public nkey.
pub const KEY: &str = "cortex-key";
/// The header that holds the signature, base64url without padding.
pub const SIGNATURE: &str = "cortex-signature";

/// Why a signature does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("the message is not signed (headers cortex-key and cortex-signature)")]
    Unsigned,
    /// The key is not among those pinned for the source.
    #[error("the key in cortex-key is not pinned for this source")]
    UnknownKey,
    /// Key or signature have another shape.
    #[error("cortex-key must be a public nkey and cortex-signature base64url of 64 bytes")]
    Malformed,
    /// Subject, headers or body are not what was signed.
    #[error("the signature does not match subject, headers and body")]
    Mismatch,
    /// The private key cannot sign.
    #[error("the nkey holds no seed to sign with")]
    NoSeed,
}

/// Adds `cortex-key` and `cortex-signature` to the headers.
///
/// # Errors
/// [`Error::NoSeed`] if the key pair is only a public key.
pub fn sign(key: &KeyPair, subject: &str, headers: &mut Headers, body: &[u8]) -> Result<(), Error> {
    headers.remove(SIGNATURE);
    headers.insert(KEY.to_owned(), key.public_key());
    let signature = key.sign(&signed_bytes(subject, headers, body)).map_err(|_| Error::NoSeed)?;
    headers.insert(SIGNATURE.to_owned(), BASE64_URL_SAFE_NO_PAD.encode(signature));
    Ok(())
}

/// Checks the signature with the key that the headers name, which must be one of `pinned`.
///
/// # Errors
/// See [`Error`]. Freshness is the caller's to check: this has no clock.
pub fn verify(pinned: &[String], subject: &str, headers: &Headers, body: &[u8]) -> Result<(), Error> {
    let (Some(key), Some(signature)) = (header(headers, KEY), header(headers, SIGNATURE)) else {
        return Err(Error::Unsigned);
    };
    if !pinned.iter().any(|pinned| pinned == key) {
        return Err(Error::UnknownKey);
    }
    let key = KeyPair::from_public_key(key).map_err(|_| Error::Malformed)?;
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| Error::Malformed)?;
    if signature.len() != 64 {
        return Err(Error::Malformed);
    }
    key.verify(&signed_bytes(subject, headers, body), &signature).map_err(|_| Error::Mismatch)
}

/// The end of the public nkey that the headers name, 8 characters: enough to tell keys apart for whoever has them. Only a
/// verified signature proves that it is the sender's.
pub fn key_end(headers: &Headers) -> Option<String> {
    let key = header(headers, KEY)?;
    key.get(key.len().checked_sub(8)?..).map(str::to_owned)
}

/// Subject, then every `ce-` and `cortex-` header but the signature as `name:value`, sorted by lower-case name, one per
/// line, then an empty line and the raw body.
fn signed_bytes(subject: &str, headers: &Headers, body: &[u8]) -> Vec<u8> {
    let mut lines: Vec<String> = headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .filter(|(name, _)| (name.starts_with("ce-") || name.starts_with("cortex-")) && name != SIGNATURE)
        .map(|(name, value)| format!("{name}:{value}\n"))
        .collect();
    lines.sort();
    let mut bytes = format!("{subject}\n").into_bytes();
    bytes.extend(lines.concat().into_bytes());
    bytes.push(b'\n');
    bytes.extend(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_change_of_subject_header_or_body_breaks_the_signature() {
        let key = KeyPair::new_user();
        let pinned = [key.public_key()];
        let subject = "cortex.handoff.talos.vm_provisioned";
        let mut headers: Headers = [("ce-id", "1"), ("ce-source", "/infrastructure"), ("other", "free")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        sign(&key, subject, &mut headers, b"{}").unwrap();
        assert_eq!(verify(&pinned, subject, &headers, b"{}"), Ok(()));
        assert!(key_end(&headers).is_some_and(|end| end.len() == 8 && pinned[0].ends_with(&end)));

        assert_eq!(verify(&pinned, subject, &headers, b"{ }"), Err(Error::Mismatch));
        let other = "cortex.handoff.talos.scale_request";
        assert_eq!(verify(&pinned, other, &headers, b"{}"), Err(Error::Mismatch));
        for (name, value) in [("ce-id", "2"), ("cortex-correlation-id", "added")] {
            let mut altered = headers.clone();
            altered.insert(name.into(), value.into());
            assert_eq!(verify(&pinned, subject, &altered, b"{}"), Err(Error::Mismatch), "{name}");
        }
        let stranger = [KeyPair::new_user().public_key()];
        assert_eq!(verify(&stranger, subject, &headers, b"{}"), Err(Error::UnknownKey));
        headers.remove(SIGNATURE);
        assert_eq!(verify(&pinned, subject, &headers, b"{}"), Err(Error::Unsigned));
    }
}
