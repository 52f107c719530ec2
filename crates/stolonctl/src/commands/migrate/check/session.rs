//! One connection to the legacy server for looking only: nothing that it does is without a deadline, and it changes nothing.

use std::time::Duration;

use anyhow::Context;
use stolon_postgres::foreign::ForeignSession;
use stolon_postgres::limit::Limit;
use tokio_postgres::SimpleQueryRow;

use super::super::legacy::{Legacy, trouble};

/// How long the server may take for one question; it is told a little less.
const ANSWERING: Duration = Duration::from_secs(30);

/// Nothing is written, nothing waits for locks, and what a user put into a schema is not run.
const MANNERS: &str = "SET default_transaction_read_only = on; SET statement_timeout = '25s'; SET lock_timeout = '5s'; \
    SET search_path = pg_catalog; SET client_min_messages = error";

/// One connection.
pub struct Session {
    session: ForeignSession,
    limit: Limit,
}

impl Session {
    /// Connect and agree on manners. `database`: none for the one of the connection string, or `postgres`.
    ///
    /// # Errors
    /// The server does not admit us in time.
    pub async fn open(legacy: &Legacy, database: Option<&str>) -> anyhow::Result<Session> {
        let session = legacy
            .connect(database)
            .await
            .map_err(|problem| trouble("the legacy server cannot be looked at", &problem))?;
        let session = Session { session, limit: legacy.question() };
        session.rows(MANNERS).await?;
        Ok(session)
    }

    /// The rows of a query, all values as text.
    ///
    /// # Errors
    /// The server refuses it, or does not answer in time.
    pub async fn rows(&self, sql: &str) -> anyhow::Result<Vec<Row>> {
        let rows = self.session.rows(sql, &self.limit.renewed(ANSWERING)).await;
        let rows = rows.map_err(|problem| trouble("the legacy server does not tell", &problem))?;
        Ok(rows.into_iter().map(Row).collect())
    }

    /// How many bytes a COPY sends within `duration`, or until there are `most`. The connection ends with it.
    ///
    /// # Errors
    /// The server refuses it, or goes away.
    pub async fn copy_for(self, copy: &str, duration: Duration, most: u64) -> anyhow::Result<u64> {
        let received = self.session.copy_for(copy, &self.limit.renewed(duration), most).await;
        Ok(received.map_err(|problem| trouble("the legacy server does not copy", &problem))?)
    }
}

/// A row of an answer.
pub struct Row(SimpleQueryRow);

impl Row {
    /// The text in a column; null is the empty text.
    pub fn text(&self, column: usize) -> &str {
        self.optional(column).unwrap_or_default()
    }

    /// The text in a column.
    pub fn optional(&self, column: usize) -> Option<&str> {
        self.0.try_get(column).ok().flatten()
    }

    /// Whether a column says true.
    pub fn flag(&self, column: usize) -> bool {
        self.text(column) == "t"
    }

    /// The number in a column.
    ///
    /// # Errors
    /// It is none.
    pub fn number<N>(&self, column: usize) -> anyhow::Result<N>
    where
        N: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        let text = self.text(column);
        text.parse().with_context(|| format!("PostgreSQL says {text:?} where a number should be"))
    }

    /// The number in a column; null is none.
    ///
    /// # Errors
    /// There is something else.
    pub fn optional_number(&self, column: usize) -> anyhow::Result<Option<u64>> {
        self.optional(column).map(|_| self.number(column)).transpose()
    }
}
