//! The file that an export becomes: a new one for its owner alone, never in place of another.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::{export::TransferError, folder};

const TAKEN: &str =
    "something is there, and an export never takes the place of anything; name a file that does not exist";

/// Written beside the place that it will have; gone when dropped before.
pub(crate) struct ExportFile {
    path: PathBuf,
    temporary: NamedTempFile,
}

impl ExportFile {
    /// Begins the file `path`, which may not lie in the folder of the store, `own`: the store could take it for its own.
    /// Links are followed to its folder only.
    pub(crate) fn create(path: &Path, own: &Path) -> Result<Self, TransferError> {
        let refused = |reason: &str| TransferError::Target { path: path.to_owned(), reason: reason.to_owned() };
        let failed = |source| TransferError::Io { path: path.to_owned(), source };
        let name = path.file_name().ok_or_else(|| refused("it names no file"))?;
        let folder = folder_of(path).canonicalize().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                refused("its folder does not exist on this machine; make it first")
            }
            _ => failed(error),
        })?;
        if !folder.is_dir() {
            return Err(refused("its folder is none"));
        }
        if own.canonicalize().is_ok_and(|own| folder.starts_with(own)) {
            return Err(refused("it would lie in the folder of the store; name another folder"));
        }
        if path.symlink_metadata().is_ok() {
            return Err(refused(TAKEN));
        }
        let temporary = tempfile::Builder::new().prefix(".").suffix(".partial").tempfile_in(&folder).map_err(failed)?;
        Ok(Self { path: folder.join(name), temporary })
    }

    /// To write into.
    pub(crate) fn file(&mut self) -> &mut fs::File {
        self.temporary.as_file_mut()
    }

    /// Makes it durable and gives it its name, unless that was taken meanwhile.
    pub(crate) fn put_in_place(self) -> Result<(), TransferError> {
        let failed = |source| TransferError::Io { path: self.path.clone(), source };
        self.temporary.as_file().sync_all().map_err(failed)?;
        self.temporary.persist_noclobber(&self.path).map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => TransferError::Target { path: self.path.clone(), reason: TAKEN.to_owned() },
            _ => failed(error.error),
        })?;
        folder::sync_folder(folder_of(&self.path)).map_err(failed)
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder.as_os_str() != OsStr::new("") => folder,
        _ => Path::new("."),
    }
}
