//! Where the server listens on its host: a directory that nobody but the keeper's own user can enter, so that nobody else can
//! answer there; and one for people (`/tmp`), which the server can do without.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixStream;

use crate::error::{Mismatch, PostgresError, Result};
use crate::files::{remove_if_there, sync_parent};
use crate::limit::Limit;
use crate::local::LocalPostgres;
use crate::lock_files::LockFile;
use crate::server::ServerState;

/// Name of our own directory, or of a link to it, in the keeper's directory.
const OWN: &str = "socket";
/// The longest path of a socket, in bytes (unix(7): `sun_path` has 108 with the terminating null byte).
const LONGEST_PATH: usize = 107;
/// Where our own directory is made when the keeper's directory has too long a path, or no sockets: a short path, and a sticky directory,
/// in which nobody can move what is ours.
const SHORT_PARENT: &str = "/tmp";
/// A server that starts writes into its lock file at once.
const LOCK_FILE_GRACE: Duration = Duration::from_secs(2);

impl LocalPostgres {
    /// The directory of the keeper's own socket. While no server was started it may not be there.
    pub fn socket_directory(&self) -> PathBuf {
        if let Some(made) = &*self.inner.sockets.lock() {
            return made.clone();
        }
        let inside = self.own_directory();
        std::fs::read_link(&inside).unwrap_or(inside)
    }

    fn own_directory(&self) -> PathBuf {
        let path = self.inner.options.keeper_directory.join(OWN);
        std::path::absolute(&path).unwrap_or(path)
    }

    fn socket_name(&self) -> String {
        format!(".s.PGSQL.{}", self.inner.options.port)
    }

    /// The directories that the server is to listen in, made and emptied of what a killed one left. Only while none runs in PGDATA.
    pub(crate) fn prepare_sockets(&self) -> Result<Vec<PathBuf>> {
        let own = self.make_own_directory()?;
        self.inner.sockets.lock().replace(own.clone());
        let public = &self.inner.options.public_socket_directory;
        match self.public_directory_is_free(public) {
            Ok(()) => Ok(vec![own, public.clone()]),
            Err(why) => {
                tracing::warn!("PostgreSQL listens on no socket in {}: {why}", public.display());
                Ok(vec![own])
            }
        }
    }

    fn make_own_directory(&self) -> Result<PathBuf> {
        let inside = self.own_directory();
        let directory = match self.known_elsewhere(&inside) {
            Some(known) => known,
            None => match self.made_inside(&inside) {
                Ok(()) => inside,
                Err(why) => {
                    tracing::info!("the keeper's own socket is not in {}: {why}", inside.display());
                    self.linked_directory(&inside)?
                }
            },
        };
        for left in self.names() {
            remove_if_there(&directory.join(left))?;
        }
        Ok(directory)
    }

    /// The names of a server's socket and of its lock file.
    fn names(&self) -> [String; 2] {
        let name = self.socket_name();
        [format!("{name}.lock"), name]
    }

    /// Our own directory in the keeper's directory, if sockets can be there.
    fn made_inside(&self, directory: &Path) -> Result<(), InTheWay> {
        if !self.fits(directory) {
            return Err(InTheWay::PathTooLong);
        }
        if !is_private(directory) {
            remove_whatever(directory)
                .map_err(|error| InTheWay::NotWritable(std::io::Error::other(error)))?;
            // Not recursive: it has to be made by us.
            std::fs::DirBuilder::new().mode(0o700).create(directory).map_err(InTheWay::NotWritable)?;
        }
        let [_, socket] = self.names();
        let socket = directory.join(socket);
        // Some file systems of networks and of containers know no sockets.
        remove_if_there(&socket)
            .map_err(|error| InTheWay::NotWritable(std::io::Error::other(error)))
            .and_then(|_| std::os::unix::net::UnixListener::bind(&socket).map_err(InTheWay::NoSockets))?;
        std::fs::remove_file(&socket).map_err(InTheWay::NotWritable)
    }

    /// The directory behind the link `link`; or, where there could be no link, what this keeper made before.
    fn known_elsewhere(&self, link: &Path) -> Option<PathBuf> {
        let before = self.inner.sockets.lock().clone().filter(|known| known != link);
        let known = std::fs::read_link(link).ok().or(before)?;
        (is_private(&known) && self.fits(&known)).then_some(known)
    }

    /// A directory elsewhere that is ours alone, with a link to it.
    fn linked_directory(&self, link: &Path) -> Result<PathBuf> {
        let made = tempfile::Builder::new()
            .prefix("stolon-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .tempdir_in(SHORT_PARENT)
            .map_err(PostgresError::io("create a directory in", Path::new(SHORT_PARENT)))?;
        let linked = remove_whatever(link)
            .and_then(|()| {
                std::os::unix::fs::symlink(made.path(), link).map_err(PostgresError::io("link", link))
            })
            .and_then(|()| sync_parent(link));
        if let Err(error) = linked {
            // The next keeper makes another one.
            tracing::warn!(
                "only this keeper knows the directory of its socket, {}: {error}",
                made.path().display()
            );
        }
        Ok(made.keep())
    }

    /// PostgreSQL does not start with a socket of a longer path.
    fn fits(&self, directory: &Path) -> bool {
        directory.join(self.socket_name()).as_os_str().len() <= LONGEST_PATH
    }

    /// PostgreSQL goes on without a socket that it cannot bind, but ends at a lock file that it cannot make
    /// (PostgreSQL source, miscinit.c, `CreateLockFile`). So both are looked at beforehand, and what a server that is no more left is removed.
    fn public_directory_is_free(&self, directory: &Path) -> Result<(), InTheWay> {
        let name = self.socket_name();
        if !self.fits(directory) {
            return Err(InTheWay::PathTooLong);
        }
        // A full or read-only disk, a directory that is not there.
        tempfile::tempfile_in(directory)
            .and_then(|mut file| file.write_all(&[b' '; 256]))
            .map_err(InTheWay::NotWritable)?;
        let lock = directory.join(format!("{name}.lock"));
        let socket = directory.join(name);
        for path in [&lock, &socket] {
            let Ok(there) = std::fs::symlink_metadata(path) else { continue };
            if there.uid() != rustix::process::geteuid().as_raw() {
                return Err(InTheWay::OfAnotherUser { path: path.clone(), user: there.uid() });
            }
        }
        match LockFile::read(&lock).map_err(InTheWay::NotWritable)? {
            LockFile::Absent => {}
            LockFile::Empty { age } if age < LOCK_FILE_GRACE => {
                return Err(InTheWay::BeingMade { path: lock });
            }
            LockFile::Held { process } => return Err(InTheWay::InUse { path: lock, process }),
            LockFile::Empty { .. } | LockFile::Stale => {
                tracing::warn!(path = %lock.display(), "removing the lock file of a server that is no more");
                std::fs::remove_file(&lock).map_err(InTheWay::NotWritable)?;
            }
        }
        // PostgreSQL would take the name from a server whose lock file was cleaned away.
        match connect(&socket) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                Ok(())
            }
            Err(error) => Err(InTheWay::NotWritable(error)),
            Ok(stream) => {
                let peer = rustix::net::sockopt::socket_peercred(&stream).ok();
                let process = peer.map_or(0, |peer| peer.pid.as_raw_nonzero().get().unsigned_abs());
                Err(InTheWay::InUse { path: socket, process })
            }
        }
    }

    /// A connection to the server that is our child, and to nobody else: the kernel says who listens (unix(7), `SO_PEERCRED`),
    /// before a byte is sent.
    pub(crate) async fn dial(&self, limit: &Limit) -> Result<UnixStream> {
        let ServerState::Running { pid } = *self.inner.state.borrow() else {
            return Err(PostgresError::NotRunning);
        };
        let path = self.socket_directory().join(self.socket_name());
        let socket = path.clone();
        let dial = move || connect(&socket).map_err(PostgresError::io("connect to PostgreSQL at", &socket));
        let stream = self.look_at_disk("connecting to the local PostgreSQL", limit, dial).await?;
        let stream =
            UnixStream::from_std(stream).map_err(PostgresError::io("connect to PostgreSQL at", &path))?;
        let peer = stream.peer_cred().map_err(PostgresError::io("ask who answers at", &path))?;
        let (us, found) =
            (rustix::process::geteuid().as_raw(), peer.pid().and_then(|pid| u32::try_from(pid).ok()));
        let mismatch = match found {
            _ if peer.uid() != us => Some(Mismatch::User { found: peer.uid(), wanted: us }),
            Some(found) if found == pid => None,
            found => Some(Mismatch::Process { found: found.unwrap_or_default(), wanted: pid }),
        };
        match mismatch {
            Some(mismatch) => Err(PostgresError::Stranger { address: path.display().to_string(), mismatch }),
            None => Ok(stream),
        }
    }
}

/// Why the server cannot have a socket in a directory.
#[derive(Debug, thiserror::Error)]
enum InTheWay {
    #[error("the path is too long")]
    PathTooLong,
    #[error("{0}")]
    NotWritable(std::io::Error),
    #[error("no socket can be made there: {0}")]
    NoSockets(std::io::Error),
    #[error("{} belongs to another user (uid {user})", path.display())]
    OfAnotherUser { path: PathBuf, user: u32 },
    #[error("{} was just made", path.display())]
    BeingMade { path: PathBuf },
    #[error("{} is in use by process {process}", path.display())]
    InUse { path: PathBuf, process: u32 },
}

/// Connects without waiting for anything but the disk of the path: where nobody takes connections the line is soon full.
fn connect(path: &Path) -> std::io::Result<std::os::unix::net::UnixStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// A directory, not a link to one, that is ours and that nobody else can enter.
fn is_private(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|there| {
        there.is_dir() && there.uid() == rustix::process::geteuid().as_raw() && there.mode() & 0o077 == 0
    })
}

fn remove_whatever(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => {
            std::fs::remove_dir_all(path).map_err(PostgresError::io("remove", path))
        }
        _ => remove_if_there(path).map(|_| ()),
    }
}
