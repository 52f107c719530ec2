//! The legacy server: what the database moves away from.

use std::time::Duration;

use stolon_model::Migration;
use stolon_postgres::conninfo::{Conninfo, Place};
use stolon_postgres::foreign::{self, Entry, ForeignProblem, ForeignSession};
use stolon_postgres::limit::Limit;
use stolon_runtime::{Failure, UsageError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::wait::{Seen, until};

/// SQLSTATE `insufficient_privilege`.
const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// SQLSTATE `too_many_connections`.
pub const TOO_MANY_CONNECTIONS: &str = "53300";
/// How long one of the connections may take to become free on a server at its limit.
const ROOM: Duration = Duration::from_secs(3);
/// Between two attempts to get one.
const ATTEMPTS: Duration = Duration::from_millis(50);
/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(10);

/// Which legacy server is meant.
#[derive(Debug, clap::Args)]
pub struct SourceArgs {
    /// Connection string of the legacy server, as a superuser and without a password: name a passfile=FILE in it. Without it the
    /// one that the migration was started with
    #[arg(long, value_name = "CONNINFO")]
    pub source: Option<String>,
}

impl SourceArgs {
    /// The legacy server that the command line names, else the one of the record.
    ///
    /// # Errors
    /// The connection string cannot be used, or there is none.
    pub fn legacy(
        &self,
        record: Option<&Migration>,
        cancel: &CancellationToken,
    ) -> Result<Legacy, UsageError> {
        let recorded = record.map(|record| record.source.as_str()).filter(|source| !source.is_empty());
        let text = self.source.as_deref().or(recorded).ok_or_else(|| {
            UsageError::new("no migration is under way, so --source must say where the legacy server is")
                .hint("for example --source 'host=legacy user=postgres passfile=/run/secrets/legacy'")
        })?;
        Ok(Legacy { conninfo: parse(text, "--source")?, cancel: cancel.clone() })
    }
}

/// Read a connection string that `flag` was given.
///
/// # Errors
/// It cannot be read, lacks something, or holds a password.
pub fn parse(text: &str, flag: &str) -> Result<Conninfo, UsageError> {
    Conninfo::parse(text).map_err(|bad| UsageError::because(format!("{flag} cannot be used"), &bad))
}

/// The legacy server.
#[derive(Clone, Debug)]
pub struct Legacy {
    /// How it is connected to.
    pub conninfo: Conninfo,
    cancel: CancellationToken,
}

impl Legacy {
    /// Time for one question, which a signal cuts short.
    pub fn question(&self) -> Limit {
        self.within(QUESTION)
    }

    /// So much time, which a signal cuts short.
    pub fn within(&self, duration: Duration) -> Limit {
        Limit::within(duration, &self.cancel)
    }

    /// The first of its servers, for whose password others are entered that are copies of it.
    pub fn first_place(&self) -> Place {
        let first = self.conninfo.places().into_iter().next();
        first.unwrap_or_else(|| Place { host: String::new(), port: String::new() })
    }

    /// A session with the primary, as any client has it. `database`: none for the one of the connection string, or `postgres`.
    ///
    /// # Errors
    /// No server that the connection string names is a primary and lets us in.
    pub async fn connect(&self, database: Option<&str>) -> Result<ForeignSession, ForeignProblem> {
        self.enter(database, Entry::Ordinary).await
    }

    /// On a server at its connection limit clients come and go.
    async fn enter(&self, database: Option<&str>, entry: Entry) -> Result<ForeignSession, ForeignProblem> {
        until(ATTEMPTS, Instant::now() + ROOM, async || {
            match foreign::connect_primary(&self.conninfo, database, entry, &self.question()).await {
                Err(problem) if problem.code() == Some(TOO_MANY_CONNECTIONS) => Ok(Seen::NotYet(problem)),
                entered => entered.map(Seen::Done),
            }
        })
        .await
    }

    /// A session that changes nothing: past the fence where that is possible.
    ///
    /// # Errors
    /// As [`Legacy::connect`].
    pub async fn connect_to_look(&self) -> Result<ForeignSession, ForeignProblem> {
        match self.connect_past_fence().await {
            // Not everybody may.
            Err(problem) if problem.code() == Some(INSUFFICIENT_PRIVILEGE) => self.connect(None).await,
            connected => connected,
        }
    }

    /// The same server, for what goes on after a signal.
    #[must_use]
    pub fn uninterrupted(&self) -> Legacy {
        Legacy { conninfo: self.conninfo.clone(), cancel: CancellationToken::new() }
    }

    /// A session with the primary that gets in where the fence keeps others out.
    ///
    /// # Errors
    /// As [`Legacy::connect`]; or the user is no superuser.
    pub async fn connect_past_fence(&self) -> Result<ForeignSession, ForeignProblem> {
        self.enter(None, Entry::PastLibraries).await
    }

    /// [`Legacy::connect_past_fence`] to one of its databases.
    ///
    /// # Errors
    /// The same.
    pub async fn database_past_fence(&self, database: &str) -> Result<ForeignSession, ForeignProblem> {
        self.enter(Some(database), Entry::PastLibraries).await
    }
}

/// What could not be done with the legacy server, for people.
pub fn trouble(what: &str, problem: &ForeignProblem) -> Failure {
    Failure::because(what, problem)
}
