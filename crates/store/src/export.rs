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
    folder::{self, Folder, Format},
    keys,
    record::{self, Encoding},
    store::{self, OpenError},
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
    #[error("{} cannot be read or written", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Rows or the file are damaged.
    #[error("{} is damaged: {reason}", .path.display())]
    Damaged {
        /// The file or folder.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The file was written by a newer version.
    #[error("{} has the format {found}, this version reads up to {supported}", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// What this version reads.
        supported: u32,
    },
    /// The target of an import has rows.
    #[error("{} holds a store already", .path.display())]
    NotEmpty {
        /// The target.
        path: PathBuf,
    },
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Open(#[from] OpenError),
    /// The store failed before: what it holds is known only when it is opened again.
    #[error("the store failed and is not touched until it is opened again: {0}")]
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

/// Writes all rows of `db` to `path`, which is there completely or not at all.
pub(crate) fn export(db: &sled::Db, format: &Format, path: &Path) -> Result<Exported, TransferError> {
    let failed = |source| TransferError::Io { path: path.to_owned(), source };
    let temporary = path.with_extension("partial");
    let file = private_file(&temporary).map_err(failed)?;
    let mut out = Hashing { inner: io::BufWriter::new(file), hash: Sha256::new() };
    let head = Head { cortex_store_export: folder::FORMAT, store_id: format.store_id, exported_at: Timestamp::now() };
    write_line(&mut out, &head).map_err(failed)?;
    let mut rows = 0;
    let mut checksum = Sha256::new();
    for row in db.iter() {
        let (key, row) = row.map_err(|error| damaged(path, &error.to_string()))?;
        write_row(&mut out, &key, &row).map_err(|error| match error {
            Ok(source) => failed(source),
            Err(reason) => damaged(path, &reason),
        })?;
        add_row(&mut checksum, &key, &row);
        rows += 1;
    }
    let checksum = hex::encode(checksum.finalize());
    let sha256 = hex::encode(out.hash.clone().finalize());
    write_line(&mut out, &Tail { rows, checksum: checksum.clone(), sha256 }).map_err(failed)?;
    let file = out.inner.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)?;
    path.parent().map_or(Ok(()), folder::sync_folder).map_err(failed)?;
    Ok(Exported { rows, checksum })
}

/// Makes the store in the folder `path` from the export in `file`. A store that is there is refused unless `replace`.
pub(crate) fn import(path: &Path, file: &Path, replace: bool) -> Result<Exported, TransferError> {
    let failed = |source| TransferError::Io { path: path.to_owned(), source };
    let mut folder = Folder::open(path)?;
    if !replace && folder.data().join("db").exists() {
        return Err(TransferError::NotEmpty { path: path.to_owned() });
    }
    let (name, data) = folder.next_data().map_err(failed)?;
    let db = store::open_sled(&data, store::MIN_CACHE)?;
    let imported = read_rows(&db, file)?;
    if checksum(&db)? != imported.checksum {
        return Err(damaged(file, "the rows differ from what was exported"));
    }
    fs::File::open(data.join("db")).and_then(|file| file.sync_all()).map_err(failed)?;
    folder::sync_folder(&data).map_err(failed)?;
    let counters = db.get(keys::COUNTERS).map_err(|error| damaged(path, &error.to_string()))?;
    let counters: Counters = match counters {
        Some(row) => match record::decode_json(keys::COUNTERS, &row) {
            Ok(Ok(counters)) => counters,
            _ => return Err(damaged(file, "its counters cannot be read")),
        },
        None => Counters::default(),
    };
    folder.acknowledge(counters.batches).map_err(failed)?;
    folder.point_at(name).map_err(failed)?;
    drop(db);
    folder.remove_leftovers().map_err(failed)?;
    Ok(imported)
}

/// Copies all rows between databases; their checksum.
pub(crate) fn copy(from: &sled::Db, to: &sled::Db) -> Result<String, TransferError> {
    let mut fill = Fill::new(to);
    let mut checksum = Sha256::new();
    for row in from.iter() {
        let (key, row) = row.map_err(sled_failed)?;
        record::decode(&String::from_utf8_lossy(&key), &row)
            .map_err(|reason| damaged(Path::new(&*String::from_utf8_lossy(&key)), &reason))?;
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
            return Err(damaged(file, "it ends in the middle"));
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
                return Err(damaged(file, "its checksum does not fit its content"));
            }
            return Ok(Exported { rows, checksum });
        } else {
            let row: Line<'_> = parse(file, &line)?;
            let bytes = match (row.json, row.bytes) {
                (Some(json), None) => record::encode(&row.key, Encoding::Json, json.get().as_bytes()),
                (None, Some(text)) => {
                    let body = BASE64_STANDARD.decode(text).map_err(|error| damaged(file, &error.to_string()))?;
                    record::encode(&row.key, Encoding::Bytes, &body)
                }
                // JSON null, which serde takes for nothing.
                (None, None) => record::encode(&row.key, Encoding::Json, b"null"),
                (Some(_), Some(_)) => return Err(damaged(file, "a row has two values")),
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
    let key = std::str::from_utf8(key).map_err(|_| Err(format!("key {key:?} is not text")))?;
    let (encoding, body) = record::decode(key, row).map_err(|reason| Err(format!("record `{key}`: {reason}")))?;
    let mut line = Line { key: key.into(), json: None, bytes: None };
    match encoding {
        Encoding::Json => {
            let json = serde_json::from_slice(body).map_err(|error| Err(format!("record `{key}`: {error}")))?;
            line.json = Some(json);
        }
        Encoding::Bytes => line.bytes = Some(BASE64_STANDARD.encode(body)),
    }
    write_line(out, &line).map_err(Ok)
}

fn parse<'a, T: Deserialize<'a>>(file: &Path, line: &'a str) -> Result<T, TransferError> {
    serde_json::from_str(line).map_err(|error| damaged(file, &error.to_string()))
}

fn add_row(checksum: &mut Sha256, key: &[u8], row: &[u8]) {
    checksum.update((key.len() as u64).to_le_bytes());
    checksum.update(key);
    checksum.update((row.len() as u64).to_le_bytes());
    checksum.update(row);
}

fn private_file(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn damaged(path: &Path, reason: &str) -> TransferError {
    TransferError::Damaged { path: path.to_owned(), reason: reason.to_owned() }
}

fn sled_failed(error: sled::Error) -> TransferError {
    damaged(Path::new("the store"), &error.to_string())
}
