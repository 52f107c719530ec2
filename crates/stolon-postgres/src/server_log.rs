//! The log of a server: a FIFO in the keeper's directory, so that the server goes on writing when its keeper has ended, and the next
//! keeper reads what was written meanwhile (docs/design/011-keeper-upgrade.md).

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags};
use rustix::pipe::PipeFlags;
use tokio::net::unix::pipe::Receiver;

use crate::error::{PostgresError, Result};
use crate::files::remove_if_there;
use crate::local::LocalPostgres;

/// Name of the FIFO in the keeper's directory.
const NAME: &str = "server-log";
/// What is kept while nobody reads. Best effort: the system may set a lower limit.
const PIPE_BYTES: usize = 1 << 20;

/// Both ends of the log of a server that is about to be started.
pub(crate) struct LogEnds {
    /// For the server: its standard error.
    pub(crate) server: OwnedFd,
    /// For us.
    pub(crate) keeper: OwnedFd,
}

impl LocalPostgres {
    pub(crate) fn log_fifo(&self) -> PathBuf {
        self.inner.options.keeper_directory.join(NAME)
    }

    /// Makes the log of the next server. Where there can be no FIFO, or somebody else reads it, a pipe takes its place: such a server cannot
    /// be taken over by the next keeper. May wait for the disk.
    pub(crate) fn open_log(&self) -> Result<LogEnds> {
        let fifo = self.log_fifo();
        open_fifo(&fifo).or_else(|error| {
            tracing::warn!(%error, fifo = %fifo.display(), "no FIFO for PostgreSQL's log: it will not outlive this keeper");
            anonymous().map_err(|error| PostgresError::Io {
                what: "cannot make a pipe for PostgreSQL's log".to_owned(),
                source: error,
            })
        })
    }
}

/// The server's end is open for reading, too: as long as it lives there is a reader, and nobody gets `EPIPE` (fifo(7)). It never waits: what
/// finds the pipe full is lost, and PostgreSQL goes on.
fn open_fifo(path: &Path) -> std::io::Result<LogEnds> {
    if !is_private_fifo(path) {
        remove_if_there(path).map_err(std::io::Error::other)?;
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    }
    // Only a reader that finds a writer does not find the end at once.
    let server = open(path, OFlags::RDWR)?;
    let keeper = open_reader(path)?;
    Ok(LogEnds { server, keeper })
}

fn anonymous() -> std::io::Result<LogEnds> {
    let (keeper, server) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&keeper, true)?;
    widen(&keeper);
    Ok(LogEnds { server, keeper })
}

/// The end for reading, of which there is one: two readers would each get a part of every line.
///
/// # Errors
/// Somebody has it ([`ErrorKind::WouldBlock`]), or it is no FIFO of ours.
pub(crate) fn open_reader(path: &Path) -> std::io::Result<OwnedFd> {
    if !is_private_fifo(path) {
        return Err(ErrorKind::NotFound.into());
    }
    let reader = open(path, OFlags::RDONLY)?;
    rustix::fs::flock(&reader, FlockOperation::NonBlockingLockExclusive)?;
    widen(&reader);
    Ok(reader)
}

fn open(path: &Path, access: OFlags) -> std::io::Result<OwnedFd> {
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn widen(pipe: impl AsFd) {
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_BYTES);
}

fn is_private_fifo(path: &Path) -> bool {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    std::fs::symlink_metadata(path).is_ok_and(|there| {
        let is_ours = there.uid() == rustix::process::geteuid().as_raw() && there.mode() & 0o077 == 0;
        there.file_type().is_fifo() && is_ours
    })
}

/// What comes out of it. Inside a runtime.
pub(crate) fn receiver(keeper: OwnedFd) -> Result<Receiver> {
    Receiver::from_owned_fd(keeper)
        .map_err(|source| PostgresError::Io { what: "cannot read PostgreSQL's log".to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn text(end: &OwnedFd) -> String {
        let mut buffer = [0; 4096];
        let read = std::fs::File::from(end.try_clone().unwrap()).read(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..read]).into_owned()
    }

    #[test]
    fn what_is_written_while_nobody_reads_is_there_for_the_next_reader() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "something else").unwrap();
        let LogEnds { server, keeper } = open_fifo(&path).unwrap();
        let mut server = std::fs::File::from(server);
        server.write_all(b"one\n").unwrap();
        assert_eq!(text(&keeper), "one\n");
        assert_eq!(open_reader(&path).unwrap_err().kind(), ErrorKind::WouldBlock, "there is one reader");
        drop(keeper);
        server.write_all(b"two\n").unwrap();
        let keeper = open_reader(&path).unwrap();
        assert_eq!(text(&keeper), "two\n");

        // A pipe that is full makes nobody wait, and nobody fail for ever.
        let line = [b'x'; 1 << 16];
        let full = (0..1 << 10).find_map(|_| server.write_all(&line).err()).unwrap();
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        text(&keeper);
        server.write_all(b"three\n").unwrap();
        drop(server);
        let mut rest = Vec::new();
        std::fs::File::from(keeper).read_to_end(&mut rest).unwrap();
        assert!(rest.ends_with(b"three\n"));
    }

    #[test]
    fn no_link_and_no_file_of_others_is_a_log() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (directory.path().join("log"), directory.path().join("elsewhere"));
        drop(open_fifo(&elsewhere).unwrap());
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(open_reader(&path).is_err());
        drop(open_fifo(&path).unwrap());
        assert!(is_private_fifo(&path), "the link was replaced");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(open_reader(&path).is_err());
    }
}
