//! The files in a keeper's data directory (docs: "Files in a keeper's data directory"). A keeper of either kind
//! can take the directory over from the other.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use stolon_runtime::UsageError;

/// The lock on a data directory; the kernel gives it back when the process ends.
///
/// A POSIX record lock, which Stolon takes too; it is lost when *any* descriptor of the file is closed, hence the
/// file is opened nowhere else.
#[derive(Debug)]
pub struct DataDirectoryLock {
    _file: File,
}

impl DataDirectoryLock {
    /// Take the lock, at once or not at all.
    ///
    /// # Errors
    /// Another process has it, or the file cannot be opened.
    pub fn take(data_dir: &Path) -> Result<Self, UsageError> {
        let path = data_dir.join("lock");
        let refuse = |cause: &dyn std::fmt::Display| {
            UsageError::new(format!(
                "cannot take exclusive lock on data dir {:?}: {cause}",
                path.display().to_string()
            ))
            .hint("another keeper works in this directory; give each its own --data-dir")
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .map_err(|error| refuse(&error))?;
        rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(
            |errno| match errno {
                rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS => {
                    refuse(&"resource temporarily unavailable")
                }
                other => refuse(&other),
            },
        )?;
        tracing::info!("exclusive lock on data dir taken");
        Ok(DataDirectoryLock { _file: file })
    }
}

/// A state file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// The file is there but cannot be read.
    #[error("cannot read {path}: {cause}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file holds something else.
    #[error("{path} does not hold what a keeper writes there: {cause}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        cause: stolon_model::DecodeError,
    },
    /// The file holds `null`.
    #[error("{path} holds null instead of what a keeper writes there")]
    Null {
        /// Which file.
        path: PathBuf,
    },
    /// The file cannot be replaced; the old one is still there.
    #[error("cannot write {path}: {cause}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
}

/// Read a document; an absent file is `None`.
///
/// # Errors
/// The file is there but cannot be read, or holds something else.
pub fn load<D: stolon_model::Document>(path: &Path) -> Result<Option<D>, StateFileError> {
    match std::fs::read_to_string(path) {
        // A document of the store may be null; a file that says nothing was not written by a keeper, and what stood there is lost.
        Ok(text) if text.trim() == "null" => Err(StateFileError::Null { path: path.to_owned() }),
        Ok(text) => D::from_json(&text)
            .map(Some)
            .map_err(|cause| StateFileError::Parse { path: path.to_owned(), cause }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(StateFileError::Read { path: path.to_owned(), cause }),
    }
}

/// Replace a file by a document so that a crash leaves the old one or the new one.
///
/// # Errors
/// The disk is full, read-only, or not there.
pub fn store<D: stolon_model::Document>(path: &Path, document: &D) -> Result<(), StateFileError> {
    replace(path, document.to_json().as_bytes())
        .map_err(|cause| StateFileError::Write { path: path.to_owned(), cause })
}

/// Replace a file so that a crash leaves the old content or the new one.
pub(crate) fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        // The error that counts is the one above.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use stolon_model::InstanceState;

    #[test]
    fn only_a_file_that_is_not_there_is_absent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dbstate");
        assert_eq!(load::<InstanceState>(&path).unwrap(), None);
        for text in ["null", " null\n", "", "[]", "{"] {
            std::fs::write(&path, text).unwrap();
            assert!(load::<InstanceState>(&path).is_err(), "{text:?}");
        }
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(load::<InstanceState>(&path).unwrap(), Some(InstanceState::default()));
    }
}
