//! The directory of a playground: one that the operator named and that is kept, or a temporary one.

use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};
use stolon_local::{Account, LOGS, kill_tree, running_in};
use stolon_runtime::{Failure, UsageError, explained, new_uid8};

use super::{Args, as_user};

/// The directory of a playground. Its lock is held as long as this lives.
pub struct Home {
    /// Absolute path.
    pub directory: PathBuf,
    /// Where the programs are.
    pub programs: PathBuf,
    keeping: Keeping,
    _lock: std::fs::File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeping {
    /// Named by the operator.
    Kept,
    /// Removed at the end.
    Temporary,
}

/// Whether the logs may be needed after the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All went well.
    Orderly,
    /// Something went wrong.
    Failed,
}

impl Home {
    /// Make the directory or take the one that is there. As root, this starts the program anew as another user.
    ///
    /// # Errors
    /// The directory cannot be made, or another playground works in it.
    pub async fn prepare(args: &Args) -> anyhow::Result<Home> {
        let keeping = if args.data_dir.is_some() { Keeping::Kept } else { Keeping::Temporary };
        let directory = match (&args.prepared_directory, &args.data_dir) {
            (Some(prepared), _) => prepared.clone(),
            (None, Some(named)) => std::path::absolute(named)?,
            (None, None) => std::env::temp_dir().join(format!("stolon-playground-{}", new_uid8())),
        };
        let account = Account::for_postgresql().map_err(|error| Failure::from(explained(&error)))?;
        account.make_directory(&directory).map_err(|error| {
            UsageError::new(format!("{error:#}")).hint("name a directory that can be made with --data-dir")
        })?;
        std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .with_context(|| format!("{} is not ours", directory.display()))?;
        if let Account::Other { name, .. } = &account {
            let never = as_user::restart(&account, name, &directory).await;
            if keeping == Keeping::Temporary {
                // Nothing runs in it yet.
                let _ = std::fs::remove_dir_all(&directory);
            }
            match never? {}
        }
        let lock = take_lock(&directory)?;
        Ok(Home { directory, programs: own_programs()?, keeping, _lock: lock })
    }

    /// Kill every process that still works here, and remove a temporary directory; after a failure the logs stay.
    pub async fn tidy_up(self, ending: Ending) {
        if !running_in(&self.directory).is_empty() {
            let killed = kill_tree(None, &self.directory).await;
            eprintln!("{killed} processes that did not end by themselves were killed");
        }
        let removed = match (self.keeping, ending) {
            (Keeping::Kept, _) => {
                eprintln!("kept: {}", self.directory.display());
                Ok(())
            }
            (Keeping::Temporary, Ending::Failed) if has_logs(&self.directory) => {
                eprintln!("the logs are left in {}", self.directory.join(LOGS).display());
                remove_all_but_logs(&self.directory)
            }
            (Keeping::Temporary, _) => std::fs::remove_dir_all(&self.directory),
        };
        if let Err(error) = removed {
            eprintln!("{} could not be removed: {error}", self.directory.display());
        }
    }

    /// True when the directory stays.
    pub fn is_kept(&self) -> bool {
        self.keeping == Keeping::Kept
    }
}

/// The directory that this program lies in: the others lie beside it.
pub fn own_programs() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("the path of this program is unknown")?;
    Ok(own.parent().unwrap_or(Path::new("/")).to_path_buf())
}

fn has_logs(directory: &Path) -> bool {
    std::fs::read_dir(directory.join(LOGS)).is_ok_and(|mut logs| logs.next().is_some())
}

fn remove_all_but_logs(directory: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let removed = match entry.file_type()?.is_dir() {
            true if entry.file_name() == LOGS => Ok(()),
            true => std::fs::remove_dir_all(entry.path()),
            false => std::fs::remove_file(entry.path()),
        };
        // The store removes files of its own when it is closed.
        removed.or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
    }
    Ok(())
}

fn take_lock(directory: &Path) -> anyhow::Result<std::fs::File> {
    let path = directory.join("playground.lock");
    let lock = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("{} cannot be opened", path.display()))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(UsageError::new(format!("another playground works in {}", directory.display()))
            .hint("stop it, or name another --data-dir")
            .into());
    }
    Ok(lock)
}
