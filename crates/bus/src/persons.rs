//! Operators as persons: a key of their own each, which signs for `/operator/<name>` and for nobody else.
//!
//! ```text
//! keys/operators/<name>.pub   the public key, by which server and contractors know the person
//! keys/operators/<name>.nk    the seed, where it was made here: it is the person's, and not needed here
//! ```
//!
//! Whoever has no key of their own signs with the key that operators share, `keys/operator.nk`, which no longer speaks for a
//! person that was admitted.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use nkeys::{KeyPair, KeyPairType};

use crate::{
    identity::{self, Identity, KeyError},
    rotation::{self, RotationError},
    server_config::{self, GenerateError},
};

/// Longest name.
const MAX_NAME: usize = 64;

/// An operator with a key of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// `ada`
    pub name: String,
    /// `U…`
    pub public_key: String,
    /// Where the seed is, if it is here.
    pub seed_file: Option<PathBuf>,
}

impl Person {
    /// As whom the person speaks: `/operator/ada`.
    pub fn source(&self) -> String {
        source(&self.name)
    }
}

/// Why nobody was admitted or dismissed.
#[derive(Debug, thiserror::Error)]
pub enum PersonError {
    /// It could be no source of messages.
    #[error(
        "`{0}` is no name: expected up to {MAX_NAME} letters, digits, `-`, `_` and `.`, beginning with a letter or digit"
    )]
    Name(String),
    /// The key is none that people connect with.
    #[error("`{0}` is no public nkey of a user: expected `U` and 55 characters")]
    Key(String),
    /// Somebody else's key would speak for the person.
    #[error("{name} has the key {known}: dismiss {name} first")]
    Known {
        /// Who.
        name: String,
        /// The key that is known.
        known: String,
    },
    /// The key would speak for two.
    #[error("{key} is the key of {whose}: expected one that nobody has")]
    Shared {
        /// The key.
        key: String,
        /// Whose it is.
        whose: String,
    },
    /// There is nobody to dismiss.
    #[error("{0} was not admitted")]
    Unknown(String),
    /// The folder is no bus, or a file of it cannot be used.
    #[error(transparent)]
    Folder(#[from] RotationError),
}

/// Lets a person operate with this public key, or with a new one whose seed is written beside the others. Can be repeated.
///
/// # Errors
/// [`PersonError`].
pub fn admit(folder: &Path, name: &str, public_key: Option<&str>) -> Result<Person, PersonError> {
    rotation::check_folder(folder)?;
    check_name(name)?;
    let (seed, public) = files(folder, name);
    let known = persons(folder).map_err(RotationError::from)?.remove(name);
    let key = match (public_key, &known) {
        (Some(key), _) => checked(key)?,
        (None, Some(known)) => known.clone(),
        (None, None) => {
            create(&keys_folder(folder))?;
            identity::ensure_key(&seed).map_err(RotationError::from)?
        }
    };
    if let Some(known) = known.filter(|known| *known != key) {
        return Err(PersonError::Known { name: name.to_owned(), known });
    }
    check_nobody_has(folder, name, &key)?;
    create(&keys_folder(folder))?;
    fs::write(&public, format!("{key}\n")).map_err(|source| failed(&public, source))?;
    server_config::issue_client(folder, name).map_err(RotationError::from)?;
    write_keys(folder)?;
    Ok(Person { name: name.to_owned(), public_key: key, seed_file: seed.exists().then_some(seed) })
}

/// Lets a person operate no more. Can be repeated after it was killed.
///
/// # Errors
/// [`PersonError`].
pub fn dismiss(folder: &Path, name: &str) -> Result<Person, PersonError> {
    rotation::check_folder(folder)?;
    check_name(name)?;
    let known = persons(folder).map_err(RotationError::from)?.remove(name);
    let public_key = known.ok_or_else(|| PersonError::Unknown(name.to_owned()))?;
    let (seed, public) = files(folder, name);
    // The seed first: what is left of a person is whom the server still knows.
    for file in
        [seed.clone(), seed.with_file_name(format!("{name}.key")), seed.with_file_name(format!("{name}.pem")), public]
    {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&file, error).into()),
            _ => {}
        }
    }
    write_keys(folder)?;
    Ok(Person { name: name.to_owned(), public_key, seed_file: None })
}

/// Who was admitted, with their public keys.
pub(crate) fn persons(folder: &Path) -> Result<BTreeMap<String, String>, KeyError> {
    let keys = keys_folder(folder);
    let unreadable = |error: io::Error| KeyError { path: keys.clone(), reason: error.to_string() };
    let entries = match fs::read_dir(&keys) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut persons = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".pub"));
        let Some(name) = name else { continue };
        let refused = |reason: String| KeyError { path: path.clone(), reason };
        let text = fs::read_to_string(&path).map_err(|error| refused(error.to_string()))?;
        let key = checked(text.trim()).and_then(|key| check_name(name).map(|()| key));
        persons.insert(name.to_owned(), key.map_err(|error| refused(error.to_string()))?);
    }
    Ok(persons)
}

/// As whom a person speaks.
pub(crate) fn source(name: &str) -> String {
    format!("/{}/{name}", Identity::Operator)
}

/// Where what belongs to persons is.
pub(crate) fn keys_folder(folder: &Path) -> PathBuf {
    folder.join("keys").join("operators")
}

fn files(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let keys = keys_folder(folder);
    (keys.join(format!("{name}.nk")), keys.join(format!("{name}.pub")))
}

/// A name is a part of a source of messages, and of file names.
fn check_name(name: &str) -> Result<(), PersonError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_name =
        name.len() <= MAX_NAME && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(is_plain);
    if is_name { Ok(()) } else { Err(PersonError::Name(name.to_owned())) }
}

fn checked(key: &str) -> Result<String, PersonError> {
    let is_users = KeyPair::from_public_key(key).is_ok_and(|pair| pair.key_pair_type() == KeyPairType::User);
    if is_users { Ok(key.to_owned()) } else { Err(PersonError::Key(key.to_owned())) }
}

/// Or the server would give two people, or a person and a contractor, the same rights and the audit log one name.
fn check_nobody_has(folder: &Path, name: &str, key: &str) -> Result<(), PersonError> {
    let shared = |whose: String| PersonError::Shared { key: key.to_owned(), whose };
    let identities = rotation::known_keys(folder).map_err(RotationError::from)?;
    if let Some((identity, _)) = identities.iter().find(|(_, keys)| keys.iter().any(|known| known == key)) {
        return Err(shared(identity.to_string()));
    }
    let persons = persons(folder).map_err(RotationError::from)?;
    match persons.into_iter().find(|(other, known)| other != name && known == key) {
        Some((other, _)) => Err(shared(other)),
        None => Ok(()),
    }
}

fn write_keys(folder: &Path) -> Result<(), RotationError> {
    Ok(server_config::write_keys(folder, &rotation::known_keys(folder)?)?)
}

fn create(folder: &Path) -> Result<(), RotationError> {
    fs::create_dir_all(folder).map_err(|source| failed(folder, source))
}

fn failed(path: &Path, source: io::Error) -> RotationError {
    GenerateError::Io { path: path.to_owned(), source }.into()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn options(folder: &Path) -> server_config::Options {
        server_config::Options {
            listen: "127.0.0.1:0".parse().unwrap(),
            names: Vec::new(),
            store_folder: folder.join("jetstream"),
            monitor_port: None,
            verify_clients: true,
        }
    }

    fn bus() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        server_config::generate(folder.path(), &options(folder.path())).unwrap();
        folder
    }

    fn pinned(folder: &Path) -> Value {
        serde_json::from_str(&fs::read_to_string(folder.join("pinned_keys.json")).unwrap()).unwrap()
    }

    fn config(folder: &Path) -> String {
        fs::read_to_string(folder.join(server_config::FILE)).unwrap()
    }

    #[test]
    fn a_person_has_a_key_of_their_own_until_they_are_dismissed() {
        let bus = bus();
        let folder = bus.path();
        let before = pinned(folder);
        let ada = admit(folder, "ada", None).unwrap();
        assert_eq!(ada.source(), "/operator/ada");
        let seed = identity::read_seed(ada.seed_file.as_ref().unwrap()).unwrap();
        assert_eq!(identity::public_key(&seed, Path::new("seed")).unwrap(), ada.public_key);
        assert_eq!(pinned(folder)["/operator/ada"], serde_json::json!([ada.public_key]));
        assert!(config(folder).contains(&ada.public_key));
        assert!(keys_folder(folder).join("ada.pem").is_file(), "the server asks for certificates");
        assert_eq!(admit(folder, "ada", None).unwrap(), ada, "again");

        // It stays where everything else is written anew.
        rotation::begin(folder, Identity::Talos).unwrap();
        rotation::finish(folder, Identity::Talos).unwrap();
        assert!(config(folder).contains(&ada.public_key));
        assert_eq!(pinned(folder)["/operator/ada"], serde_json::json!([ada.public_key]));

        dismiss(folder, "ada").unwrap();
        let left = pinned(folder).as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(left, before.as_object().unwrap().keys().cloned().collect::<Vec<_>>());
        assert!(!config(folder).contains(&ada.public_key));
        assert!(fs::read_dir(keys_folder(folder)).unwrap().next().is_none());
        assert_eq!(dismiss(folder, "ada").unwrap_err().to_string(), "ada was not admitted");
    }

    #[test]
    fn a_person_may_keep_their_seed_to_themselves() {
        let bus = bus();
        let folder = bus.path();
        let key = KeyPair::new_user().public_key();
        let bob = admit(folder, "bob", Some(&key)).unwrap();
        assert_eq!((bob.public_key.as_str(), bob.seed_file), (key.as_str(), None));
        let refused = |name: &str, key: Option<&str>| admit(folder, name, key).unwrap_err().to_string();
        assert_eq!(refused("eve", Some(&key)), format!("{key} is the key of bob: expected one that nobody has"));
        let other = KeyPair::new_user().public_key();
        assert_eq!(refused("bob", Some(&other)), format!("bob has the key {key}: dismiss bob first"));
        let operators = pinned(folder)["/operator/*"][0].as_str().unwrap().to_owned();
        assert!(refused("eve", Some(&operators)).contains("is the key of operator"));
        let account = KeyPair::new_account().public_key();
        assert_eq!(
            refused("eve", Some(&account)),
            format!("`{account}` is no public nkey of a user: expected `U` and 55 characters")
        );
        for name in ["", "*", "a/b", "..", ".hidden", "ünal", &"a".repeat(65)] {
            assert!(refused(name, None).starts_with(&format!("`{name}` is no name: expected")), "{name}");
        }
        assert_eq!(persons(folder).unwrap().into_keys().collect::<Vec<_>>(), ["bob"]);
    }

    /// Who moved the CA's key to a safe place needs it for new certificates only; no other CA is made.
    #[test]
    fn a_certificate_for_a_person_needs_the_key_of_the_ca() {
        let bus = bus();
        let folder = bus.path();
        let authority = fs::read(folder.join("ca.pem")).unwrap();
        fs::rename(folder.join("ca.key"), folder.join("safe")).unwrap();
        let refused = admit(folder, "ada", None).unwrap_err().to_string();
        assert!(refused.contains("ca.key is not there, and a new certificate is needed"), "{refused}");
        server_config::generate(folder, &options(folder)).unwrap();
        assert_eq!(fs::read(folder.join("ca.pem")).unwrap(), authority);
        fs::rename(folder.join("safe"), folder.join("ca.key")).unwrap();
        let ada = admit(folder, "ada", None).unwrap();
        assert!(config(folder).contains(&ada.public_key));
    }
}
