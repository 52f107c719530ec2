//! The files with which PostgreSQL keeps two servers apart (PostgreSQL source, miscinit.c, pidfile.h): `postmaster.pid` in PGDATA and
//! one beside each socket. A killed server leaves them behind, and the number in them may be another process's by now.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use crate::error::{PostgresError, Result};
use crate::limit::Limit;
use crate::local::LocalPostgres;
use crate::process_table;

/// What a lock file of a server's socket means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockFile {
    /// There is none.
    Absent,
    /// Nothing was written into it yet, or ever.
    Empty {
        /// Since it was made.
        age: Duration,
    },
    /// The process that it names does not work in the data directory that it names.
    Stale,
    /// A server lives that it belongs to.
    Held {
        /// Of the postmaster.
        process: u32,
    },
}

impl LockFile {
    /// Reads the file of a socket.
    pub(crate) fn read(path: &Path) -> std::io::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::Absent),
            Err(error) => return Err(error),
        };
        if text.is_empty() {
            let made = std::fs::symlink_metadata(path)?.modified()?;
            return Ok(Self::Empty { age: made.elapsed().unwrap_or_default() });
        }
        let mut lines = text.lines();
        let process = lines.next().and_then(|line| line.trim().parse().ok());
        let directory = lines.next().unwrap_or_default();
        match process.filter(|process| process_table::works_in(*process, Path::new(directory))) {
            Some(process) => Ok(Self::Held { process }),
            None => Ok(Self::Stale),
        }
    }
}

/// What `postmaster.pid` says.
pub(crate) struct PidFile {
    pub(crate) pid: u32,
    /// What it listens on.
    pub(crate) port: String,
    /// Connections are accepted.
    pub(crate) ready: bool,
    /// Connections are not accepted yet.
    pub(crate) starting: bool,
    /// It was told to end.
    pub(crate) stopping: bool,
}

impl PidFile {
    fn parse(text: &str) -> Option<Self> {
        let pid = text.lines().next()?.trim().parse().ok()?;
        let status = text.lines().nth(7).unwrap_or_default().trim();
        Some(Self {
            pid,
            port: text.lines().nth(3).unwrap_or_default().trim().to_owned(),
            ready: matches!(status, "ready" | "standby"),
            starting: status == "starting",
            stopping: status == "stopping",
        })
    }
}

impl LocalPostgres {
    /// [`LocalPostgres::pid_file`], away from the keeper's thread.
    pub(crate) async fn read_pid_file(&self, limit: &Limit) -> Result<Option<PidFile>> {
        let server = self.clone();
        self.look_at_disk("reading postmaster.pid", limit, move || server.pid_file()).await
    }

    /// None while there is none, or only a part of it. May wait for the disk.
    pub(crate) fn pid_file(&self) -> Result<Option<PidFile>> {
        let path = self.data_directory().join("postmaster.pid");
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(PidFile::parse(&text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PostgresError::io("read", &path)(error)),
        }
    }

    /// The postmaster that runs in PGDATA, whoever started it.
    pub(crate) fn live_orphan(&self) -> Result<Option<u32>> {
        let directory = self.data_directory();
        let named = self.pid_file()?.map(|file| file.pid);
        let named = named.filter(|pid| process_table::works_in(*pid, &directory));
        Ok(named.or_else(|| process_table::postmaster_of(&directory)))
    }

    /// A pid file that names no process of this data directory, or nothing, would keep a server from starting.
    pub(crate) fn forget_stale_pid_file(&self) -> Result<()> {
        let path = self.data_directory().join("postmaster.pid");
        if !path.exists() {
            return Ok(());
        }
        if let Some(process) = self.live_orphan()? {
            return Err(PostgresError::AlreadyRuns { directory: self.data_directory(), process });
        }
        crate::files::remove_if_there(&path).map(|_| ())
    }
}
