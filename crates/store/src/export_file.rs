//! The file that an export becomes: a new one for its owner alone, never in place of another.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::{export::TransferError, folder};

const TAKEN: &str =
    "something is there, and an export never takes the place of anything; name a file that does not exist";

/// Written beside the place that it will have; gone when dropped before.
pub(crate) struct ExportFile {
    path: PathBuf,
    temporary: PathBuf,
    file: fs::File,
}

impl ExportFile {
    /// Begins the file `path`. Links are followed to its folder only.
    pub(crate) fn create(path: &Path) -> Result<Self, TransferError> {
        let refused = |reason: String| TransferError::Target { path: path.to_owned(), reason };
        let failed = |source| TransferError::Io { path: path.to_owned(), source };
        let name = path.file_name().ok_or_else(|| refused("it names no file".to_owned()))?;
        if path.symlink_metadata().is_ok() {
            return Err(refused(TAKEN.to_owned()));
        }
        let folder = folder_of(path).canonicalize().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                refused("its folder does not exist on this machine; make it first".to_owned())
            }
            _ => failed(error),
        })?;
        if !folder.is_dir() {
            return Err(refused("its folder is none".to_owned()));
        }
        let temporary = folder.join(format!(".{}.partial", Uuid::now_v7()));
        let file = create_private(&temporary).map_err(failed)?;
        Ok(Self { path: folder.join(name), temporary, file })
    }

    /// To write into.
    pub(crate) fn file(&mut self) -> &mut fs::File {
        &mut self.file
    }

    /// Makes it durable and gives it its name, unless that was taken meanwhile.
    pub(crate) fn put_in_place(self) -> Result<(), TransferError> {
        let failed = |source| TransferError::Io { path: self.path.clone(), source };
        self.file.sync_all().map_err(failed)?;
        match self.name() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(TransferError::Target { path: self.path.clone(), reason: TAKEN.to_owned() });
            }
            named => named.map_err(failed)?,
        }
        folder::sync_folder(folder_of(&self.path)).map_err(failed)
    }

    /// A link, unlike a renamed file, takes no other's place; where there are no links the name is taken first.
    fn name(&self) -> io::Result<()> {
        match fs::hard_link(&self.temporary, &self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                create_private(&self.path)?;
                fs::rename(&self.temporary, &self.path)
            }
            linked => linked,
        }
    }
}

impl Drop for ExportFile {
    fn drop(&mut self) {
        match fs::remove_file(&self.temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, file = %self.temporary.display(), "what is left of an export cannot be removed");
            }
            _ => {}
        }
    }
}

/// Whether the file `path` would lie below `folder`, wherever links lead.
pub(crate) fn is_below(path: &Path, folder: &Path) -> bool {
    let of = (folder_of(path).canonicalize(), folder.canonicalize());
    matches!(&of, (Ok(path), Ok(folder)) if path.starts_with(folder))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder.as_os_str() != OsStr::new("") => folder,
        _ => Path::new("."),
    }
}

fn create_private(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
