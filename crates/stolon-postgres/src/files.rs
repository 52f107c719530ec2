//! Files that a crash leaves whole, and files that hold secrets.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{PostgresError, Result};

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// It had this content already.
    Unchanged,
    /// It was replaced.
    Replaced,
}

static COUNTER: AtomicU64 = AtomicU64::new(0);

fn unique() -> String {
    format!("{}.{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// Replaces `path` by a file with `content`, mode 0600, so that a crash leaves the old or the new one.
/// A regular file with that content already only loses the rights of others.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<Written> {
    let file = std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_file);
    if let Some(metadata) = file
        && std::fs::read(path).is_ok_and(|old| old == content)
        && is_made_private(path, &metadata)
    {
        return Ok(Written::Unchanged);
    }
    let mut name = path.as_os_str().to_owned();
    name.push(unique());
    let temporary = PathBuf::from(name);
    let written = write_new(&temporary, content)
        .and_then(|file| file.sync_all())
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(PostgresError::io("write", path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    sync_parent(path)?;
    Ok(Written::Replaced)
}

/// libpq ignores a file of passwords that others may read.
fn is_made_private(path: &Path, metadata: &std::fs::Metadata) -> bool {
    metadata.permissions().mode() & 0o777 == 0o600
        || std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).is_ok()
}

fn write_new(path: &Path, content: &[u8]) -> std::io::Result<std::fs::File> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Makes a rename, creation or removal in the directory of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    std::fs::File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(PostgresError::io("sync", parent))
}

/// Removes a file; it is fine when there is none.
pub(crate) fn remove_if_there(path: &Path) -> Result<Written> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(Written::Replaced),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Written::Unchanged),
        Err(error) => Err(PostgresError::io("remove", path)(error)),
    }
}

/// A directory with mode 0700, made anew or emptied of what a killed process left.
pub(crate) fn fresh_private_directory(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(PostgresError::io("remove", path)(error)),
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(PostgresError::io("create", path))
}

/// The last lines of the newest file in a directory, passwords masked; none when there is no such thing.
pub(crate) fn last_lines(directory: &Path) -> Vec<String> {
    use std::io::{Read, Seek, SeekFrom};
    const BYTES: i64 = 16 * 1024;
    let newest = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .max();
    let Some(mut file) = newest.and_then(|(_, path)| std::fs::File::open(path).ok()) else {
        return Vec::new();
    };
    let mut bytes = Vec::new();
    // A shorter file is read from its start.
    let _ = file.seek(SeekFrom::End(-BYTES));
    if file.read_to_end(&mut bytes).is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    text.lines().map(|line| crate::explain::mask_passwords(line).into_owned()).collect()
}

/// A file that only we can read, in a directory that only we can enter; gone with this value.
#[derive(Debug)]
pub(crate) struct SecretFile {
    path: PathBuf,
}

impl SecretFile {
    pub(crate) fn new(directory: &Path, content: &str) -> Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(PostgresError::io("create", directory))?;
        let path = directory.join(unique());
        write_new(&path, content.as_bytes()).map_err(PostgresError::io("write", &path))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        let remove = move || _ = std::fs::remove_file(path);
        // The disk may hang. What is left the next keeper removes.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_file_loses_the_rights_of_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pass");
        write_atomically(&path, b"secret").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(write_atomically(&path, b"secret").unwrap(), Written::Unchanged);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
