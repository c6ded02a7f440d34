//! Export and import: JSON lines with a checksum, for backups, for moving to another format, and for compaction.
//!
//! Secrets leave as the age ciphertext that they are: an export needs the key file or the recovery key to be of use.

use std::{
    fs, io,
    io::{BufRead, Write},
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    apply::Counters,
    export_file::ExportFile,
    folder::{self, Folder},
    keys,
    opening::{self, OpenError, remedy, restoring},
    record::{self, Encoding},
};

/// Bytes between two flushes while importing (crates.md, trap 1).
const BATCH_BYTES: usize = 4 << 20;

/// What an export or import moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Number of rows.
    pub rows: u64,
    /// SHA-256 over all rows; equal for stores with equal content.
    pub checksum: String,
}

/// Why an export, import or compaction failed; the store in use is as it was.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A file cannot be read or written.
    #[error("{} cannot be read or written ({})", .path.display(), remedy(.source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What an export, compaction or new key would be made of is damaged, or what was made of it.
    #[error("{what} is damaged: {reason}; `cortexctl store verify` says what else is")]
    Damaged {
        /// The row, or what holds it.
        what: String,
        /// What does not fit.
        reason: String,
    },
    /// A file is no export, or was changed since it was made.
    #[error("export {} is damaged: {reason}; nothing was changed: import another export", .path.display())]
    DamagedExport {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// An export may not become this file.
    #[error("an export cannot be written to {}: {reason}", .path.display())]
    Target {
        /// The file.
        path: PathBuf,
        /// Why not, and what to name instead.
        reason: String,
    },
    /// The file was written by a newer version.
    #[error(
        "export {} has the format {found}, this version reads up to {supported}: import it with the version that wrote it \
         or a newer one, or take an export that this version or an older one made",
        .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// What this version reads.
        supported: u32,
    },
    /// The target of an import has rows.
    #[error("{} holds a store already: {} gives it up for the export", .path.display(), restoring(.path))]
    NotEmpty {
        /// The target.
        path: PathBuf,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed before: what it holds is known only when it is opened again.
    #[error("the store failed and is not touched until its daemon is started again: {0}")]
    Failed(String),
    /// The writer is gone.
    #[error("the store is closed")]
    Closed,
}

#[derive(Serialize, Deserialize)]
struct Head {
    cortex_store_export: u32,
    store_id: Uuid,
    exported_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(rename = "k")]
    key: std::borrow::Cow<'a, str>,
    #[serde(rename = "j", default, skip_serializing_if = "Option::is_none", borrow)]
    json: Option<&'a RawValue>,
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Tail {
    rows: u64,
    checksum: String,
    /// Of all bytes before this line.
    sha256: String,
}

/// Writes all rows of `db`, which the store in `folder` has open, to `path`, which is there completely or not at all.
pub(crate) fn export(db: &sled::Db, folder: &Folder, path: &Path) -> Result<Exported, TransferError> {
    let failed = |source| TransferError::Io { path: path.to_owned(), source };
    let mut target = ExportFile::create(path, &folder.path)?;
    let mut out = Hashing { inner: io::BufWriter::new(target.file()), hash: Sha256::new() };
    let store_id = folder.format.store_id;
    let head = Head { cortex_store_export: folder::FORMAT, store_id, exported_at: Timestamp::now() };
    write_line(&mut out, &head).map_err(failed)?;
    let mut rows = 0;
    let mut checksum = Sha256::new();
    for row in db.iter() {
        let (key, row) = row.map_err(sled_failed)?;
        write_row(&mut out, &key, &row).map_err(|error| match error {
            Ok(source) => failed(source),
            Err(reason) => damaged(&format!("record `{}`", String::from_utf8_lossy(&key).escape_debug()), &reason),
        })?;
        add_row(&mut checksum, &key, &row);
        rows += 1;
    }
    let checksum = hex::encode(checksum.finalize());
    let sha256 = hex::encode(out.hash.clone().finalize());
    write_line(&mut out, &Tail { rows, checksum: checksum.clone(), sha256 }).map_err(failed)?;
    out.flush().map_err(failed)?;
    drop(out);
    target.put_in_place()?;
    Ok(Exported { rows, checksum })
}

/// Makes the store in the folder `path` from the export in `file`. A store that is there is refused unless `replace`.
pub(crate) fn import(path: &Path, file: &Path, replace: bool) -> Result<Exported, TransferError> {
    let failed = |source| TransferError::Io { path: path.to_owned(), source };
    let mut folder = Folder::open_to_replace(path)?;
    if !replace && !folder.is_vacant()? {
        return Err(TransferError::NotEmpty { path: path.to_owned() });
    }
    let (name, data) = folder.next_data().map_err(failed)?;
    let filled = fill(path, &data, file);
    if filled.is_err() {
        folder::remove_tree(&data).map_err(failed)?;
    }
    let (imported, counters) = filled?;
    folder.begin_at(counters.batches).map_err(failed)?;
    folder.point_at(name).map_err(failed)?;
    folder.remove_leftovers().map_err(failed)?;
    Ok(imported)
}

/// Makes the data of the store `path` in a folder of its own, proves and syncs it.
fn fill(path: &Path, data: &Path, file: &Path) -> Result<(Exported, Counters), TransferError> {
    let failed = |source| TransferError::Io { path: path.to_owned(), source };
    let db = opening::open_sled(path, data, opening::MIN_CACHE)?;
    let imported = read_rows(&db, file)?;
    if checksum(&db)? != imported.checksum {
        return Err(bad_export(file, "the rows differ from what was exported"));
    }
    fs::File::open(data.join("db")).and_then(|file| file.sync_all()).map_err(failed)?;
    folder::sync_folder(data).map_err(failed)?;
    let counters = match db.get(keys::COUNTERS).map_err(sled_failed)? {
        Some(row) => match record::decode_json(keys::COUNTERS, &row) {
            Ok(Ok(counters)) => counters,
            _ => return Err(bad_export(file, "its counters cannot be read")),
        },
        None => Counters::default(),
    };
    Ok((imported, counters))
}

/// Copies all rows between databases; their checksum.
pub(crate) fn copy(from: &sled::Db, to: &sled::Db) -> Result<String, TransferError> {
    let mut fill = Fill::new(to);
    let mut checksum = Sha256::new();
    for row in from.iter() {
        let (key, row) = row.map_err(sled_failed)?;
        record::decode(&String::from_utf8_lossy(&key), &row).map_err(|reason| {
            damaged(&format!("record `{}`", String::from_utf8_lossy(&key).escape_debug()), &reason)
        })?;
        add_row(&mut checksum, &key, &row);
        fill.put(&key, &row)?;
    }
    fill.finish()?;
    Ok(hex::encode(checksum.finalize()))
}

/// SHA-256 over all rows.
pub(crate) fn checksum(db: &sled::Db) -> Result<String, TransferError> {
    let mut checksum = Sha256::new();
    for row in db.iter() {
        let (key, row) = row.map_err(sled_failed)?;
        add_row(&mut checksum, &key, &row);
    }
    Ok(hex::encode(checksum.finalize()))
}

fn read_rows(db: &sled::Db, file: &Path) -> Result<Exported, TransferError> {
    let failed = |source| TransferError::Io { path: file.to_owned(), source };
    let mut lines = io::BufReader::new(fs::File::open(file).map_err(failed)?);
    let mut hash = Sha256::new();
    let mut checksum = Sha256::new();
    let mut fill = Fill::new(db);
    let mut rows = 0_u64;
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line).map_err(failed)? == 0 {
            return Err(bad_export(file, "it ends in the middle"));
        }
        if rows == 0 && line.starts_with(r#"{"cortex_store_export""#) {
            let head: Head = parse(file, &line)?;
            if head.cortex_store_export > folder::FORMAT {
                let (found, supported) = (head.cortex_store_export, folder::FORMAT);
                return Err(TransferError::Newer { path: file.to_owned(), found, supported });
            }
        } else if line.starts_with(r#"{"rows""#) {
            let tail: Tail = parse(file, &line)?;
            fill.finish()?;
            let checksum = hex::encode(checksum.finalize());
            if tail.rows != rows || tail.checksum != checksum || tail.sha256 != hex::encode(hash.finalize()) {
                return Err(bad_export(file, "its checksum does not fit its content"));
            }
            return Ok(Exported { rows, checksum });
        } else {
            let row: Line<'_> = parse(file, &line)?;
            let bytes = match (row.json, row.bytes) {
                (Some(json), None) => record::encode(&row.key, Encoding::Json, json.get().as_bytes()),
                (None, Some(text)) => {
                    let body = BASE64_STANDARD.decode(text).map_err(|error| bad_export(file, &error.to_string()))?;
                    record::encode(&row.key, Encoding::Bytes, &body)
                }
                // JSON null, which serde takes for nothing.
                (None, None) => record::encode(&row.key, Encoding::Json, b"null"),
                (Some(_), Some(_)) => return Err(bad_export(file, "a row has two values")),
            };
            add_row(&mut checksum, row.key.as_bytes(), &bytes);
            fill.put(row.key.as_bytes(), &bytes)?;
            rows += 1;
        }
        hash.update(line.as_bytes());
    }
}

/// Fills a database in batches of bounded size, flushed one by one.
pub(crate) struct Fill<'a> {
    db: &'a sled::Db,
    batch: sled::Batch,
    bytes: usize,
}

impl<'a> Fill<'a> {
    pub(crate) fn new(db: &'a sled::Db) -> Self {
        Self { db, batch: sled::Batch::default(), bytes: 0 }
    }

    pub(crate) fn put(&mut self, key: &[u8], row: &[u8]) -> Result<(), TransferError> {
        self.batch.insert(key, row);
        self.bytes += key.len() + row.len();
        if self.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), TransferError> {
        self.bytes = 0;
        self.db.apply_batch(std::mem::take(&mut self.batch)).map_err(sled_failed)?;
        self.db.flush().map(drop).map_err(sled_failed)
    }

    pub(crate) fn finish(mut self) -> Result<(), TransferError> {
        self.flush()
    }
}

struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn write_line<T: Serialize>(out: &mut impl Write, value: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    out.write_all(&line)
}

/// `Err(Ok)` is an I/O error, `Err(Err)` a damaged row.
fn write_row(out: &mut impl Write, key: &[u8], row: &[u8]) -> Result<(), Result<io::Error, String>> {
    let key = std::str::from_utf8(key).map_err(|_| Err("its key is not text".to_owned()))?;
    let (encoding, body) = record::decode(key, row).map_err(Err)?;
    let mut line = Line { key: key.into(), json: None, bytes: None };
    match encoding {
        Encoding::Json => {
            let json = serde_json::from_slice(body).map_err(|error| Err(error.to_string()))?;
            line.json = Some(json);
        }
        Encoding::Bytes => line.bytes = Some(BASE64_STANDARD.encode(body)),
    }
    write_line(out, &line).map_err(Ok)
}

fn parse<'a, T: Deserialize<'a>>(file: &Path, line: &'a str) -> Result<T, TransferError> {
    serde_json::from_str(line).map_err(|error| bad_export(file, &error.to_string()))
}

fn add_row(checksum: &mut Sha256, key: &[u8], row: &[u8]) {
    checksum.update((key.len() as u64).to_le_bytes());
    checksum.update(key);
    checksum.update((row.len() as u64).to_le_bytes());
    checksum.update(row);
}

fn damaged(what: &str, reason: &str) -> TransferError {
    TransferError::Damaged { what: what.to_owned(), reason: reason.to_owned() }
}

fn bad_export(path: &Path, reason: &str) -> TransferError {
    TransferError::DamagedExport { path: path.to_owned(), reason: reason.to_owned() }
}

fn sled_failed(error: sled::Error) -> TransferError {
    match error {
        sled::Error::Io(source) if !opening::is_damage(&source) => {
            TransferError::Io { path: PathBuf::from("the store"), source }
        }
        error => damaged("the store", &error.to_string()),
    }
}
