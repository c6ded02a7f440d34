//! Exchanges the nkey of an identity in two steps, so that no message is lost between them.
//!
//! ```text
//! begin    keys/<identity>.nk becomes keys/<identity>.old.nk, a new seed takes its place;
//!          server and pins accept both. Now the identity gets its new seed, in its own time.
//! finish   keys/<identity>.old.nk is gone; server and pins accept the new one only.
//! ```
//!
//! Both can be repeated after they were killed. `nats-server` reads its configuration again on SIGHUP.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    identity::{self, Identity},
    persons,
    server_config::{self, GenerateError},
};

/// The keys of an identity while they are exchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Whose.
    pub identity: Identity,
    /// Where the new seed is.
    pub seed_file: PathBuf,
    /// The public key until now.
    pub old_key: String,
    /// The public key from now on.
    pub new_key: String,
}

/// Why keys were not exchanged.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The folder is none that `bus configure` made.
    #[error("{} is not the folder of a bus: it has no {missing}", .folder.display())]
    NotABus {
        /// The folder.
        folder: PathBuf,
        /// What it lacks.
        missing: String,
    },
    /// There is nothing to finish.
    #[error("the key of {0} is not being exchanged")]
    NotBegun(Identity),
    /// A file cannot be used.
    #[error(transparent)]
    Files(#[from] GenerateError),
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] identity::KeyError),
}

/// Makes a new key for `identity`; from now on both are accepted. Where that was done already, it is written again.
pub fn begin(folder: &Path, identity: Identity) -> Result<Rotation, RotationError> {
    check_folder(folder)?;
    let (seed_file, old_file) = (seed_file(folder, identity), old_seed_file(folder, identity));
    if !old_file.exists() {
        if !seed_file.exists() {
            return Err(not_a_bus(folder, &format!("keys/{identity}.nk")));
        }
        // Between these two the identity has no current key; the next `begin` finds the old one and makes it.
        move_file(&seed_file, &old_file)?;
    }
    let new_key = identity::ensure_key(&seed_file)?;
    let old_key = identity::public_key(&identity::read_seed(&old_file)?, &old_file)?;
    server_config::write_keys(folder, &known_keys(folder)?, &persons::known(folder)?)?;
    Ok(Rotation { identity, seed_file, old_key, new_key })
}

/// Gives the old key of `identity` up; from now on only the new one is accepted.
pub fn finish(folder: &Path, identity: Identity) -> Result<Rotation, RotationError> {
    check_folder(folder)?;
    let (seed_file, old_file) = (seed_file(folder, identity), old_seed_file(folder, identity));
    if !old_file.exists() {
        return Err(RotationError::NotBegun(identity));
    }
    let new_key = identity::public_key(&identity::read_seed(&seed_file)?, &seed_file)?;
    let old_key = identity::public_key(&identity::read_seed(&old_file)?, &old_file)?;
    let mut keys = known_keys(folder)?;
    keys.insert(identity, vec![new_key.clone()]);
    server_config::write_keys(folder, &keys, &persons::known(folder)?)?;
    fs::remove_file(&old_file).and_then(|()| sync_keys(folder)).map_err(|source| failed(&old_file, source))?;
    Ok(Rotation { identity, seed_file, old_key, new_key })
}

/// The public keys of every identity, the newest first; two while they are exchanged.
pub(crate) fn known_keys(folder: &Path) -> Result<BTreeMap<Identity, Vec<String>>, identity::KeyError> {
    let mut keys = BTreeMap::new();
    for identity in Identity::ALL {
        let mut of_it = vec![identity::ensure_key(&seed_file(folder, identity))?];
        let old = old_seed_file(folder, identity);
        if old.exists() {
            of_it.push(identity::public_key(&identity::read_seed(&old)?, &old)?);
        }
        keys.insert(identity, of_it);
    }
    Ok(keys)
}

/// Where the current seed of an identity is.
pub(crate) fn seed_file(folder: &Path, identity: Identity) -> PathBuf {
    folder.join("keys").join(format!("{identity}.nk"))
}

fn old_seed_file(folder: &Path, identity: Identity) -> PathBuf {
    folder.join("keys").join(format!("{identity}.old.nk"))
}

pub(crate) fn check_folder(folder: &Path) -> Result<(), RotationError> {
    match server_config::FILE {
        name if folder.join(name).is_file() => Ok(()),
        name => Err(not_a_bus(folder, name)),
    }
}

fn not_a_bus(folder: &Path, missing: &str) -> RotationError {
    RotationError::NotABus { folder: folder.to_owned(), missing: missing.to_owned() }
}

fn move_file(from: &Path, to: &Path) -> Result<(), RotationError> {
    fs::rename(from, to).map_err(|source| failed(from, source))?;
    from.parent().map_or(Ok(()), |keys| fs::File::open(keys)?.sync_all()).map_err(|source| failed(from, source))
}

fn sync_keys(folder: &Path) -> io::Result<()> {
    fs::File::open(folder.join("keys"))?.sync_all()
}

fn failed(path: &Path, source: io::Error) -> RotationError {
    GenerateError::Io { path: path.to_owned(), source }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server_config::example::{config, options, pinned};

    fn made(folder: &Path) -> server_config::Setup {
        server_config::generate(folder, &options(folder, false)).unwrap()
    }

    #[test]
    fn both_keys_are_accepted_until_the_exchange_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let old = made(folder).public_keys[&Identity::Talos].clone();
        // What an operator changed above the keys stays.
        let changed = config(folder).replace("ping_max: 2", "ping_max: 3 # ours");
        fs::write(folder.join(server_config::FILE), &changed).unwrap();
        assert!(matches!(finish(folder, Identity::Talos), Err(RotationError::NotBegun(Identity::Talos))));

        let begun = begin(folder, Identity::Talos).unwrap();
        assert!(begun.old_key == old && begun.new_key != old);
        assert_eq!(pinned(folder)["/talos"], serde_json::json!([begun.new_key, old]));
        let both = config(folder);
        assert!(both.contains("ping_max: 3 # ours") && both.contains(&old) && both.contains(&begun.new_key));
        // Repeated, it makes no third key; generated again, the configuration keeps both.
        assert_eq!(begin(folder, Identity::Talos).unwrap(), begun);
        assert_eq!(made(folder).public_keys[&Identity::Talos], begun.new_key);
        assert_eq!(pinned(folder)["/talos"], serde_json::json!([begun.new_key, old]));

        assert_eq!(finish(folder, Identity::Talos).unwrap(), begun);
        assert_eq!(pinned(folder)["/talos"], serde_json::json!([begun.new_key]));
        assert!(!config(folder).contains(&old) && config(folder).contains(&begun.new_key));
        assert!(!old_seed_file(folder, Identity::Talos).exists());
        let next = begin(folder, Identity::Talos).unwrap();
        assert_eq!(next.old_key, begun.new_key);
    }

    #[test]
    fn an_exchange_that_was_killed_between_its_files_is_repeated_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let old = made(folder).public_keys[&Identity::Operator].clone();
        fs::rename(seed_file(folder, Identity::Operator), old_seed_file(folder, Identity::Operator)).unwrap();
        let begun = begin(folder, Identity::Operator).unwrap();
        assert_eq!(begun.old_key, old);
        // Killed after the configuration was written: the old seed is still there, and goes with the next try.
        let rest = fs::read(old_seed_file(folder, Identity::Operator)).unwrap();
        finish(folder, Identity::Operator).unwrap();
        identity::write_private(&old_seed_file(folder, Identity::Operator), &rest).unwrap();
        assert_eq!(finish(folder, Identity::Operator).unwrap(), begun);
        assert!(!config(folder).contains(&old));
    }

    #[test]
    fn a_configuration_whose_keys_cannot_be_found_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert!(matches!(begin(folder, Identity::Talos), Err(RotationError::NotABus { .. })));
        made(folder);
        let by_hand = config(folder) + "leafnodes { port: 7422 }\n";
        fs::write(folder.join(server_config::FILE), &by_hand).unwrap();
        let error = begin(folder, Identity::Talos).unwrap_err().to_string();
        assert!(error.contains("nats-server.conf") && error.contains("authorization"), "{error}");
        assert_eq!(config(folder), by_hand);
    }
}
