//! How a folder becomes an open store, and what to do where it does not.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    apply::Counters,
    folder::{FORMAT, Folder},
    keys, record,
    seal::{KeyError, Sealer},
    writer,
};

pub(crate) const MIN_CACHE: u64 = 4 << 20;
const MAX_CACHE: u64 = 64 << 20;
/// Larger items leave sled's log for files that it never syncs (crates.md, trap 2); cannot be changed later.
const SEGMENT: usize = 4 << 20;

/// Why a store cannot be opened, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "store {} is in use by {holder}: stop that first; a daemon that runs is asked with `--of` instead of `--folder`",
        .path.display()
    )]
    InUse {
        /// The store.
        path: PathBuf,
        /// Process id and name, as far as it is known.
        holder: String,
    },
    /// It was written by a newer version.
    #[error(
        "store {} has the format {found}, this version reads up to {supported}: install the version that wrote it, or put \
         an export that this version or an older one made in its place with {}",
        .path.display(), restoring(.path)
    )]
    Newer {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// What this version reads.
        supported: u32,
    },
    /// The folder holds something else.
    #[error(
        "{} is not a store: {reason}; if it was one, {} restores the last export, if not, name another folder",
        .path.display(), restoring(.path)
    )]
    NotAStore {
        /// The folder.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// Its data is damaged.
    #[error("store {} is damaged ({reason}): {} restores the last export", .path.display(), restoring(.path))]
    Damaged {
        /// The store.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// Commits that were acknowledged are not on the disk: it was rolled back or damaged.
    #[error(
        "store {} lost what it had acknowledged ({}): {} restores the last export, {} goes on without what is lost",
        .path.display(), extent(*.acknowledged, *.found), restoring(.path), accepting(.path)
    )]
    Lost {
        /// The store.
        path: PathBuf,
        /// The last batch that was acknowledged; `None` where that cannot be told and nothing at all is there.
        acknowledged: Option<u64>,
        /// The last batch that is there.
        found: u64,
    },
    /// The key file does not fit.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A file cannot be read or written.
    #[error("store {} cannot be read or written ({})", .path.display(), remedy(.source))]
    Io {
        /// The store.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The command that puts an export in the place of a store.
pub(crate) fn restoring(path: &Path) -> String {
    format!("`cortexctl store import --folder {} --replace FILE`", path.display())
}

/// The command that lets a store go on without what it lost.
fn accepting(path: &Path) -> String {
    format!("`cortexctl store accept-loss --folder {}`", path.display())
}

fn extent(acknowledged: Option<u64>, found: u64) -> String {
    match acknowledged {
        Some(acknowledged) => format!("batch {acknowledged}, found {found}"),
        None => "it holds nothing, and its file `acknowledged` cannot be read".to_owned(),
    }
}

/// What to do about an error of the file system.
pub(crate) fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "see whether the path is right and its disk mounted",
        io::ErrorKind::PermissionDenied => {
            "run this as the user that owns it, or give it to the user that runs this with `chown -R`"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on its file system, which `df` shows",
        io::ErrorKind::ReadOnlyFilesystem => "mount its file system for writing",
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => "move away what stands in its place",
        _ => {
            "see what `dmesg` says of the disk; `cortexctl store import` makes a store of the last export on a sound one"
        }
    }
}

/// Opens sled; on a damaged snapshot once more without it (reliability.md 4, start-up recipe).
pub(crate) fn open_recovering(folder: &Folder, cache_bytes: u64) -> Result<sled::Db, OpenError> {
    let data = folder.data();
    match open_sled(&folder.path, &data, cache_bytes) {
        Err(OpenError::Damaged { reason, .. })
            if folder
                .quarantine_snapshots()
                .map_err(|source| OpenError::Io { path: folder.path.clone(), source })? =>
        {
            tracing::warn!(reason, "opening the store again without its snapshots");
            open_sled(&folder.path, &data, cache_bytes)
        }
        result => result,
    }
}

/// Opens what keeps the rows of the store `path`, in its folder `data`.
pub(crate) fn open_sled(path: &Path, data: &Path, cache_bytes: u64) -> Result<sled::Db, OpenError> {
    let config = sled::Config::new()
        .path(data)
        .segment_size(SEGMENT)
        .cache_capacity(cache_bytes.clamp(MIN_CACHE, MAX_CACHE))
        .flush_every_ms(Some(500));
    let give_up = Instant::now() + Duration::from_secs(2);
    loop {
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.clone().open()));
        let damaged = |reason: String| OpenError::Damaged { path: path.to_owned(), reason };
        match opened {
            Ok(Ok(db)) => return Ok(db),
            // The folder's lock is ours, so this is a reader of our own process that is about to go.
            Ok(Err(sled::Error::Io(error))) if is_locked(&error) => {
                if Instant::now() > give_up {
                    let holder = "this process (a reader is still open)".to_owned();
                    return Err(OpenError::InUse { path: path.to_owned(), holder });
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(Err(sled::Error::Io(source))) if !is_damage(&source) => {
                return Err(OpenError::Io { path: path.to_owned(), source });
            }
            Ok(Err(error)) => return Err(damaged(error.to_string())),
            Err(_) => return Err(damaged("sled panicked while opening it".to_owned())),
        }
    }
}

fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

/// Whether sled says this of bytes that it has read, and not the operating system of a file.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    error.raw_os_error().is_none() && matches!(error.kind(), UnexpectedEof | InvalidData | InvalidInput | Other)
}

/// What the store says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) format: u32,
    pub(crate) created_at: Timestamp,
    /// Everyone whose key opens secrets of this store.
    pub(crate) recipients: Vec<String>,
}

impl Default for Meta {
    fn default() -> Self {
        Self { format: FORMAT, created_at: Timestamp::now(), recipients: Vec::new() }
    }
}

/// What a store that is not new says of itself.
pub(crate) fn read_meta(path: &Path, db: &sled::Db) -> Result<Option<Meta>, OpenError> {
    let known: Option<Meta> = read_own(path, db, keys::FORMAT)?;
    match known {
        Some(meta) if meta.format > FORMAT => {
            Err(OpenError::Newer { path: path.to_owned(), found: meta.format, supported: FORMAT })
        }
        known => Ok(known),
    }
}

/// What was found in a store that may be used.
pub(crate) struct Checked {
    pub(crate) counters: Counters,
    /// What cannot be told of it.
    pub(crate) doubt: Option<String>,
}

/// Whether the rows are all there, readable to this version and its key; then the store knows who can open its secrets.
pub(crate) fn check(folder: &mut Folder, db: &sled::Db, sealer: Option<&Sealer>) -> Result<Checked, OpenError> {
    let meta = read_meta(&folder.path, db)?;
    if let (Some(meta), Some(sealer)) = (&meta, sealer)
        && !meta.recipients.is_empty()
        && !meta.recipients.contains(&sealer.public())
    {
        return Err(KeyError::Wrong { given: sealer.public(), sealed_for: meta.recipients.clone() }.into());
    }
    let checked = check_counters(folder, db, meta.as_ref())?;
    let recipients = sealer.map(Sealer::recipients).unwrap_or_default();
    keep_meta(&folder.path, db, meta, recipients)?;
    Ok(checked)
}

fn keep_meta(path: &Path, db: &sled::Db, known: Option<Meta>, recipients: Vec<String>) -> Result<(), OpenError> {
    let damaged = |reason: String| OpenError::Damaged { path: path.to_owned(), reason };
    let is_new = known.is_none();
    let mut meta = known.unwrap_or_default();
    let before = meta.recipients.len();
    for recipient in recipients {
        if !meta.recipients.contains(&recipient) {
            meta.recipients.push(recipient);
        }
    }
    if is_new || meta.recipients.len() > before {
        let row = record::encode_json(keys::FORMAT, &meta).map_err(|error| damaged(error.to_string()))?;
        db.insert(keys::FORMAT, row).and_then(|_| db.flush()).map_err(|error| match error {
            sled::Error::Io(source) if !is_damage(&source) => OpenError::Io { path: path.to_owned(), source },
            error => damaged(error.to_string()),
        })?;
    }
    Ok(())
}

/// The counters, after comparing them with what was acknowledged: sled takes damage in its log for its end.
pub(crate) fn check_counters(folder: &mut Folder, db: &sled::Db, meta: Option<&Meta>) -> Result<Checked, OpenError> {
    let path = folder.path.clone();
    let io_failed = |source| OpenError::Io { path: path.clone(), source };
    let counters: Counters = read_own(&path, db, keys::COUNTERS)?.unwrap_or_default();
    let found = counters.batches;
    let acknowledged = folder.acknowledged().map_err(io_failed)?;
    // A store has a watermark before it has a row.
    if acknowledged.map_or(meta.is_none(), |acknowledged| found < acknowledged) {
        return Err(OpenError::Lost { path, acknowledged, found });
    }
    let doubt = acknowledged.is_none().then(|| {
        format!(
            "file `acknowledged` of store {} was damaged and is written anew: whether commits had been lost before cannot be \
             told; `cortexctl store verify` reads what is there",
            path.display()
        )
    });
    if let Some(doubt) = &doubt {
        tracing::warn!("{doubt}");
    }
    folder.begin_at(found).map_err(io_failed)?;
    Ok(Checked { counters, doubt })
}

/// What a store goes on without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// The last batch that was acknowledged, as far as that is known.
    pub acknowledged: Option<u64>,
    /// The last batch that is there.
    pub found: u64,
}

/// Lets the store in the folder `path` be opened although it lost what it had acknowledged ([`OpenError::Lost`]); where
/// nothing is lost nothing changes. The folder must belong to no running process.
pub fn accept_loss(path: &Path) -> Result<Loss, OpenError> {
    let io_failed = |source| OpenError::Io { path: path.to_owned(), source };
    let mut folder = Folder::open_existing(path)?;
    let db = open_recovering(&folder, MIN_CACHE)?;
    read_meta(path, &db)?;
    let counters: Counters = read_own(path, &db, keys::COUNTERS)?.unwrap_or_default();
    let acknowledged = folder.acknowledged().map_err(io_failed)?;
    folder.begin_at(counters.batches).map_err(io_failed)?;
    Ok(Loss { acknowledged, found: counters.batches })
}

fn read_own<T: serde::de::DeserializeOwned>(path: &Path, db: &sled::Db, key: &str) -> Result<Option<T>, OpenError> {
    let damaged = |reason: String| OpenError::Damaged { path: path.to_owned(), reason };
    let row = writer::guarded(|| db.get(key).map_err(crate::draft::storage));
    match row.map_err(|error| damaged(error.to_string()))? {
        None => Ok(None),
        Some(row) => match record::decode_json(key, &row) {
            Ok(Ok(value)) => Ok(Some(value)),
            Ok(Err(error)) => Err(damaged(format!("record `{key}`: {error}"))),
            Err(reason) => Err(damaged(format!("record `{key}`: {reason}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, Store};

    #[test]
    fn rows_of_a_newer_format_are_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let options = || Options { min_free_bytes: 0, ..Options::default() };
        Store::open(folder.path(), options()).unwrap().close_blocking();
        let put = |format: u32| {
            let row = record::encode_json(keys::FORMAT, &Meta { format, ..Meta::default() }).unwrap();
            let db = open_sled(folder.path(), &folder.path().join("data-1"), MIN_CACHE).unwrap();
            db.insert(keys::FORMAT, row).unwrap();
            db.flush().unwrap();
        };
        put(FORMAT + 1);
        let error = Store::open(folder.path(), options()).unwrap_err();
        assert!(matches!(error, OpenError::Newer { found, supported: FORMAT, .. } if found == FORMAT + 1), "{error}");
        assert!(error.to_string().contains(&restoring(folder.path())), "{error}");
        let error = accept_loss(folder.path()).unwrap_err();
        assert!(matches!(error, OpenError::Newer { .. }), "{error}");
        put(FORMAT);
        Store::open(folder.path(), options()).unwrap().close_blocking();
    }
}
