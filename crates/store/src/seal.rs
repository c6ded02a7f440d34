//! Secrets at rest: age with X25519, a key file for the daemon and an optional recipient kept offline.

use std::{
    fs, io,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use age::x25519::{Identity, Recipient};
use secrecy::{ExposeSecret, SecretSlice, SecretString, zeroize::Zeroizing};

use crate::opening::remedy;

/// Seals for its recipients and opens with its identity.
pub(crate) struct Sealer {
    identity: Identity,
    recipients: Vec<Recipient>,
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read or written.
    #[error("key file {} cannot be used ({})", .path.display(), remedy(.source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others than its owner may read it.
    #[error("key file {} is readable by others (mode {mode:o}): `chmod 600` it", .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds no `AGE-SECRET-KEY-1…` line.
    #[error(
        "key file {} holds no age X25519 key: bring it back from a backup, or put the recovery key in its place",
        .path.display()
    )]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A recipient is not `age1…`.
    #[error("`{recipient}` is not an age X25519 recipient: {reason}")]
    Recipient {
        /// What was given.
        recipient: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store's secrets are sealed for other keys.
    #[error(
        "the store's secrets are sealed for {}, not for the given key {given}: name the key file that fits; \
         `cortexctl store rekey` seals them for another",
        .sealed_for.join(", ")
    )]
    Wrong {
        /// Public key of the file given.
        given: String,
        /// Recipients that the store knows.
        sealed_for: Vec<String>,
    },
}

/// Creates a key file in the format of `age-keygen`, mode 0600; returns its public key (`age1…`). Refuses to overwrite.
pub fn create_key_file(path: &Path) -> Result<String, KeyError> {
    let failed = |source| KeyError::Io { path: path.to_owned(), source };
    let identity = Identity::generate();
    let public = identity.to_public().to_string();
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(failed)?;
    let secret: SecretString = identity.to_string();
    let text = Zeroizing::new(format!(
        "# created: {}\n# public key: {public}\n{}\n",
        jiff::Timestamp::now(),
        secret.expose_secret()
    ));
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::File::open(parent).and_then(|folder| folder.sync_all()).map_err(failed)?;
    }
    Ok(public)
}

impl Sealer {
    /// A sealer with the identity of a key file and, beside its own, a recovery recipient.
    pub(crate) fn load(path: &Path, recovery: Option<&str>) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Io { path: path.to_owned(), source };
        let mut file = fs::File::open(path).map_err(failed)?;
        refuse_exposed(path, &file.metadata().map_err(failed)?)?;
        let mut text = Zeroizing::new(String::new());
        file.read_to_string(&mut text).map_err(failed)?;
        let identity: Identity = text
            .lines()
            .map(str::trim)
            .find(|line| line.starts_with("AGE-SECRET-KEY-1"))
            .and_then(|line| line.parse().ok())
            .ok_or_else(|| KeyError::NoKey { path: path.to_owned() })?;
        let mut recipients = vec![identity.to_public()];
        if let Some(recovery) = recovery {
            recipients.push(
                recovery.parse::<Recipient>().map_err(|reason| KeyError::Recipient {
                    recipient: recovery.to_owned(),
                    reason: reason.to_owned(),
                })?,
            );
        }
        Ok(Self { identity, recipients })
    }

    /// The public key of the key file.
    pub(crate) fn public(&self) -> String {
        self.identity.to_public().to_string()
    }

    /// Everyone who can open what is sealed from now on.
    pub(crate) fn recipients(&self) -> Vec<String> {
        self.recipients.iter().map(ToString::to_string).collect()
    }

    /// Age ciphertext of `plain`, bound to the secret's name.
    pub(crate) fn seal(&self, name: &str, plain: &SecretSlice<u8>) -> Result<Vec<u8>, String> {
        let recipients = self.recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients).map_err(|error| error.to_string())?;
        let mut sealed = Vec::with_capacity(plain.expose_secret().len() + 512);
        let write = || -> io::Result<()> {
            let mut writer = encryptor.wrap_output(&mut sealed)?;
            writer.write_all(name.as_bytes())?;
            writer.write_all(b"\n")?;
            writer.write_all(plain.expose_secret())?;
            writer.finish()?;
            Ok(())
        };
        write().map_err(|error| error.to_string())?;
        Ok(sealed)
    }

    /// The plain bytes of what was sealed under this name.
    pub(crate) fn open(&self, name: &str, sealed: &[u8]) -> Result<SecretSlice<u8>, String> {
        let decryptor = age::Decryptor::new(sealed).map_err(|error| error.to_string())?;
        let identity: &dyn age::Identity = &self.identity;
        let mut reader = decryptor.decrypt(std::iter::once(identity)).map_err(|error| error.to_string())?;
        let mut plain = Zeroizing::new(Vec::with_capacity(sealed.len()));
        reader.read_to_end(&mut plain).map_err(|error| error.to_string())?;
        let rest = plain
            .strip_prefix(name.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"\n"))
            .ok_or("it was sealed under another name")?;
        Ok(SecretSlice::from(rest.to_vec()))
    }
}

#[cfg(unix)]
fn refuse_exposed(path: &Path, metadata: &fs::Metadata) -> Result<(), KeyError> {
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(KeyError::Exposed { path: path.to_owned(), mode }) }
}

#[cfg(not(unix))]
fn refuse_exposed(_path: &Path, _metadata: &fs::Metadata) -> Result<(), KeyError> {
    Ok(())
}
