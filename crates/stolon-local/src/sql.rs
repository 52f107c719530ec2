//! Connections to a PostgreSQL on this machine.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

/// A PostgreSQL on 127.0.0.1, or a proxy in front of one.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// Port.
    pub port: u16,
    /// User.
    pub user: String,
    /// Password.
    pub password: String,
    /// Database.
    pub database: String,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@127.0.0.1:{}/{}", self.user, self.port, self.database)
    }
}

/// One connection, which is closed with the session.
pub struct Session {
    /// The client's end.
    pub client: Client,
    /// A commit was acknowledged without the standbys that it should have waited for.
    wait_canceled: Arc<AtomicBool>,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Target {
    /// A URI for `psql` and for drivers, with the password.
    pub fn uri(&self) -> String {
        format!("postgres://{}:{}@127.0.0.1:{}/{}", self.user, self.password, self.port, self.database)
    }

    /// The same server, another database.
    pub fn database(&self, name: &str) -> Target {
        Target { database: name.to_owned(), ..self.clone() }
    }

    /// Connect within `limit`.
    ///
    /// # Errors
    /// PostgreSQL's own message, or that the time limit was reached.
    pub async fn connect(&self, limit: Duration) -> anyhow::Result<Session> {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .user(&self.user)
            .password(&self.password)
            .dbname(&self.database)
            .application_name("stolon local")
            .connect_timeout(limit);
        let Ok(connected) = tokio::time::timeout(limit, config.connect(NoTls)).await else {
            bail!("no connection to {self:?} within {limit:?}");
        };
        let (client, mut connection) =
            connected.map_err(readable).with_context(|| format!("connecting to {self:?}"))?;
        let wait_canceled = Arc::new(AtomicBool::new(false));
        let canceled = wait_canceled.clone();
        let connection = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                // "canceling wait for synchronous replication …": a plain warning, so only its code can be
                // relied on (PostgreSQL manual, "PostgreSQL Error Codes", class 01).
                if let AsyncMessage::Notice(notice) = message
                    && notice.code().code() == "01000"
                {
                    canceled.store(true, Ordering::SeqCst);
                }
            }
        });
        Ok(Session { client, wait_canceled, connection })
    }
}

impl Session {
    /// Run statements and return the rows of the last one, all values as text.
    ///
    /// # Errors
    /// PostgreSQL's own message, or that the time limit was reached.
    pub async fn rows(&self, sql: &str, limit: Duration) -> anyhow::Result<Vec<SimpleQueryRow>> {
        let Ok(answer) = tokio::time::timeout(limit, self.client.simple_query(sql)).await else {
            bail!("no answer within {limit:?} to: {sql}");
        };
        let mut rows = Vec::new();
        for message in answer.map_err(readable).with_context(|| format!("in: {sql}"))? {
            match message {
                SimpleQueryMessage::Row(row) => rows.push(row),
                SimpleQueryMessage::RowDescription(_) => rows.clear(),
                _ => {}
            }
        }
        Ok(rows)
    }

    /// The one value that a query returns, as text; null is the empty text.
    ///
    /// # Errors
    /// As [`Session::rows`], or that no row came.
    pub async fn value(&self, sql: &str, limit: Duration) -> anyhow::Result<String> {
        let rows = self.rows(sql, limit).await?;
        let row = rows.first().with_context(|| format!("no row from: {sql}"))?;
        Ok(row.get(0).unwrap_or_default().to_owned())
    }

    /// True at the first call after a commit was acknowledged without the standbys that it should have waited for.
    pub(crate) fn take_wait_canceled(&self) -> bool {
        self.wait_canceled.swap(false, Ordering::SeqCst)
    }
}

/// PostgreSQL's own message, which the client library keeps one level down.
fn readable(error: tokio_postgres::Error) -> anyhow::Error {
    match error.as_db_error() {
        Some(said) => anyhow::anyhow!("{}: {} ({})", said.severity(), said.message(), said.code().code()),
        None => anyhow::Error::new(error),
    }
}
