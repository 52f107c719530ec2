//! The files in a keeper's data directory (docs: "Files in a keeper's data directory"). A keeper of either kind
//! can take the directory over from the other.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use stolon_core::keeper::{Predecessor, StateFile};
use stolon_model::{BootUuid, Document, InstanceState, KeeperState, Parameters, Pledge, Served};
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
        let refuse = |cause: &dyn std::fmt::Display, hint: &str| {
            let shown = path.display().to_string();
            UsageError::new(format!("cannot take exclusive lock on data dir {shown:?}: {cause}")).hint(hint)
        };
        let not_ours = "the user that runs the keeper must own --data-dir and be able to write there";
        let taken = "another keeper works in this directory; give each its own --data-dir";
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            // What a link leads to is none of ours.
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .map_err(|error| refuse(&error, not_ours))?;
        rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(
            |errno| match errno {
                rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS => {
                    refuse(&"resource temporarily unavailable", taken)
                }
                other => refuse(&other, "is --data-dir on a file system that supports locks?"),
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
        /// Error of the operating system.
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
        /// Error of the operating system.
        cause: std::io::Error,
    },
}

/// A keeper's data directory, without PostgreSQL's below it.
#[derive(Clone, Debug)]
pub(crate) struct KeeperDirectory {
    path: PathBuf,
}

impl KeeperDirectory {
    const KEEPER: &str = "keeperstate";
    const INSTANCE: &str = "dbstate";
    const PROVEN: &str = "proven-parameters.json";
    const SERVED: &str = "served.json";
    const BOOT: &str = "boot";
    const PLEDGED: &str = "pledged";

    pub(crate) fn new(path: &Path) -> Self {
        KeeperDirectory { path: path.to_owned() }
    }

    /// Who the keeper is; none before the first one.
    pub(crate) fn keeper(&self) -> Result<Option<KeeperState>, StateFileError> {
        load(&self.path.join(Self::KEEPER))
    }

    /// Which instance lies here.
    pub(crate) fn instance(&self) -> Result<Option<InstanceState>, StateFileError> {
        load(&self.path.join(Self::INSTANCE))
    }

    /// The highest point that a keeper served at from here.
    pub(crate) fn served(&self) -> Result<Option<Served>, StateFileError> {
        load(&self.path.join(Self::SERVED))
    }

    /// What an earlier keeper may have pledged until now.
    pub(crate) fn pledged(&self) -> Result<Option<Pledge>, StateFileError> {
        load(&self.path.join(Self::PLEDGED))
    }

    /// The parameters that PostgreSQL last came up with; a file that cannot be read proves nothing.
    pub(crate) fn proven(&self) -> Option<Parameters> {
        serde_json::from_slice(&std::fs::read(self.path.join(Self::PROVEN)).ok()?).ok()
    }

    /// Who reported last from here.
    pub(crate) fn predecessor(&self) -> Result<Predecessor, StateFileError> {
        let path = self.path.join(Self::BOOT);
        match std::fs::read_to_string(&path) {
            Ok(boot) => Ok(Predecessor::Boot(BootUuid::from(boot.trim()))),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                match self.path.join(Self::KEEPER).exists() {
                    true => Ok(Predecessor::Unknown),
                    false => Ok(Predecessor::None),
                }
            }
            Err(cause) => Err(StateFileError::Read { path, cause }),
        }
    }

    /// Replaces a file so that a crash leaves the old content or the new one, flushed.
    pub(crate) fn save(&self, file: &StateFile) -> Result<(), StateFileError> {
        let (name, content) = match file {
            StateFile::Instance(state) => (Self::INSTANCE, state.to_json()),
            StateFile::Keeper(state) => (Self::KEEPER, state.to_json()),
            StateFile::Proven(parameters) => {
                (Self::PROVEN, serde_json::to_string(parameters).unwrap_or_default())
            }
            StateFile::Served(served) => (Self::SERVED, served.to_json()),
            StateFile::Boot(boot) => (Self::BOOT, boot.to_string()),
            StateFile::Pledged(pledge) => (Self::PLEDGED, pledge.to_json()),
        };
        let path = self.path.join(name);
        replace(&path, content.as_bytes()).map_err(|cause| StateFileError::Write { path, cause })
    }
}

/// An absent file is `None`.
fn load<D: Document>(path: &Path) -> Result<Option<D>, StateFileError> {
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

fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    // A predecessor with our process id may have left one; a link that lies there goes, not what it leads to.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
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
    use stolon_model::GoDuration;

    use super::*;

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

    #[test]
    fn a_data_directory_knows_who_reported_from_it() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = KeeperDirectory::new(temporary.path());
        assert_eq!(directory.predecessor().unwrap(), Predecessor::None);
        directory.save(&StateFile::Keeper(KeeperState::default())).unwrap();
        assert_eq!(directory.predecessor().unwrap(), Predecessor::Unknown, "a directory of Stolon");
        directory.save(&StateFile::Boot("a".into())).unwrap();
        assert_eq!(directory.predecessor().unwrap(), Predecessor::Boot("a".into()));
    }

    #[test]
    fn what_is_saved_is_found_again() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = KeeperDirectory::new(temporary.path());
        assert_eq!((directory.instance().unwrap(), directory.served().unwrap()), (None, None));
        let mut served = Served::default();
        (served.epoch, served.generation) = (7, 3);
        directory.save(&StateFile::Served(served.clone())).unwrap();
        assert_eq!(directory.served().unwrap(), Some(served));
        let proven: Parameters = [("work_mem".to_owned(), "4MB".to_owned())].into_iter().collect();
        directory.save(&StateFile::Proven(proven.clone())).unwrap();
        assert_eq!(directory.proven(), Some(proven));
        assert_eq!(directory.pledged().unwrap(), None);
        let pledge = Pledge { term: GoDuration::from_seconds(15) };
        directory.save(&StateFile::Pledged(pledge.clone())).unwrap();
        assert_eq!(directory.pledged().unwrap(), Some(pledge));
    }

    /// A power failure leaves the old content or the new one, not an empty file, and not the old name: what is written is flushed before
    /// it gets its name, and the directory after that. The kernel's calls are those of [`what_is_saved_is_found_again`].
    #[test]
    fn what_is_saved_is_flushed_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let trace = directory.path().join("trace");
        let strace = std::process::Command::new("strace")
            .args(["-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", "-o"])
            .arg(&trace)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "state_files::tests::what_is_saved_is_found_again"])
            .output()
            .expect("strace runs (apt-get install strace)");
        assert!(strace.status.success(), "{}", String::from_utf8_lossy(&strace.stdout));
        let trace = std::fs::read_to_string(&trace).unwrap();
        let calls: Vec<&str> = trace.lines().filter(|line| line.ends_with(" = 0")).collect();
        let renames: Vec<usize> = (0..calls.len()).filter(|at| calls[*at].contains("rename")).collect();
        assert_eq!(renames.len(), 3, "served, proven, pledged: {trace}");
        for at in renames {
            let mut paths = calls[at].split('"').skip(1).step_by(2);
            let (temporary, path) = (paths.next().unwrap(), Path::new(paths.next().unwrap()));
            let flushed = |at: usize, path: &str| {
                calls
                    .get(at)
                    .is_some_and(|call| call.contains("fsync(") && call.contains(&format!("<{path}>")))
            };
            assert!(flushed(at - 1, temporary), "{temporary} gets its name before it is flushed: {trace}");
            let parent = path.parent().unwrap().display().to_string();
            assert!(flushed(at + 1, &parent), "{parent} is not flushed after {path:?} is there: {trace}");
        }
    }

    #[test]
    fn no_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = directory.path().join("elsewhere");
        std::fs::write(&elsewhere, "theirs").unwrap();
        let path = directory.path().join("keeperstate");
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        std::os::unix::fs::symlink(&elsewhere, &temporary).unwrap();
        replace(&path, b"ours").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "ours");
        assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "theirs");
        std::os::unix::fs::symlink(&elsewhere, directory.path().join("lock")).unwrap();
        assert!(DataDirectoryLock::take(directory.path()).is_err());
    }

    #[test]
    fn a_file_that_cannot_be_written_says_which_and_why() {
        let directory = KeeperDirectory::new(Path::new("/dev/null"));
        let error = directory.save(&StateFile::Boot("a".into())).unwrap_err();
        assert!(error.to_string().starts_with("cannot write /dev/null/boot: "), "{error}");
    }
}
