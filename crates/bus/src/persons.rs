//! Operators as persons: a key of their own each, which signs for `/operator/<name>` and for nobody else.
//!
//! ```text
//! keys/operators/<name>.pub   the public key, by which server and contractors know the person
//! keys/operators/<name>.nk    the seed, where it was made here: it is the person's, and not needed here
//! keys/operators/<name>.pem   with .key, a certificate to show, where the server asks for one
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

/// Lets a person operate with this public key, or with a new one whose seed is written beside it. Can be repeated.
///
/// # Errors
/// [`PersonError`]; nobody is admitted then.
pub fn admit(folder: &Path, name: &str, public_key: Option<&str>) -> Result<Person, PersonError> {
    rotation::check_folder(folder)?;
    check_name(name)?;
    let keys = keys_folder(folder);
    let (seed, public) = (keys.join(format!("{name}.nk")), keys.join(format!("{name}.pub")));
    fs::create_dir_all(&keys).map_err(|source| failed(&keys, source))?;
    let mut persons = known(folder).map_err(RotationError::from)?;
    let key = match (public_key, persons.get(name)) {
        (Some(key), _) => checked(key)?,
        (None, Some(known)) => known.clone(),
        (None, None) => identity::ensure_key(&seed).map_err(RotationError::from)?,
    };
    if let Some(known) = persons.get(name).filter(|known| **known != key) {
        return Err(PersonError::Known { name: name.to_owned(), known: known.clone() });
    }
    check_nobody_has(folder, &persons, name, &key)?;
    server_config::issue_client(folder, name).map_err(RotationError::from)?;
    fs::write(&public, format!("{key}\n")).map_err(|source| failed(&public, source))?;
    persons.insert(name.to_owned(), key.clone());
    write_keys(folder, &persons)?;
    let is_theirs = |seed: &PathBuf| {
        identity::read_seed(seed).and_then(|text| identity::public_key(&text, seed)).is_ok_and(|public| public == key)
    };
    let seed_file = Some(seed).filter(is_theirs);
    Ok(Person { name: name.to_owned(), public_key: key, seed_file })
}

/// Lets a person operate no more. Can be repeated after it was killed.
///
/// # Errors
/// [`PersonError`].
pub fn dismiss(folder: &Path, name: &str) -> Result<Person, PersonError> {
    rotation::check_folder(folder)?;
    check_name(name)?;
    let mut persons = known(folder).map_err(RotationError::from)?;
    let public_key = persons.remove(name).ok_or_else(|| PersonError::Unknown(name.to_owned()))?;
    write_keys(folder, &persons)?;
    // Last what the person is known by: until then they can be dismissed again.
    for kind in ["nk", "key", "pem", "pub"] {
        let file = keys_folder(folder).join(format!("{name}.{kind}"));
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&file, error).into()),
            _ => {}
        }
    }
    Ok(Person { name: name.to_owned(), public_key, seed_file: None })
}

/// Who was admitted, with their public keys.
pub(crate) fn known(folder: &Path) -> Result<BTreeMap<String, String>, KeyError> {
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
fn check_nobody_has(
    folder: &Path,
    persons: &BTreeMap<String, String>,
    name: &str,
    key: &str,
) -> Result<(), PersonError> {
    let identities = rotation::known_keys(folder).map_err(RotationError::from)?;
    let identity = identities.iter().find(|(_, keys)| keys.iter().any(|known| known == key));
    let person = persons.iter().find(|(other, known)| *other != name && *known == key);
    match identity.map(|(identity, _)| identity.to_string()).or_else(|| person.map(|(other, _)| other.clone())) {
        Some(whose) => Err(PersonError::Shared { key: key.to_owned(), whose }),
        None => Ok(()),
    }
}

fn write_keys(folder: &Path, persons: &BTreeMap<String, String>) -> Result<(), RotationError> {
    Ok(server_config::write_keys(folder, &rotation::known_keys(folder)?, persons)?)
}

fn failed(path: &Path, source: io::Error) -> RotationError {
    GenerateError::Io { path: path.to_owned(), source }.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::server_config::example::{config, options, pinned};

    fn bus() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        server_config::generate(folder.path(), &options(folder.path(), true)).unwrap();
        folder
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
        assert_eq!(pinned(folder)["/operator/ada"], json!([ada.public_key]));
        assert!(config(folder).contains(&ada.public_key));
        assert!(keys_folder(folder).join("ada.pem").is_file(), "the server asks for certificates");
        assert_eq!(admit(folder, "ada", None).unwrap(), ada, "again");

        // It stays where everything else is written anew.
        rotation::begin(folder, Identity::Talos).unwrap();
        rotation::finish(folder, Identity::Talos).unwrap();
        assert!(config(folder).contains(&ada.public_key));
        assert_eq!(pinned(folder)["/operator/ada"], json!([ada.public_key]));

        dismiss(folder, "ada").unwrap();
        let left = pinned(folder).as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(left, before.as_object().unwrap().keys().cloned().collect::<Vec<_>>());
        assert!(!config(folder).contains(&ada.public_key));
        assert!(fs::read_dir(keys_folder(folder)).unwrap().next().is_none());
        assert_eq!(dismiss(folder, "ada").unwrap_err().to_string(), "ada was not admitted");
    }

    /// As a dismissal that was killed between its files left it: the server knows the person no more.
    #[test]
    fn a_dismissal_that_was_killed_is_repeated_to_its_end() {
        let bus = bus();
        let folder = bus.path();
        let ada = admit(folder, "ada", None).unwrap();
        write_keys(folder, &BTreeMap::new()).unwrap();
        fs::remove_file(ada.seed_file.unwrap()).unwrap();
        dismiss(folder, "ada").unwrap();
        assert!(!config(folder).contains(&ada.public_key));
        assert!(fs::read_dir(keys_folder(folder)).unwrap().next().is_none());
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
        assert_eq!(known(folder).unwrap().into_keys().collect::<Vec<_>>(), ["bob"]);
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
        server_config::generate(folder, &options(folder, true)).unwrap();
        assert_eq!(fs::read(folder.join("ca.pem")).unwrap(), authority);
        assert!(known(folder).unwrap().is_empty(), "who was refused is not admitted by what comes later");
        fs::rename(folder.join("safe"), folder.join("ca.key")).unwrap();
        let ada = admit(folder, "ada", None).unwrap();
        assert!(config(folder).contains(&ada.public_key));
    }
}
