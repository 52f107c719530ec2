//! What can go wrong with one PostgreSQL, in sentences that an operator can act on.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use stolon_model::with_causes;

/// The result of every fallible call of this crate.
pub type Result<T, E = PostgresError> = std::result::Result<T, E>;

/// Why a call did not do what it was asked. `Display` is one sentence without secrets;
/// [`PostgresError::hint`] says what to do about it where that is known.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The caller's deadline passed.
    #[error("{what} did not end in time")]
    Timeout {
        /// What was waited for.
        what: String,
    },
    /// The caller called it off.
    #[error("{what} was called off")]
    Cancelled {
        /// What was under way.
        what: String,
    },
    /// A file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation and the path.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A program could not be started.
    #[error("cannot run {program}: {source}")]
    Spawn {
        /// Its path.
        program: String,
        /// The cause.
        source: std::io::Error,
    },
    /// `pg_rewind` recovers data that did not end in order, and cannot do that as a standby. As a primary they would write a checkpoint
    /// where the source goes on with something else, on the same timeline: `pg_rewind` would find nothing to do, and the data
    /// could follow nobody any more.
    #[error("a standby that did not end in order cannot be rewound")]
    StandbyCrashed,
    /// What was rewound has to replay WAL before it is consistent that its source has not any more.
    #[error("what was rewound cannot follow its source: {words}")]
    LacksWal {
        /// What the server said.
        words: String,
    },
    /// A child tool ended with a failure.
    #[error("{tool} failed: {explanation}")]
    Tool {
        /// Its name, such as `pg_basebackup`.
        tool: String,
        /// One sentence made from its last words.
        explanation: String,
        /// Its last lines, passwords removed.
        tail: Vec<String>,
    },
    /// A disk is full: the last words of a tool or of the server said so.
    #[error("no space left on {disk} while {what}")]
    DiskFull {
        /// What ran out of space.
        what: String,
        /// Whose disk it is.
        disk: Disk,
    },
    /// The server ended while it was waited for.
    #[error("PostgreSQL ended ({status}): {explanation}")]
    ServerExited {
        /// Exit code or signal in words.
        status: String,
        /// One sentence made from the server's last words.
        explanation: String,
        /// The last lines of its log.
        tail: Vec<String>,
    },
    /// No server of ours runs.
    #[error("PostgreSQL is not running")]
    NotRunning,
    /// A server runs in PGDATA that this keeper did not start.
    #[error("a PostgreSQL that this keeper did not start runs in {} (process {process})", directory.display())]
    AlreadyRuns {
        /// PGDATA.
        directory: PathBuf,
        /// Of the postmaster.
        process: u32,
    },
    /// Another process listens where our server is to listen. Nothing was touched.
    #[error("port {port} of {address} is taken by another process, so that PostgreSQL could not run here")]
    PortTaken {
        /// One of the addresses of `--pg-listen-address`.
        address: IpAddr,
        /// `--pg-port`.
        port: u16,
    },
    /// Whoever answers is not the server that this keeper started. It was not logged in to, or nothing was done there.
    #[error("at {address} answers what is not this keeper's PostgreSQL: {mismatch}; it is left alone")]
    Stranger {
        /// Path of the socket.
        address: String,
        /// How it shows.
        mismatch: Mismatch,
    },
    /// A query failed.
    #[error("{what}: {message}")]
    Sql {
        /// What the query was for.
        what: String,
        /// The server's message, or why there was no connection.
        message: String,
        /// SQLSTATE when the server answered.
        code: Option<String>,
    },
    /// The source of a copy cannot be used; nothing was touched.
    #[error("{0}")]
    Source(#[from] crate::source::SourceProblem),
    /// The data must be kept, and cannot be moved away.
    #[error("the data of another cluster in {} must not be lost, and cannot be moved to {}", directory.display(), kept.display())]
    CannotBeSetAside {
        /// Where it is.
        directory: PathBuf,
        /// Where it should be.
        kept: PathBuf,
    },
    /// A tablespace cannot be copied to its place. Nothing was touched.
    #[error("the directory {} of a tablespace holds what this keeper has not put there", directory.display())]
    ForeignTablespace {
        /// Where the tablespace would be.
        directory: PathBuf,
    },
    /// Something on disk or in an answer is not what it must be.
    #[error("{0}")]
    Invalid(String),
}

/// How a server shows that it is not ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It runs as another user.
    #[error("it runs as user {found}, not {wanted}")]
    User {
        /// Its uid.
        found: u32,
        /// Ours.
        wanted: u32,
    },
    /// It is another process.
    #[error("it is process {found}, not {wanted}")]
    Process {
        /// Of whoever listens; 0 when the kernel does not tell.
        found: u32,
        /// Of the postmaster that we started.
        wanted: u32,
    },
    /// It has other data.
    #[error("it works in {found}, not in {wanted}")]
    DataDirectory {
        /// Its `data_directory`.
        found: String,
        /// Ours.
        wanted: String,
    },
    /// Its data are those of another cluster.
    #[error("it has the system identifier {found}, not {wanted}")]
    SystemIdentifier {
        /// What it says.
        found: String,
        /// What our control file says.
        wanted: String,
    },
}

/// Whose disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// The one that our data are on.
    Ours,
    /// The one of the server that is copied from.
    Source,
}

impl std::fmt::Display for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ours => "device",
            Self::Source => "the device of the server that is copied from",
        })
    }
}

impl PostgresError {
    /// What to do about it, without the word "hint:".
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Spawn { program, .. } => {
                Some(format!("is {program} installed, and is --pg-bin-path the directory that holds it?"))
            }
            Self::DiskFull { disk: Disk::Ours, .. } => {
                Some("free some space; the keeper tries again by itself".to_owned())
            }
            Self::DiskFull { disk: Disk::Source, .. } => Some(
                "free some space where the data are copied from; the keeper tries again by itself, and keeps what is here"
                    .to_owned(),
            ),
            Self::Source(problem) => problem.hint(),
            Self::PortTaken { .. } => {
                Some("stop what listens there, or give this keeper another --pg-port".to_owned())
            }
            Self::CannotBeSetAside { .. } => Some(
                "move the data away by hand, or agree to lose them: stolonctl init makes the cluster anew and has keepers overwrite"
                    .to_owned(),
            ),
            Self::ForeignTablespace { .. } => Some(
                "look at what it holds and empty it if nobody needs that, or put the tablespace elsewhere here with --tablespace-mapping"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// True when the caller's own cancellation ended it.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled { .. })
    }

    pub(crate) fn io(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let what = format!("cannot {what} {}", path.display());
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull => {
                Self::DiskFull { what: what.replacen("cannot ", "trying to ", 1), disk: Disk::Ours }
            }
            _ => Self::Io { what, source },
        }
    }

    pub(crate) fn sql(what: &str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let what = format!("cannot {what}");
        move |error| {
            let (message, code) = match error.as_db_error() {
                Some(answer) => (answer.message().to_owned(), Some(answer.code().code().to_owned())),
                None => (with_causes(&error), None),
            };
            Self::Sql { what, message, code }
        }
    }
}
