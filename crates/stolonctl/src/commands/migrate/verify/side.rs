//! The two servers that are compared, and the sessions with them.

use std::time::Duration;

use anyhow::Context;
use stolon_postgres::conninfo::{Conninfo, Place};
use stolon_postgres::foreign::{self, Door, Entry, ForeignProblem, ForeignSession};
use stolon_postgres::limit::Limit;
use stolon_runtime::Failure;
use tokio_postgres::SimpleQueryRow;
use tokio_util::sync::CancellationToken;

use super::super::legacy::trouble;
use super::checksum::{Abilities, EXTENDED_PROBE, EXTENDED_SINCE, Method, PAIR_PROBE};

/// How long a server may take to admit us.
const CONNECTING: Duration = Duration::from_secs(10);
/// For questions that a catalogue answers.
const QUESTION: Duration = Duration::from_secs(60);
/// For the sum of one chunk: minutes on a slow disk, never hours. A table is one chunk before 14.
const SUMMING: Duration = Duration::from_secs(4 * 3600);

/// SQLSTATE `serialization_failure`: what a standby ends a query with that its replay cannot wait for
/// (manual, "Handling Query Conflicts").
const CONFLICT: &str = "40001";

/// Which server is meant.
#[derive(Clone, Debug)]
pub enum Which {
    /// The primary among those that the connection string names.
    Primary,
    /// The first of them that lets us in.
    First,
    /// Another one with the same users, whose password stands in the password file under the name of its origin.
    CopyOf {
        /// Where it listens.
        place: Place,
        /// Where the origin does.
        origin: Place,
    },
}

/// One of the servers.
#[derive(Clone, Debug)]
pub struct Side {
    /// For people: `the legacy server`, `the cluster`.
    pub name: &'static str,
    /// How it is connected to.
    pub conninfo: Conninfo,
    /// Which of those that this could mean.
    pub which: Which,
    /// Calls everything off.
    pub cancel: CancellationToken,
}

/// Why a comparison did not come to its end.
#[derive(Debug)]
pub enum Interrupted {
    /// The standby ended it for the sake of its replay: worth another attempt.
    ByReplay,
    /// The server does not answer this question, in its words; the session can be asked another one.
    Refused(String),
    /// Everything else.
    For(anyhow::Error),
}

impl From<anyhow::Error> for Interrupted {
    fn from(error: anyhow::Error) -> Self {
        Interrupted::For(error)
    }
}

impl From<Interrupted> for anyhow::Error {
    fn from(interrupted: Interrupted) -> Self {
        match interrupted {
            Interrupted::ByReplay => {
                Failure::new("the standby ends every query that its replay would wait for")
                    .hint("raise max_standby_streaming_delay on the cluster for as long as it is compared")
                    .into()
            }
            Interrupted::Refused(why) => Failure::new(why).into(),
            Interrupted::For(error) => error,
        }
    }
}

impl Side {
    /// A session with a database. A superuser gets in, also where others are kept out for the switch.
    ///
    /// # Errors
    /// No server that is named lets us in.
    pub async fn connect(&self, database: &str) -> anyhow::Result<Session> {
        let entered = match &self.which {
            Which::Primary => {
                let limit = Limit::within(CONNECTING, &self.cancel);
                foreign::connect_primary(&self.conninfo, Some(database), Entry::PastLibraries, &limit).await
            }
            Which::First => self.first(database).await?,
            Which::CopyOf { place, origin } => self.enter(place, origin, database).await,
        };
        match entered {
            Ok(session) => Ok(Session { session, side: self.name, cancel: self.cancel.clone() }),
            Err(problem) => Err(trouble(&format!("{} cannot be compared", self.name), &problem).into()),
        }
    }

    async fn first(&self, database: &str) -> anyhow::Result<Result<ForeignSession, ForeignProblem>> {
        let mut met = None;
        for place in self.conninfo.places() {
            match self.enter(&place, &place, database).await {
                Ok(session) => return Ok(Ok(session)),
                Err(problem) => met = Some(Err(problem)),
            }
        }
        met.context("a connection string without a server")
    }

    async fn enter(
        &self,
        place: &Place,
        origin: &Place,
        database: &str,
    ) -> Result<ForeignSession, ForeignProblem> {
        let limit = Limit::within(CONNECTING, &self.cancel);
        let entry = Entry::PastLibraries;
        let door = Door { place, password_of: origin, database: Some(database), entry };
        foreign::enter(&self.conninfo, door, &limit).await
    }
}

/// A session with one of the servers.
pub struct Session {
    session: ForeignSession,
    side: &'static str,
    cancel: CancellationToken,
}

impl Session {
    /// The rows of a question.
    ///
    /// # Errors
    /// The server refuses it or does not answer in time.
    pub async fn rows(&self, sql: &str) -> anyhow::Result<Vec<SimpleQueryRow>> {
        Ok(self.tried(sql, QUESTION).await.map_err(|problem| self.trouble(&problem))?)
    }

    /// The same for what a standby may end.
    ///
    /// # Errors
    /// The standby ended it, or the server refuses it or does not answer in time.
    pub async fn sum(&self, sql: &str) -> Result<Vec<SimpleQueryRow>, Interrupted> {
        match self.tried(sql, SUMMING).await {
            Err(problem) if problem.code() == Some(CONFLICT) => Err(Interrupted::ByReplay),
            Err(problem) if problem.code().is_some() && !self.session.is_closed() => {
                Err(Interrupted::Refused(self.trouble(&problem).message))
            }
            Err(problem) => Err(Interrupted::For(self.trouble(&problem).into())),
            Ok(rows) => Ok(rows),
        }
    }

    /// The same with the problem as it is, for who knows what to do about it.
    ///
    /// # Errors
    /// As [`Session::rows`].
    pub async fn tried(&self, sql: &str, limit: Duration) -> Result<Vec<SimpleQueryRow>, ForeignProblem> {
        self.session.rows(sql, &Limit::within(limit, &self.cancel)).await
    }

    /// The one value of a question; null is the empty text.
    ///
    /// # Errors
    /// As [`Session::rows`], or no row came.
    pub async fn value(&self, sql: &str) -> anyhow::Result<String> {
        let rows = self.rows(sql).await?;
        let row = rows.first().context("an answer without a row")?;
        Ok(row.get(0).unwrap_or_default().to_owned())
    }

    /// A short sleep that a signal ends.
    ///
    /// # Errors
    /// A signal came.
    pub async fn pause(&self, duration: Duration) -> anyhow::Result<()> {
        Ok(Limit::unlimited(&self.cancel).pause("waiting", duration).await?)
    }

    fn trouble(&self, problem: &ForeignProblem) -> Failure {
        trouble(&format!("{} cannot be compared", self.side), problem)
    }

    /// What this server can be asked for.
    ///
    /// # Errors
    /// As [`Session::rows`].
    pub async fn abilities(&self) -> anyhow::Result<Abilities> {
        let sql =
            "SELECT current_setting('server_version_num')::int / 10000, current_setting('server_encoding')";
        let rows = self.rows(sql).await?;
        let row = rows.first().context("an answer without a row")?;
        let major: u16 = row.get(0).unwrap_or_default().parse()?;
        let extended = match major >= EXTENDED_SINCE {
            true => Some(self.value(EXTENDED_PROBE).await?),
            false => None,
        };
        let pair = self.value(PAIR_PROBE).await?;
        Ok(Abilities { major, encoding: row.get(1).unwrap_or_default().to_owned(), pair, extended })
    }

    /// Values are written as text the same way on both sides. `major`: of this one.
    ///
    /// # Errors
    /// As [`Session::rows`].
    pub async fn agree(&self, method: Method, major: u16) -> anyhow::Result<()> {
        self.rows(&method.session(major)).await.map(drop)
    }
}
