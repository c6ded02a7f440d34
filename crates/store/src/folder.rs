//! The store's folder: one owner, a format file that names the data folder, the watermark of what was acknowledged.
//!
//! ```text
//! lock           held exclusively while open; holds the owner's process id
//! format.json    format version and the name of the data folder; replacing it is what swaps a compacted store in
//! acknowledged   number of the last batch that was durable before anybody was told
//! data-1/        sled
//! quarantine/    damaged snapshots that were moved aside
//! ```

use std::{
    fs, io,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::opening::OpenError;

/// The newest folder format that this code reads and writes.
pub(crate) const FORMAT: u32 = 1;

const FORMAT_FILE: &str = "format.json";
const WATERMARK: &str = "acknowledged";
const DATA: &str = "data-";

/// What `format.json` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Format {
    /// Version of the folder and of the rows in it.
    pub(crate) format: u32,
    /// What keeps the rows.
    pub(crate) engine: String,
    /// Who created it.
    pub(crate) created_by: String,
    /// Tells stores apart.
    pub(crate) store_id: Uuid,
    /// The data folder in use.
    pub(crate) data: String,
}

/// A folder that this process owns until it is dropped.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    watermark: fs::File,
    _lock: Held,
}

/// A lock on a file. It is given up by word: closing the file would leave it to a program that is being started by another
/// thread, for as long as that has copies of all files of this process.
struct Held(fs::File);

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::debug!(%error, "the store's lock goes with its file");
        }
    }
}

impl Folder {
    /// Takes the folder, creating it where nothing is, and removes what interrupted work left behind.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let lock = take(path)?;
        let format = match read_format(path)? {
            Some(format) => format,
            None => create_format(path)?,
        };
        let folder = Self::with(path, format, lock)?;
        folder.remove_leftovers().map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok(folder)
    }

    /// [`open`](Self::open) where a store is.
    pub(crate) fn open_existing(path: &Path) -> Result<Self, OpenError> {
        if path.join(FORMAT_FILE).exists() {
            return Self::open(path);
        }
        Err(OpenError::NotAStore { path: path.to_owned(), reason: format!("it has no {FORMAT_FILE}") })
    }

    /// Takes a folder whose store is to be replaced, whatever is the matter with that, or where none is. There is no other
    /// store before [`point_at`](Self::point_at).
    pub(crate) fn open_to_replace(path: &Path) -> Result<Self, OpenError> {
        let lock = take(path)?;
        let format = match read_format(path) {
            Ok(Some(format)) => format,
            Ok(None) => new_format(0),
            Err(OpenError::NotAStore { .. } | OpenError::Newer { .. }) => {
                let newest = data_folders(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
                new_format(newest.into_iter().max().unwrap_or(0))
            }
            Err(error) => return Err(error),
        };
        Self::with(path, format, lock)
    }

    /// Whether there is no store that could be lost.
    pub(crate) fn is_vacant(&self) -> Result<bool, OpenError> {
        Ok(read_format(&self.path)?.is_none_or(|format| !self.path.join(format.data).join("db").exists()))
    }

    fn with(path: &Path, format: Format, lock: Held) -> Result<Self, OpenError> {
        let watermark = open_private(&path.join(WATERMARK));
        let watermark = watermark.map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), format, watermark, _lock: lock })
    }

    /// The data folder in use.
    pub(crate) fn data(&self) -> PathBuf {
        self.path.join(&self.format.data)
    }

    /// The data folder that a compacted store goes to; empty.
    pub(crate) fn next_data(&self) -> io::Result<(String, PathBuf)> {
        let name = format!("{DATA}{}", data_number(&self.format.data).unwrap_or(0) + 1);
        let path = self.path.join(&name);
        remove_tree(&path)?;
        Ok((name, path))
    }

    /// Prepares that `data` becomes the folder in use; nothing has changed when it fails.
    pub(crate) fn prepare_move(&self, data: String) -> io::Result<Move> {
        let format = Format { data, ..self.format.clone() };
        let text = written(&format)?;
        Ok(Move { format, staged: Staged::write(&self.path.join(FORMAT_FILE), &text)? })
    }

    /// Makes a prepared data folder the one in use, atomically; the old one stays until [`Self::remove_leftovers`]. When it
    /// fails, only the next open shows which of the two is in use.
    pub(crate) fn move_to(&mut self, prepared: Move) -> io::Result<()> {
        prepared.staged.put_in_place()?;
        self.format = prepared.format;
        Ok(())
    }

    /// Makes `data` the folder in use where nobody else works on the store.
    pub(crate) fn point_at(&mut self, data: String) -> io::Result<()> {
        let prepared = self.prepare_move(data)?;
        self.move_to(prepared)
    }

    /// Records that batch number `batches` is durable. Not synced: it may lag behind, never run ahead.
    pub(crate) fn acknowledge(&mut self, batches: u64) -> io::Result<()> {
        self.watermark.seek(SeekFrom::Start(0))?;
        self.watermark.write_all(&watermark(batches))
    }

    /// The same, whatever the file held before.
    pub(crate) fn begin_at(&mut self, batches: u64) -> io::Result<()> {
        self.acknowledge(batches)?;
        self.watermark.set_len(WATERMARK_BYTES as u64)
    }

    /// The number of the last batch that was acknowledged; `None` where the file that says so is damaged or missing.
    pub(crate) fn acknowledged(&mut self) -> io::Result<Option<u64>> {
        let mut row = Vec::new();
        self.watermark.seek(SeekFrom::Start(0))?;
        self.watermark.read_to_end(&mut row)?;
        let batches = row.first_chunk().map(|batches| u64::from_le_bytes(*batches));
        Ok(batches.filter(|batches| row == watermark(*batches)))
    }

    /// A kill during open leaves `snap.*.generating`, which sled takes for a damaged snapshot (reliability.md 0.1).
    /// A kill during a compaction leaves a data folder that is not in use.
    pub(crate) fn remove_leftovers(&self) -> io::Result<()> {
        for number in data_folders(&self.path)? {
            let name = format!("{DATA}{number}");
            if name != self.format.data {
                tracing::info!(folder = %name, "removing a data folder that is not in use");
                remove_tree(&self.path.join(name))?;
            }
        }
        for snapshot in snapshots(&self.data())? {
            if snapshot.extension().is_some_and(|extension| extension == "generating") {
                tracing::info!(file = %snapshot.display(), "removing a snapshot that was never finished");
                fs::remove_file(snapshot)?;
            }
        }
        Ok(())
    }

    /// Moves sled's snapshots aside, so that it rebuilds from its log; whether there were any.
    pub(crate) fn quarantine_snapshots(&self) -> io::Result<bool> {
        let found = snapshots(&self.data())?;
        if found.is_empty() {
            return Ok(false);
        }
        let folder = self.path.join("quarantine").join(Uuid::now_v7().to_string());
        fs::create_dir_all(&folder)?;
        for snapshot in found {
            if let Some(name) = snapshot.file_name() {
                tracing::warn!(file = %snapshot.display(), "moving a damaged snapshot aside");
                fs::rename(&snapshot, folder.join(name))?;
            }
        }
        sync_folder(&self.data())?;
        Ok(true)
    }
}

fn snapshots(data: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => {
            let paths = entries?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
            let is_snapshot =
                |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap."));
            Ok(paths.into_iter().filter(is_snapshot).collect())
        }
    }
}

/// Takes the folder for this process, creating it where nothing is.
fn take(path: &Path) -> Result<Held, OpenError> {
    let failed = |source| OpenError::Io { path: path.to_owned(), source };
    fs::create_dir_all(path).map_err(failed)?;
    let file = path.join("lock");
    let mut lock = open_private(&file).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&file).unwrap_or_default();
            let holder = if holder.trim().is_empty() { "another process".to_owned() } else { holder.trim().to_owned() };
            return Err(OpenError::InUse { path: path.to_owned(), holder });
        }
        Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
    }
    let name = std::env::current_exe().ok().and_then(|exe| Some(exe.file_name()?.to_string_lossy().into_owned()));
    let owner = format!("process {} ({})\n", std::process::id(), name.as_deref().unwrap_or("unknown"));
    lock.set_len(0).and_then(|()| lock.write_all(owner.as_bytes())).map_err(failed)?;
    Ok(Held(lock))
}

fn read_format(path: &Path) -> Result<Option<Format>, OpenError> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let failed = |source| OpenError::Io { path: path.to_owned(), source };
    let unreadable = |reason: String| OpenError::NotAStore { path: path.to_owned(), reason };
    let text = match fs::read(path.join(FORMAT_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return if data_folders(path).map_err(failed)?.is_empty() {
                Ok(None)
            } else {
                Err(unreadable(format!("it holds data but no {FORMAT_FILE}")))
            };
        }
        text => text.map_err(failed)?,
    };
    let version: Version =
        serde_json::from_slice(&text).map_err(|error| unreadable(format!("{FORMAT_FILE} is damaged: {error}")))?;
    if version.format > FORMAT {
        return Err(OpenError::Newer { path: path.to_owned(), found: version.format, supported: FORMAT });
    }
    let format: Format =
        serde_json::from_slice(&text).map_err(|error| unreadable(format!("{FORMAT_FILE} is damaged: {error}")))?;
    let Some(number) = data_number(&format.data) else {
        return Err(unreadable(format!("{FORMAT_FILE} names no data folder")));
    };
    // What it does not name is removed as left over: it must not be taken at its word when that is all there is.
    let there = data_folders(path).map_err(failed)?;
    if !there.is_empty() && !there.contains(&number) {
        return Err(unreadable(format!(
            "{FORMAT_FILE} names {}, which is not there, while other data is",
            format.data
        )));
    }
    Ok(Some(format))
}

/// The number in the name of a data folder.
fn data_number(name: &str) -> Option<u64> {
    let number = name.strip_prefix(DATA)?.parse().ok()?;
    (name == format!("{DATA}{number}")).then_some(number)
}

/// Numbers of the data folders that are there.
fn data_folders(path: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            numbers.extend(data_number(&entry.file_name().to_string_lossy()));
        }
    }
    Ok(numbers)
}

fn new_format(data: u64) -> Format {
    Format {
        format: FORMAT,
        engine: "sled 0.34".to_owned(),
        created_by: concat!("store ", env!("CARGO_PKG_VERSION")).to_owned(),
        store_id: Uuid::now_v7(),
        data: format!("{DATA}{data}"),
    }
}

/// Makes a store of a folder without one. Its watermark comes first: a store without it has lost it.
fn create_format(path: &Path) -> Result<Format, OpenError> {
    let format = new_format(1);
    let put = begin_watermark(&path.join(WATERMARK))
        .and_then(|()| written(&format))
        .and_then(|text| replace_file(&path.join(FORMAT_FILE), &text));
    put.map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
    Ok(format)
}

/// One that is there stays: what was acknowledged may have been lost with the rest.
fn begin_watermark(path: &Path) -> io::Result<()> {
    let mut file = open_private(path)?;
    if file.metadata()?.len() == 0 {
        file.write_all(&watermark(0))?;
        file.sync_all()?;
    }
    Ok(())
}

const WATERMARK_BYTES: usize = 12;

/// What the file `acknowledged` holds: a number and its checksum.
fn watermark(batches: u64) -> [u8; WATERMARK_BYTES] {
    let mut row = [0; WATERMARK_BYTES];
    row[..8].copy_from_slice(&batches.to_le_bytes());
    let crc = crc32c::crc32c(&row[..8]);
    row[8..].copy_from_slice(&crc.to_le_bytes());
    row
}

fn written(format: &Format) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(format)?;
    text.push(b'\n');
    Ok(text)
}

/// Another data folder that is about to be the one in use.
pub(crate) struct Move {
    format: Format,
    staged: Staged,
}

/// The new content of a file, durable beside it.
struct Staged {
    path: PathBuf,
    temporary: PathBuf,
}

impl Staged {
    fn write(path: &Path, content: &[u8]) -> io::Result<Self> {
        let temporary = path.with_extension("new");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        Ok(Self { path: path.to_owned(), temporary })
    }

    fn put_in_place(self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.path)?;
        self.path.parent().map_or(Ok(()), sync_folder)
    }
}

/// Writes a file so that after a crash either the old or the new content is there.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    Staged::write(path, content)?.put_in_place()
}

pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    fs::File::open(path)?.sync_all()
}

pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Opens for reading and writing, creating it for its owner alone.
fn open_private(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
