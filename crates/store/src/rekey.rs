//! Seals every secret again for other keys: in a copy of the data that takes the place of the old one at once.
//!
//! Killed at any moment the store has either its old data, sealed for the old keys, or the new: what decides is the one
//! replacement of `format.json`, after the copy was read back and fsynced.

use std::{fs, io, path::Path};

use secrecy::{ExposeSecret, SecretSlice};
use serde::Serialize;

use crate::{
    apply::SecretHead,
    export::{Fill, TransferError},
    folder::{self, Folder},
    keys,
    opening::{self, Meta, OpenError},
    record::{self, Encoding, VALUE_CAP},
    seal::{KeyError, Sealer},
};

/// From which keys to which.
#[derive(Clone, Copy, Debug)]
pub struct Rekey<'a> {
    /// A key file that opens the secrets: the daemon's, or the recovery key.
    pub old_key: &'a Path,
    /// The key file that opens them from now on.
    pub new_key: &'a Path,
    /// Who else can open them from now on.
    pub recovery: Recovery<'a>,
}

/// Who can open the secrets when the key file is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery<'a> {
    /// Whoever holds the key of this recipient (`age1…`), which is kept offline.
    Recipient(&'a str),
    /// Nobody.
    Nobody,
    /// Not said; refused where somebody else than the old key could open them.
    Unsaid,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rekeyed {
    /// Number of secrets, each generation counted.
    pub secrets: u64,
    /// Public keys of everyone who can open them now.
    pub sealed_for: Vec<String>,
}

/// Why nothing was changed: the store is as it was, sealed for the old keys.
#[derive(Debug, thiserror::Error)]
pub enum RekeyError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A key file cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The copy cannot be made.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The old key does not open a secret, or it could not be sealed again.
    #[error("generation {generation} of secret `{name}` cannot be sealed again: {reason}")]
    Secret {
        /// Its name.
        name: String,
        /// Which generation.
        generation: u64,
        /// Why.
        reason: String,
    },
    /// Nobody said who is to open the secrets besides.
    #[error("the secrets can also be opened by {}; say whether a recovery recipient is to stay", .0.join(", "))]
    Unsaid(Vec<String>),
    /// Old and new key are the same.
    #[error("the new key is the old one")]
    SameKey,
}

/// Seals every secret of the store in the folder `path` again. The folder must belong to no running process.
pub fn rekey(path: &Path, how: Rekey<'_>) -> Result<Rekeyed, RekeyError> {
    let old = Sealer::load(how.old_key, None)?;
    let recovery = if let Recovery::Recipient(recipient) = how.recovery { Some(recipient) } else { None };
    let new = Sealer::load(how.new_key, recovery)?;
    if old.public() == new.public() {
        return Err(RekeyError::SameKey);
    }
    let mut folder = Folder::open_existing(path)?;
    let from = opening::open_recovering(&folder, opening::MIN_CACHE)?;
    let known = opening::read_meta(path, &from)?;
    opening::check_counters(&mut folder, &from, known.as_ref())?;
    let meta = known.unwrap_or_default();
    check_recipients(&meta, &old, how.recovery)?;

    let io_failed = |source: io::Error| TransferError::Io { path: path.to_owned(), source };
    let (name, data) = folder.next_data().map_err(io_failed)?;
    let to = opening::open_sled(path, &data, opening::MIN_CACHE)?;
    let meta = Meta { recipients: new.recipients(), ..meta };
    copy(&from, &to, &meta, Keys { old: &old, new: &new })?;
    let secrets = prove(&from, &to, Keys { old: &old, new: &new })?;
    fs::File::open(data.join("db")).and_then(|file| file.sync_all()).map_err(io_failed)?;
    folder::sync_folder(&data).map_err(io_failed)?;
    folder.point_at(name).map_err(io_failed)?;
    drop((from, to));
    folder.remove_leftovers().map_err(io_failed)?;
    Ok(Rekeyed { secrets, sealed_for: meta.recipients })
}

#[derive(Clone, Copy)]
struct Keys<'a> {
    old: &'a Sealer,
    new: &'a Sealer,
}

fn check_recipients(meta: &Meta, old: &Sealer, recovery: Recovery<'_>) -> Result<(), RekeyError> {
    let (given, sealed_for) = (old.public(), meta.recipients.clone());
    if !sealed_for.is_empty() && !sealed_for.contains(&given) {
        return Err(KeyError::Wrong { given, sealed_for }.into());
    }
    let others: Vec<String> = sealed_for.into_iter().filter(|recipient| *recipient != given).collect();
    if recovery == Recovery::Unsaid && !others.is_empty() {
        return Err(RekeyError::Unsaid(others));
    }
    Ok(())
}

/// All rows as they are, but the secrets sealed again and the store's own word on who can open them.
fn copy(from: &sled::Db, to: &sled::Db, meta: &Meta, keys: Keys<'_>) -> Result<(), RekeyError> {
    let mut fill = Fill::new(to);
    for row in from.iter() {
        let (key, row) = text_row(row)?;
        record::decode(&key, &row).map_err(|reason| damaged(&key, &reason))?;
        if !is_own(&key) {
            fill.put(key.as_bytes(), &row)?;
        }
    }
    for head in heads(from)? {
        let (name, mut head) = head;
        for (generation, parts) in &mut head.parts {
            let failed = |reason: String| RekeyError::Secret { name: name.clone(), generation: *generation, reason };
            let plain = open(from, keys.old, &name, *generation, *parts).map_err(failed)?;
            let sealed = keys.new.seal(&name, &plain).map_err(failed)?;
            let prefix = keys::secret_parts(&name, *generation);
            *parts = 0;
            for chunk in sealed.chunks(VALUE_CAP) {
                let key = keys::part(&prefix, *parts);
                fill.put(key.as_bytes(), &record::encode(&key, Encoding::Bytes, chunk))?;
                *parts += 1;
            }
        }
        put_json(&mut fill, &keys::secret_head(&name), &head)?;
    }
    put_json(&mut fill, keys::FORMAT, meta)?;
    Ok(fill.finish()?)
}

/// Reads the copy back: every other row is the same, every secret opens with the new key to what it was.
fn prove(from: &sled::Db, to: &sled::Db, keys: Keys<'_>) -> Result<u64, RekeyError> {
    let count = |db: &sled::Db| db.iter().keys().flatten().filter(|key| !is_own(&String::from_utf8_lossy(key))).count();
    for row in from.iter() {
        let (key, row) = text_row(row)?;
        let copied = to.get(&key).map_err(|error| damaged(&key, &error.to_string()))?;
        if !is_own(&key) && copied.as_deref() != Some(row.as_slice()) {
            return Err(damaged(&key, "its copy differs").into());
        }
    }
    if count(from) != count(to) {
        return Err(damaged("the copy", "it has more rows than the store").into());
    }
    let (before, after) = (heads(from)?, heads(to)?);
    if before.len() != after.len() {
        return Err(damaged("the copy", "it has another number of secrets").into());
    }
    let mut secrets = 0;
    for ((name, old), (_, new)) in before.iter().zip(&after) {
        for ((generation, parts), new_parts) in old.parts.iter().zip(new.parts.values()) {
            let failed = |reason: String| RekeyError::Secret { name: name.clone(), generation: *generation, reason };
            let was = open(from, keys.old, name, *generation, *parts).map_err(failed)?;
            let is = open(to, keys.new, name, *generation, *new_parts).map_err(failed)?;
            if was.expose_secret() != is.expose_secret() || old.generation != new.generation {
                return Err(failed("its copy differs".to_owned()));
            }
            secrets += 1;
        }
    }
    Ok(secrets)
}

/// Rows that are written anew.
fn is_own(key: &str) -> bool {
    key == keys::FORMAT || key.starts_with(keys::SECRET_HEAD) || key.starts_with(keys::SECRET_PART)
}

fn heads(db: &sled::Db) -> Result<Vec<(String, SecretHead)>, TransferError> {
    let mut found = Vec::new();
    for row in db.scan_prefix(keys::SECRET_HEAD) {
        let (key, row) = text_row(row)?;
        let head = match record::decode_json::<SecretHead>(&key, &row) {
            Ok(Ok(head)) => head,
            Ok(Err(error)) => return Err(damaged(&key, &error.to_string())),
            Err(reason) => return Err(damaged(&key, &reason)),
        };
        found.push((key.strip_prefix(keys::SECRET_HEAD).unwrap_or(&key).to_owned(), head));
    }
    Ok(found)
}

fn open(db: &sled::Db, with: &Sealer, name: &str, generation: u64, parts: usize) -> Result<SecretSlice<u8>, String> {
    let prefix = keys::secret_parts(name, generation);
    let mut sealed = Vec::new();
    for index in 0..parts {
        let key = keys::part(&prefix, index);
        let row = db.get(&key).map_err(|error| error.to_string())?.ok_or("a part of it is missing")?;
        sealed.extend_from_slice(record::decode(&key, &row)?.1);
    }
    with.open(name, &sealed)
}

fn put_json<T: Serialize>(fill: &mut Fill<'_>, key: &str, value: &T) -> Result<(), TransferError> {
    let row = record::encode_json(key, value).map_err(|error| damaged(key, &error.to_string()))?;
    fill.put(key.as_bytes(), &row)
}

fn text_row(row: sled::Result<(sled::IVec, sled::IVec)>) -> Result<(String, Vec<u8>), TransferError> {
    let (key, row) = row.map_err(|error| damaged("the store", &error.to_string()))?;
    let key = String::from_utf8(key.to_vec()).map_err(|_| damaged("a key", "it is not text"))?;
    Ok((key, row.to_vec()))
}

fn damaged(what: &str, reason: &str) -> TransferError {
    TransferError::Damaged { what: what.to_owned(), reason: reason.to_owned() }
}
